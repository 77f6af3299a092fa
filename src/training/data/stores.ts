/** Where items come from: folders of files decoded by threads, shards, and either of them kept in memory. */
import { EmigmError } from '../../errors.ts';
import type { ClassFolders } from '../../formats/class_folders.ts';
import type { DecodePool } from '../../formats/decode_pool.ts';
import type { Shard } from '../../formats/shard.ts';
import type { ItemStore } from './types.ts';

type Row = Uint8Array | Float32Array;

/** Pictures of class folders, cropped to `size` pixels of a side. Closing it closes the pool. */
export function pictureFolder(folders: ClassFolders, size: number, pool: DecodePool): ItemStore<Uint8Array> {
  return {
    classes: folders.classes,
    labels: folders.labels,
    shape: [size, size, 3],
    mirrored: false,
    read: async (index) =>
      (await pool.decode({ kind: 'picture', path: folders.files[index], size })).data as Uint8Array,
    close: () => pool.close(),
  };
}

/**
 * Cached latents of class folders, as the official `main_cache.py` writes them: arrays `moments` [2C, H, W] and
 * `moments_flip` of the mirrored image. The first file tells the shape; others must have the same.
 * @throws EmigmError('file')
 */
export async function latentFolder(folders: ClassFolders, pool: DecodePool): Promise<ItemStore<Float32Array>> {
  const [first] = folders.files;
  const { shape } = await pool.decode({ kind: 'npz', path: first, array: 'moments' });
  if (shape.length !== 3)
    throw new EmigmError('file', `${first}: moments have shape [${shape}], not [channels, height, width]`);
  return {
    classes: folders.classes,
    labels: folders.labels,
    shape,
    mirrored: true,
    async read(index, mirrored = false) {
      const path = folders.files[index];
      const array = mirrored ? 'moments_flip' : 'moments';
      const decoded = await pool.decode({ kind: 'npz', path, array });
      if (decoded.shape.join() !== shape.join()) {
        throw new EmigmError('file', `${path}: ${array} have shape [${decoded.shape}], those of ${first} [${shape}]`);
      }
      return decoded.data as Float32Array;
    },
    close: () => pool.close(),
  };
}

/** Items of an open shard. Closing it closes the shard. */
export function shardStore<R extends Row>(shard: Shard): ItemStore<R> {
  const { classes, labels, shape, mirrored } = shard;
  return {
    classes,
    labels,
    shape,
    mirrored,
    read: (index, flip) => shard.read(index, flip) as Promise<Row> as Promise<R>,
    close: () => shard.close(),
  };
}

export interface KeepOptions {
  /** The type of a row. */
  readonly array: Uint8ArrayConstructor | Float32ArrayConstructor;
  /** Keep mirrored items too. */
  readonly mirrored: boolean;
  /** Items that cannot be read are remembered as such, instead of ending it. */
  readonly tolerant: boolean;
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** Bytes that `keepInMemory` takes. */
export function bytesInMemory(
  store: ItemStore<Row>,
  { array, mirrored }: Pick<KeepOptions, 'array' | 'mirrored'>,
): number {
  const row = store.shape.reduce((a, b) => a * b, 1) * array.BYTES_PER_ELEMENT;
  return store.labels.length * row * (mirrored ? 2 : 1);
}

/** Items read at once while a store is taken into memory: enough to keep all threads busy. */
const AT_ONCE = 64;

/**
 * Reads every item once; the store in memory then gives what `store` gave, errors included. `store` is closed.
 * @throws EmigmError of the first item that cannot be read, unless `tolerant`; 'aborted'
 */
export async function keepInMemory<R extends Row>(store: ItemStore<R>, options: KeepOptions): Promise<ItemStore<R>> {
  const { mirrored, tolerant, onProgress, signal } = options;
  const { labels, classes, shape } = store;
  const variants = mirrored ? 2 : 1;
  const rowLength = shape.reduce((a, b) => a * b, 1);
  const rows = new options.array(labels.length * variants * rowLength);
  const errors = new Map<number, EmigmError>();
  const total = labels.length * variants;
  try {
    let next = 0;
    let done = 0;
    const reader = async () => {
      while (next < total) {
        if (signal?.aborted) throw new EmigmError('aborted', 'stopped while the data was read');
        const at = next++;
        try {
          rows.set(await store.read(Math.floor(at / variants), at % variants === 1), at * rowLength);
        } catch (error) {
          if (!(tolerant && error instanceof EmigmError && error.code === 'file')) {
            next = total; // the others need not go on
            throw error;
          }
          errors.set(at, error);
        }
        onProgress?.(++done, total);
      }
    };
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, total) }, reader));
  } finally {
    await store.close();
  }
  return {
    labels,
    classes,
    shape,
    mirrored,
    async read(index, flip = false) {
      const at = index * variants + (flip ? 1 : 0);
      const error = errors.get(at);
      if (error) throw error;
      return rows.subarray(at * rowLength, (at + 1) * rowLength) as R;
    },
    close: async () => {},
  };
}
