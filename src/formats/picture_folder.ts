/** Writes pictures into class folders, all or none. */
import { randomBytes } from 'node:crypto';
import { readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { EmigmError } from '../errors.ts';
import { reason } from './files.ts';
import { makeFolders } from './folders.ts';
import { writePng } from './images.ts';
import type { RgbImage } from './rgb.ts';

export interface PictureFolderOptions {
  readonly classes: readonly string[];
  readonly count: number;
  /** Replace class folders of these names in a folder that is not empty. */
  readonly force?: boolean;
  draw(index: number): RgbImage & { readonly label: number };
  readonly onProgress?: (done: number) => void;
  readonly signal?: AbortSignal;
}

/** Pictures that are compressed at once. */
const AT_ONCE = 16;

/**
 * Writes `split/CLASS/000000.png` ... into `folder`. All are written into a hidden folder first, which then takes its
 * place, so that a stopped command leaves nothing behind.
 * @throws EmigmError 'input' when the folder is not empty, unless `force`; 'file' when the disk refuses; 'aborted'
 */
export async function writePictureFolder(folder: string, split: string, options: PictureFolderOptions): Promise<void> {
  const { classes, count, force = false, draw, onProgress, signal } = options;
  await refuseFull(folder, force);
  const target = join(folder, split);
  const temporary = join(folder, `.${split}-${process.pid}-${randomBytes(4).toString('hex')}.tmp`);
  try {
    makeFolders(folder);
    for (const name of classes) makeFolders(join(temporary, name));
    for (let first = 0; first < count; first += AT_ONCE) {
      if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
      const numbers = Array.from({ length: Math.min(AT_ONCE, count - first) }, (_, i) => first + i);
      await Promise.all(
        numbers.map((index) => {
          const { label, ...image } = draw(index);
          return writePng(join(temporary, classes[label], `${String(index).padStart(6, '0')}.png`), image);
        }),
      );
      onProgress?.(first + numbers.length);
    }
    makeFolders(target);
    for (const name of classes) {
      await rm(join(target, name), { recursive: true, force: true });
      await rename(join(temporary, name), join(target, name));
    }
  } catch (error) {
    if (error instanceof EmigmError) throw error;
    throw new EmigmError('file', `${folder}: could not be written: ${reason(error)}`, { cause: error });
  } finally {
    await rm(temporary, { recursive: true, force: true }).catch(() => {});
  }
}

async function refuseFull(folder: string, force: boolean): Promise<void> {
  const names = await readdir(folder).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') return [];
    const what = cause.code === 'ENOTDIR' ? 'is a file, not a folder' : reason(cause);
    throw new EmigmError('file', `${folder}: ${what}`, { cause });
  });
  if (names.length > 0 && !force) {
    throw new EmigmError('input', `${folder} is not empty; name another folder, or replace its pictures by --force`);
  }
}
