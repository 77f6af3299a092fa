/** Files of latents of any kind: of `emigm sample`, cached ones (`.npz`), shards, plain arrays. Read item by item. */
import { extname } from 'node:path';
import { EmigmError } from '../errors.ts';
import { type DType, type StoredArray, toFloat32 } from './dtype.ts';
import { readNpy, readNpz } from './npz.ts';
import { openSafetensors } from './safetensors.ts';
import { openShard } from './shard.ts';

export interface LatentFile {
  readonly count: number;
  /** Of one item: [channels, height, width]; twice the channels where they are moments. */
  readonly shape: readonly number[];
  /** Whether these are as the encoder makes them (cached), or as models draw them, multiplied by a scale. */
  readonly isCached: boolean;
  read(index: number): Promise<Float32Array>;
  close(): Promise<void>;
}

/** Names under which arrays of latents are found, in this order. Cached ones are `moments`. */
const NAMES = ['moments', 'latents'];

/** Opens a file of latents [n, channels, height, width] or of one. @throws EmigmError 'file' when it holds none */
export async function openLatentFile(path: string): Promise<LatentFile> {
  const suffix = extname(path).toLowerCase();
  if (suffix === '.npy') {
    const { dtype, shape, data } = await readNpy(path);
    return inMemory(path, dtype, shape, data, false);
  }
  if (suffix === '.npz') {
    const arrays = await readNpz(path);
    const name = NAMES.find((one) => arrays.has(one)) ?? (arrays.size === 1 ? [...arrays.keys()][0] : undefined);
    if (name === undefined) throw none(path, [...arrays.keys()]);
    const { dtype, shape, data } = arrays.get(name)!;
    return inMemory(path, dtype, shape, data, name === 'moments');
  }
  const file = await openSafetensors(path);
  try {
    if (file.metadata.format === 'emigm-wgsl data') return await shard(path);
    const name = NAMES.find((one) => file.tensors.has(one));
    if (name === undefined) throw none(path, [...file.tensors.keys()]);
    return inMemory(path, 'F32', file.tensors.get(name)!.shape, await file.readFloat32(name), name === 'moments');
  } finally {
    await file.close();
  }
}

function none(path: string, names: readonly string[]): EmigmError {
  return new EmigmError(
    'file',
    `${path}: holds no latents: no ${NAMES.join(' or ')} among ${names.join(', ') || 'nothing'}`,
  );
}

async function shard(path: string): Promise<LatentFile> {
  const opened = await openShard(path);
  const { content, shape, labels, read, close } = opened;
  if (content === 'images') {
    await close();
    throw new EmigmError('file', `${path}: holds pictures, no latents`);
  }
  return {
    count: labels.length,
    shape,
    isCached: true,
    read: async (index) => (await read(index)) as Float32Array,
    close,
  };
}

function inMemory(
  path: string,
  dtype: DType,
  shape: readonly number[],
  data: StoredArray,
  isCached: boolean,
): LatentFile {
  if (shape.length !== 3 && shape.length !== 4) {
    throw new EmigmError('file', `${path}: an array of shape [${shape.join(', ')}], not [n, channels, height, width]`);
  }
  const item = shape.slice(-3);
  const size = item.reduce((a, b) => a * b, 1);
  const values = toFloat32(dtype, data);
  return {
    count: shape.length === 3 ? 1 : shape[0],
    shape: item,
    isCached,
    read: async (index) => values.subarray(index * size, (index + 1) * size),
    close: async () => {},
  };
}
