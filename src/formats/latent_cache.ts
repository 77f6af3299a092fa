/**
 * A folder of cached latents, one `.npz` a picture, in the class folders of the pictures: `moments` and `moments_flip`,
 * as the official `main_cache.py` writes them. Files appear whole or not at all, so that work that was killed goes on.
 */
import { createHash } from 'node:crypto';
import { access, readdir, readFile, unlink } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { EmigmError } from '../errors.ts';
import type { ClassFolders } from './class_folders.ts';
import { openRangeFile, reason, writeAtomically } from './files.ts';
import { makeFolders } from './folders.ts';
import { writeNpz } from './npz.ts';

/** What all files of a cache have in common. */
export interface LatentCacheRecord {
  /** Kind of the tokenizer, and what its file is recognised by. */
  readonly tokenizer: string;
  readonly fingerprint: string;
  /** Pixels of a side that pictures were cropped to. */
  readonly size: number;
}

const RECORD = '.encode.json';
/** Temporary names of `writeAtomically`, with the process that wrote them. */
const TEMPORARY = /\.npz\.(\d+)-[0-9a-f]{8}\.tmp$/;

/** Recognises a file without reading all of it: its size, and a megabyte from either end. */
export async function fingerprint(path: string): Promise<string> {
  const file = await openRangeFile(path);
  try {
    const part = Math.min(file.size, 1 << 20);
    const hash = createHash('sha256').update(String(file.size));
    hash.update(await file.read(0, part)).update(await file.read(file.size - part, part));
    return hash.digest('hex').slice(0, 32);
  } finally {
    await file.close();
  }
}

/** Pictures first .. end - 1. */
export interface Part {
  readonly first: number;
  readonly end: number;
}

export class LatentCache {
  readonly folder: string;
  private readonly pictures: ClassFolders;
  private readonly part: Part;

  private constructor(folder: string, pictures: ClassFolders, part: Part) {
    this.folder = folder;
    this.pictures = pictures;
    this.part = part;
  }

  /**
   * Opens a cache for the latents of `pictures`, or begins one. What a killed process left half-written is removed; with
   * a `part`, of these pictures alone, as other processes, perhaps on other machines, are writing the rest.
   * @throws EmigmError 'input' when the folder holds latents of another tokenizer or size, 'file' when the disk refuses
   */
  static async open(
    folder: string,
    pictures: ClassFolders,
    record: LatentCacheRecord,
    part?: Part,
  ): Promise<LatentCache> {
    const cache = new LatentCache(folder, pictures, part ?? { first: 0, end: pictures.files.length });
    try {
      for (const name of pictures.classes) makeFolders(join(folder, name));
      await removeTemporary(folder, part && new Set(cache.numbers().map((index) => cache.path(index))));
    } catch (cause) {
      if (cause instanceof EmigmError) throw cause;
      throw new EmigmError('file', `${folder}: cannot be listed: ${reason(cause)}`, { cause });
    }
    const path = join(folder, RECORD);
    const text = `${JSON.stringify(record, null, 2)}\n`;
    const before = await readFile(path, 'utf8').catch(() => undefined);
    if (before === undefined) await writeAtomically(path, (put) => put(Buffer.from(text)));
    else if (before !== text) {
      throw new EmigmError(
        'input',
        `${folder}: holds latents of another tokenizer or size (see ${RECORD} in it); name another folder`,
      );
    }
    return cache;
  }

  /** Where the latents of a picture are: its path in its class folder, with `.npz` behind. */
  path(index: number): string {
    return join(this.folder, `${relative(this.pictures.root, this.pictures.files[index])}.npz`);
  }

  /** Numbers of the pictures that this process is to encode. */
  numbers(): number[] {
    const { first, end } = this.part;
    return Array.from({ length: end - first }, (_, i) => first + i);
  }

  /** Numbers of those whose latents are not there yet. */
  async missing(): Promise<number[]> {
    const numbers: number[] = [];
    for (const index of this.numbers()) {
      await access(this.path(index)).catch(() => numbers.push(index));
    }
    return numbers;
  }

  /** Writes the latents of a picture and of its mirror image, each [channels, height, width]. */
  async write(
    index: number,
    shape: readonly number[],
    data: Float32Array<ArrayBuffer>,
    flip: Float32Array<ArrayBuffer>,
  ): Promise<void> {
    const path = this.path(index);
    makeFolders(dirname(path));
    const tensor = (values: Float32Array<ArrayBuffer>) => ({ dtype: 'F32' as const, shape, data: values });
    await writeNpz(path, { moments: tensor(data), moments_flip: tensor(flip) });
  }
}

/** Of all files, or of `own`. */
async function removeTemporary(folder: string, own?: ReadonlySet<string>): Promise<void> {
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const writer = TEMPORARY.exec(entry.name);
    if (!writer || isRunning(Number(writer[1]))) continue;
    const path = join(entry.parentPath, entry.name);
    if (!own || own.has(path.replace(TEMPORARY, '.npz'))) await unlink(path);
  }
}

function isRunning(process_: number): boolean {
  if (process_ === process.pid) return false;
  try {
    process.kill(process_, 0); // asks only
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
