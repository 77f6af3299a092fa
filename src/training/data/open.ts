/** Opens training data of any kind: a folder of pictures or cached latents, or a shard. */
import { EmigmError } from '../../errors.ts';
import { type ClassFolders, listClassFolders } from '../../formats/class_folders.ts';
import { DecodePool } from '../../formats/decode_pool.ts';
import { openShard, type Shard } from '../../formats/shard.ts';
import { KL16_LATENT_SCALE } from '../../models/kl16/kl16.ts';
import { type Conversion, latentConversion, makeBatches, pictureConversion } from './batches.ts';
import { BatchOrder } from './order.ts';
import { unitVarianceScale } from './scale.ts';
import { bytesInMemory, keepInMemory, latentFolder, pictureFolder, shardStore } from './stores.ts';
import type { ItemStore, TrainingData } from './types.ts';

/** Scale of DC-AE latents, which have no posterior (SPEC section 5). */
const DCAE_LATENT_SCALE = 0.3189;

export interface DataOptions {
  /** Items a step. */
  batch: number;
  /** Of order, flips and posterior noise. */
  seed: number | bigint;
  /** What the network takes: channels, and pixels (or latents) of a side. */
  channels: number;
  size: number;
  /** Mirror half of the items; true by default. */
  flip?: boolean;
  /** Pixel models: what pixels in [-1, 1] are multiplied by, or what gives them unit variance; 1 by default. */
  dataScale?: number | 'unit-variance';
  /** Latents: what they are multiplied by; by default 0.2325 (KL-16) for moments, 0.3189 (DC-AE) for plain latents. */
  latentScale?: number;
  /** Go on with the next item, with a warning, where a file cannot be read; false by default. */
  skipUnreadable?: boolean;
  /** Data sets of at most so many bytes, decoded, are kept in memory; 1 GiB by default. */
  memoryBudget?: number;
  /** Decoding threads; all cores but one by default. */
  threads?: number;
  /** Batches prepared ahead; 4 by default. */
  prefetch?: number;
  onWarning?: (message: string) => void;
  /** Called while a small data set is taken into memory. */
  onProgress?: (done: number, total: number) => void;
  signal?: AbortSignal;
}

const MEMORY_BUDGET = 2 ** 30;
/** The largest array that Node makes. */
const ARRAY_LIMIT = 2 ** 32 - 1;
const PREFETCH = 4;

/**
 * Opens the data of a run. `path` is a folder of class folders of JPEG, PNG or WebP files or of cached latents
 * (`.npz`), or a folder with such a folder named `train`, or a shard (`.safetensors`). Pictures are centre-cropped as
 * ADM's are; latents are drawn from their posterior anew in each epoch.
 * @throws EmigmError 'file' when there is nothing that can be read, 'input' when a batch is larger than the data set
 *   or the data does not fit the network, 'aborted'
 */
export async function openTrainingData(path: string, options: DataOptions): Promise<TrainingData> {
  if (path.toLowerCase().endsWith('.safetensors')) return openShardData(await openShard(path), options);
  const folders = await listClassFolders(path);
  if (folders.ignored > 0) {
    options.onWarning?.(`${folders.root}: ${folders.ignored} files are not of a kind that is read, left out`);
  }
  const pool = new DecodePool(options.threads);
  return folders.kind === 'pictures' ? openPictures(folders, pool, options) : openLatents(folders, pool, options);
}

function openPictures(folders: ClassFolders, pool: DecodePool, options: DataOptions): Promise<TrainingData> {
  expectPixels(folders.root, options);
  return finish(pictureFolder(folders, options.size, pool), pictures(options), 'pictures', Uint8Array, options);
}

async function openLatents(folders: ClassFolders, pool: DecodePool, options: DataOptions): Promise<TrainingData> {
  try {
    const store = await latentFolder(folders, pool);
    // Tokenizers that are not random (DC-AE) are cached without log-variances.
    const kind = store.shape[0] === options.channels ? 'latents' : 'moments';
    const conversion = latents(folders.root, store.shape, kind, options);
    return await finish(store, async () => conversion, 'latents', Float32Array, options);
  } catch (error) {
    await pool.close();
    throw error;
  }
}

async function openShardData(shard: Shard, options: DataOptions): Promise<TrainingData> {
  try {
    if (shard.content === 'images') {
      expectPixels(shard.path, options);
      const [height, width] = shard.shape;
      if (height !== options.size || width !== options.size) {
        throw new EmigmError(
          'input',
          `${shard.path}: images of ${width} x ${height}, but the network takes ${options.size}; pack with --size ${options.size}`,
        );
      }
      return await finish(shardStore<Uint8Array>(shard), pictures(options), 'pictures', Uint8Array, options);
    }
    const conversion = latents(shard.path, shard.shape, shard.content, options);
    return await finish(shardStore<Float32Array>(shard), async () => conversion, 'latents', Float32Array, options);
  } catch (error) {
    await shard.close();
    throw error;
  }
}

function expectPixels(where: string, { channels }: DataOptions): void {
  if (channels !== 3) {
    throw new EmigmError('input', `${where}: holds pictures, but the network takes latents of ${channels} channels`);
  }
}

function pictures({ size, dataScale = 1, skipUnreadable }: DataOptions) {
  return async (store: ItemStore<Uint8Array>): Promise<Conversion<Uint8Array>> =>
    pictureConversion(size, dataScale === 'unit-variance' ? await unitVarianceScale(store, skipUnreadable) : dataScale);
}

function latents(
  where: string,
  shape: readonly number[],
  kind: 'moments' | 'latents',
  { channels, size, latentScale = kind === 'moments' ? KL16_LATENT_SCALE : DCAE_LATENT_SCALE, seed }: DataOptions,
): Conversion<Float32Array> {
  const wanted = kind === 'moments' ? 2 * channels : channels;
  if (shape[0] !== wanted || shape[1] !== size || shape[2] !== size) {
    throw new EmigmError(
      'input',
      `${where}: ${kind} of shape [${shape}], but the network takes ${channels} channels of ${size} x ${size}` +
        (kind === 'moments' ? `, hence moments of [${[wanted, size, size]}]` : ''),
    );
  }
  return latentConversion(shape, kind, latentScale, seed);
}

async function finish<Row extends Uint8Array | Float32Array>(
  source: ItemStore<Row>,
  conversionOf: (store: ItemStore<Row>) => Promise<Conversion<Row>>,
  what: 'pictures' | 'latents',
  array: Uint8ArrayConstructor | Float32ArrayConstructor,
  options: DataOptions,
): Promise<TrainingData> {
  const { flip = true, skipUnreadable = false, memoryBudget = MEMORY_BUDGET, prefetch = PREFETCH } = options;
  const { batch, seed, onProgress, onWarning, signal } = options;
  const mirrored = flip && what === 'latents';
  const size = source.labels.length;
  let store = source;
  try {
    if (mirrored && !source.mirrored) {
      throw new EmigmError(
        'input',
        'the shard has no mirrored latents, and latents cannot be mirrored; give --no-flip',
      );
    }
    new BatchOrder(size, batch, seed); // refuses an impossible batch before anything is read
    const inMemory = bytesInMemory(source, { array, mirrored }) <= Math.min(memoryBudget, ARRAY_LIMIT);
    if (inMemory) store = await keepInMemory(source, { array, mirrored, tolerant: skipUnreadable, onProgress, signal });
    const conversion = await conversionOf(store);
    const { channels, height, width } = conversion.shape;
    const description =
      `${size} ${what} of ${source.classes.length} classes, ${channels} x ${height} x ${width}, ` +
      (inMemory ? 'in memory' : 'read as needed');
    return makeBatches(store, conversion, { batch, seed, flip, skipUnreadable, prefetch, onWarning, description });
  } catch (error) {
    await store.close();
    throw error;
  }
}
