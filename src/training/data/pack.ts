/** Packs a folder of class folders into a shard. */
import { EmigmError } from '../../errors.ts';
import { listClassFolders } from '../../formats/class_folders.ts';
import { DecodePool } from '../../formats/decode_pool.ts';
import { fromFloat32 } from '../../formats/dtype.ts';
import { writeShard } from '../../formats/shard.ts';
import { latentFolder, pictureFolder } from './stores.ts';
import type { ItemStore } from './types.ts';

export interface PackOptions {
  /** Pixels of a side; pictures only. */
  size?: number;
  /** How latents are stored; f32, as cached, by default. */
  dtype?: 'f16' | 'f32';
  /** What cached latents are: moments of a posterior, by default, or the latents of a tokenizer without one. */
  latents?: 'moments' | 'latents';
  /** Leave out pictures that cannot be read, with a warning. */
  skipUnreadable?: boolean;
  threads?: number;
  onWarning?: (message: string) => void;
  onProgress?: (done: number, total: number) => void;
  signal?: AbortSignal;
}

/** Items that are decoded ahead of the one that is written. */
const AHEAD = 64;

/**
 * Writes the pictures (cropped to `size`) or cached latents of `folder` as one shard, in the order of their class
 * numbers and names. Returns what it holds. Memory does not grow with the data set.
 * @throws EmigmError 'file' when there is nothing to pack, a file cannot be read or the disk refuses; 'input' when
 *   the size of pictures is not said; 'aborted'
 */
export async function packFolder(
  folder: string,
  out: string,
  options: PackOptions = {},
): Promise<{ kind: 'pictures' | 'latents'; size: number; classes: readonly string[]; shape: readonly number[] }> {
  const { size, dtype = 'f32', skipUnreadable = false, threads, onWarning, onProgress, signal } = options;
  const folders = await listClassFolders(folder);
  const { kind } = folders;
  if (folders.ignored > 0)
    onWarning?.(`${folders.root}: ${folders.ignored} files are not of a kind that is read, left out`);
  if (kind === 'pictures' && size === undefined) {
    throw new EmigmError(
      'input',
      `${folder}: holds pictures; say how many pixels of a side to crop them to: --size 32`,
    );
  }
  const pool = new DecodePool(threads);
  try {
    const store: ItemStore<Uint8Array | Float32Array> =
      kind === 'pictures' ? pictureFolder(folders, size as number, pool) : await latentFolder(folders, pool);
    const variants = store.mirrored ? 2 : 1;
    const total = folders.files.length * variants;
    let done = 0;

    /** Items in order, with those after them under way; an error comes when its item's turn does. */
    async function* items(numbers: readonly number[], mirrored: boolean) {
      const under: Promise<Uint8Array | Float32Array>[] = [];
      let next = 0;
      while (under.length > 0 || next < numbers.length) {
        if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
        while (under.length < AHEAD && next < numbers.length) {
          const item = store.read(numbers[next++], mirrored);
          item.catch(() => {});
          under.push(item);
        }
        yield await (under.shift() as Promise<Uint8Array | Float32Array>);
        onProgress?.(++done, total);
      }
    }

    const all = Array.from(folders.files.keys());
    const kept = skipUnreadable ? await readable(store, all, onWarning, signal) : all;
    if (kept.length === 0) throw new EmigmError('file', `${folder}: none of its files can be read`);
    await writeShard(out, {
      content: kind === 'pictures' ? 'images' : (options.latents ?? 'moments'),
      dtype: kind === 'pictures' ? 'U8' : dtype === 'f16' ? 'F16' : 'F32',
      shape: store.shape,
      classes: store.classes,
      labels: Int32Array.from(kept, (index) => store.labels[index]),
      mirrored: store.mirrored,
      async *items(mirrored) {
        for await (const item of items(kept, mirrored)) {
          yield dtype === 'f16' && item instanceof Float32Array ? half(item) : item;
        }
      },
    });
    return { kind, size: kept.length, classes: store.classes, shape: store.shape };
  } finally {
    await pool.close();
  }
}

const half = (values: Float32Array) => fromFloat32('F16', values as Float32Array<ArrayBuffer>) as Uint16Array;

/** Those that can be read: each is read once for it, because a shard says at its beginning how many it holds. */
async function readable(
  store: ItemStore<Uint8Array | Float32Array>,
  numbers: readonly number[],
  onWarning: PackOptions['onWarning'],
  signal: AbortSignal | undefined,
): Promise<number[]> {
  const good = new Array<boolean>(numbers.length).fill(false);
  let next = 0;
  const reader = async () => {
    while (next < numbers.length) {
      if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
      const index = next++;
      try {
        await store.read(index);
        if (store.mirrored) await store.read(index, true);
        good[index] = true;
      } catch (error) {
        if (!(error instanceof EmigmError) || error.code !== 'file') throw error;
        onWarning?.(`skipped: ${error.message}`);
      }
    }
  };
  await Promise.all(Array.from({ length: AHEAD }, reader));
  return numbers.filter((index) => good[index]);
}
