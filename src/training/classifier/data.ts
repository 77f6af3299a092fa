/** Photographs for a classifier: shifted, mirrored, their light changed and parts of them covered, anew in each epoch. */
import { EmigmError } from '../../errors.ts';
import { listClassFolders } from '../../formats/class_folders.ts';
import { DecodePool } from '../../formats/decode_pool.ts';
import { CounterRandom, STREAMS } from '../../random.ts';
import { type Conversion, makeBatches } from '../data/batches.ts';
import { bytesInMemory, keepInMemory, pictureFolder } from '../data/stores.ts';
import type { TrainingData } from '../data/types.ts';
import type { ClassifierHyperparameters } from './settings.ts';

/** What the numbers of the data stream are for: its `step`, after the order and the flips. */
const AUGMENTATION = 2;

export type Augmentation = Pick<ClassifierHyperparameters, 'seed' | 'padding' | 'colour' | 'erase'>;

/**
 * Pictures [S, S, 3] as numbers [3, S, S] in about [-1, 1], augmented by (seed, epoch, item): shifted by up to `padding`
 * pixels, the edge repeated; contrast and brightness changed by up to the share `colour`; in a share `erase` of them a
 * rectangle of 2 % to 20 % of the area covered by one colour (Zhong et al., arXiv 1708.04896).
 */
export function augmentedPictures(
  size: number,
  { seed, padding, colour, erase }: Augmentation,
): Conversion<Uint8Array> {
  const random = new CounterRandom(seed, STREAMS.data, AUGMENTATION);
  const inside = (i: number) => Math.min(size - 1, Math.max(0, i));
  return {
    shape: { channels: 3, height: size, width: size },
    scale: 1,
    storedMirrored: false,
    convert(row, out, { epoch, index, flipped }) {
      const draw = (what: number) => random.uniform(epoch, index, what);
      const shift = (what: number) => Math.floor(draw(what) * (2 * padding + 1)) - padding;
      const [dy, dx] = [shift(0), shift(1)];
      const contrast = 1 + colour * (2 * draw(2) - 1);
      const brightness = colour * (2 * draw(3) - 1);
      const levels = Float32Array.from({ length: 256 }, (_, byte) => (byte / 127.5 - 1) * contrast + brightness);
      const source = new Int32Array(size).map((_, x) => 3 * inside((flipped ? size - 1 - x : x) + dx));
      for (let y = 0; y < size; y++) {
        const line = 3 * size * inside(y + dy);
        for (let x = 0; x < size; x++) {
          for (let c = 0; c < 3; c++) out[(c * size + y) * size + x] = levels[row[line + source[x] + c]];
        }
      }
      if (draw(4) < erase) cover(out, size, [5, 6, 7, 8].map(draw), [9, 10, 11].map(draw));
    },
  };
}

/** Covers a rectangle by a colour; its area, shape and place, and the colour, come of numbers in [0, 1). */
function cover(
  out: Float32Array,
  size: number,
  [area, shape, down, right]: readonly number[],
  colour: readonly number[],
): void {
  const pixels = (0.02 + 0.18 * area) * size * size;
  const ratio = 3 ** (2 * shape - 1);
  const side = (length: number) => Math.min(size, Math.max(1, Math.round(length)));
  const [height, width] = [side(Math.sqrt(pixels * ratio)), side(Math.sqrt(pixels / ratio))];
  const top = Math.floor(down * (size - height + 1));
  const left = Math.floor(right * (size - width + 1));
  for (let c = 0; c < 3; c++) {
    for (let y = top; y < top + height; y++) {
      out.fill(2 * colour[c] - 1, (c * size + y) * size + left, (c * size + y) * size + left + width);
    }
  }
}

export interface ClassifierDataOptions extends Augmentation {
  batch: number;
  imageSize: number;
  flip: boolean;
  threads?: number;
  onProgress?: (done: number, total: number) => void;
  onWarning?: (message: string) => void;
  signal?: AbortSignal;
}

const MEMORY_BUDGET = 2 ** 30;
const PREFETCH = 4;

/**
 * Opens a folder of class folders of pictures, or one that holds such a folder named `train`; pictures are
 * centre-cropped. @throws EmigmError 'file' when a picture cannot be read, 'input' when there are no pictures
 */
export async function openClassifierData(path: string, options: ClassifierDataOptions): Promise<TrainingData> {
  const { imageSize, batch, seed, flip, threads, onProgress, onWarning, signal } = options;
  const folders = await listClassFolders(path);
  if (folders.kind !== 'pictures') {
    throw new EmigmError('input', `${folders.root}: holds latents; a classifier is trained on pictures`);
  }
  const source = pictureFolder(folders, imageSize, new DecodePool(threads));
  const kind = { array: Uint8Array, mirrored: false };
  const small = bytesInMemory(source, kind) <= MEMORY_BUDGET;
  const store = small ? await keepInMemory(source, { ...kind, tolerant: false, onProgress, signal }) : source;
  try {
    const description = `${folders.files.length} pictures of ${folders.classes.length} classes, ${imageSize} x ${imageSize}`;
    const rest = { batch, seed, flip, skipUnreadable: false, prefetch: PREFETCH, onWarning, description };
    return makeBatches(store, augmentedPictures(imageSize, options), rest);
  } catch (error) {
    await store.close();
    throw error;
  }
}
