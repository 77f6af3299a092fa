/**
 * A small quantiser for pixel models: a k-means codebook of patches, which makes the categorical conditional trainable
 * without a tokenizer network. It is fitted on the host in float64; images are encoded on the device.
 */
import { EmigmError } from '../errors.ts';
import { type Codebook, codeWidth } from '../formats/codebook.ts';
import type { Device } from '../gpu/device.ts';
import type { Program } from '../gpu/recorder.ts';
import { Session } from '../gpu/session.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { argmaxRows } from '../ops/argmax.ts';
import { createLinear, destroyLinear, type Linear, linear, packForCpu } from '../ops/matmul.ts';
import { isPacked } from '../ops/matmul_kernels.ts';
import type { PatchShape } from '../ops/tokens.ts';
import { moveCodes, plusPlusSeeds, reassign, statistics } from './kmeans.ts';

/** Scores and rows on the device at a time. */
const SCORES = 2 ** 24;
const ROWS = 2 ** 15;

/**
 * Finds the nearest codes of patches on a device: the largest of x . c - |c|^2 / 2 (the first of equals, up to float32
 * rounding), a matrix product and an argmax.
 */
export class NearestCodes {
  private readonly device: Device;
  private readonly session: Session;
  private readonly layer: Linear;
  private readonly x: Tensor;
  private readonly index: Tensor;
  private readonly program: Program;
  private readonly rows: number;

  private constructor(device: Device, size: number, width: number, rows: number) {
    this.device = device;
    this.rows = rows;
    const codes = new Float32Array(size * width);
    this.layer = createLinear(device, 'codes', [size, width], codes, new Float32Array(size));
    this.x = device.tensor([rows, width], 'f32', 'patches');
    this.index = device.tensor([rows], 'u32', 'nearest codes');
    this.session = new Session(device);
    this.program = this.session.record('nearest codes', (r) => {
      argmaxRows(r, linear(r, this.x, this.layer), size, this.index);
    });
  }

  /** For `size` codes of `width` numbers; `patches` is the most that are looked up in one call, or more than that. */
  static async create(device: Device, size: number, width: number, patches = ROWS): Promise<NearestCodes> {
    const rows = Math.max(1, Math.min(patches, ROWS, Math.floor(SCORES / size)));
    const nearest = new NearestCodes(device, size, width, rows);
    await nearest.session.prepare();
    return nearest;
  }

  /** For the codes of a codebook: a ready encoder. */
  static async of(device: Device, codebook: Codebook, patches?: number): Promise<NearestCodes> {
    const nearest = await NearestCodes.create(device, codebook.size, codeWidth(codebook), patches);
    nearest.setCodes(codebook.codes);
    return nearest;
  }

  /** Puts codes[size, width] on the device. */
  setCodes(codes: Float32Array): void {
    const { device, layer } = this;
    const { inputs: width, outputs: size, variant, weight, bias } = layer;
    device.write(weight, isPacked(variant) ? packForCpu(codes, size, width, device.lanes) : codes);
    const half = Float32Array.from({ length: size }, (_, i) => {
      let sum = 0;
      for (let j = i * width; j < (i + 1) * width; j++) sum += codes[j] * codes[j];
      return -sum / 2;
    });
    device.write(bias!, half);
  }

  /** The nearest code of each patch of patches[n, width]. */
  async encode(patches: Float32Array): Promise<Uint32Array> {
    const { device, layer, rows } = this;
    const width = layer.inputs;
    const count = patches.length / width;
    if (!Number.isInteger(count)) {
      throw new EmigmError('shape', `${patches.length} numbers are no whole number of patches of ${width}`);
    }
    const codes = new Uint32Array(count);
    for (let start = 0; start < count; start += rows) {
      const end = Math.min(count, start + rows);
      device.write(this.x, patches.subarray(start * width, end * width));
      this.session.run(this.program);
      codes.set((await device.readIntegers(this.index)).subarray(0, end - start), start);
    }
    return codes;
  }

  dispose(): void {
    this.session.dispose();
    destroyLinear(this.layer);
    this.x.destroy();
    this.index.destroy();
  }
}

export interface FitOptions {
  /** Codes wanted. */
  size: number;
  channels: number;
  /** Pixels of a side of a patch. */
  patch: number;
  dataScale?: number;
  seed?: number | bigint;
  /** Lloyd iterations at the most. Default 50. */
  iterations?: number;
  /** Ends when an iteration lowers the error by no more than this share. Default 1e-4. */
  tolerance?: number;
  /** Called after every iteration; error is the mean squared one of a number of a patch. */
  onIteration?: (progress: { iteration: number; error: number }) => void;
  signal?: AbortSignal;
}

export interface FittedCodebook {
  codebook: Codebook;
  /** Lloyd iterations that were made. */
  iterations: number;
  /** Mean squared error of a number of a patch, with this codebook. */
  error: number;
  /** [size] patches of each code. */
  counts: Uint32Array;
}

/**
 * A codebook for patches[n, channels * patch * patch] by k-means: seeds by k-means++ (Arthur and Vassilvitskii 2007), then
 * Lloyd's iterations; a code that no patch is nearest to is moved to the patch that is farthest from its own. Depends
 * on the patches, their order and the seed alone.
 * @throws EmigmError 'shape' when the patches do not fit, 'input' when fewer patches differ than codes are wanted,
 * 'numeric' for patches that are not finite, 'aborted'
 */
export async function fitCodebook(patches: Float32Array, options: FitOptions): Promise<FittedCodebook> {
  const { size, channels, patch, dataScale = 1, seed = 0, iterations: most = 50, tolerance = 1e-4, signal } = options;
  const width = codeWidth(options);
  if (!Number.isInteger(patches.length / width)) {
    throw new EmigmError('shape', `${patches.length} numbers are no patches of ${channels} x ${patch} x ${patch}`);
  }
  if (!Number.isSafeInteger(size) || size < 1) {
    throw new EmigmError('input', `the size of a codebook must be a positive integer, not ${size}`);
  }
  if (!patches.every(Number.isFinite)) throw new EmigmError('numeric', 'patches hold numbers that are not finite');
  const check = () => {
    if (signal?.aborted) throw new EmigmError('aborted', 'fitting the codebook was stopped');
  };
  const { seeds: codes, nearest } = plusPlusSeeds(patches, width, size, seed, check);
  let [iterations, before] = [0, Number.POSITIVE_INFINITY];
  for (;;) {
    reassign(patches, codes, nearest, width, check);
    const assigned = statistics(patches, codes, nearest, width);
    const error = assigned.total / patches.length;
    if (iterations > 0) options.onIteration?.({ iteration: iterations, error });
    const settled = iterations > 0 && before - error <= tolerance * before;
    if (iterations >= most || settled || error === 0) {
      return { codebook: { codes, size, channels, patch, dataScale }, iterations, error, counts: assigned.counts };
    }
    before = error;
    moveCodes(patches, codes, nearest, assigned, width);
    iterations++;
    // Signals and progress get their turn.
    await new Promise((resume) => setTimeout(resume));
  }
}

/** The patches [codes.length, width] that codes stand for. @throws EmigmError 'input' for a code beyond the codebook */
export function decodeCodes(
  { codes: table, size, ...shape }: Codebook,
  codes: ArrayLike<number>,
): Float32Array<ArrayBuffer> {
  const width = codeWidth(shape);
  const patches = new Float32Array(codes.length * width);
  for (let i = 0; i < codes.length; i++) {
    if (!(codes[i] < size)) throw new EmigmError('input', `code ${codes[i]} is not among the ${size} of the codebook`);
    patches.set(table.subarray(codes[i] * width, (codes[i] + 1) * width), i * width);
  }
  return patches;
}

/** Runs over the pixels of images in the order of their patches: f(number of the pixel, number of the patch's entry). */
function eachPatchNumber(
  { channels, side, patch }: PatchShape,
  length: number,
  f: (pixel: number, at: number) => void,
): void {
  const pixels = side * patch;
  if (!Number.isInteger(length / (channels * pixels * pixels))) {
    throw new EmigmError('shape', `${length} numbers are no images of ${channels} x ${pixels} x ${pixels}`);
  }
  let at = 0;
  for (let image = 0; image < length; image += channels * pixels * pixels) {
    for (let top = 0; top < pixels; top += patch) {
      for (let left = 0; left < pixels; left += patch) {
        for (let c = 0; c < channels; c++) {
          for (let y = top; y < top + patch; y++) {
            for (let x = left; x < left + patch; x++) f(image + (c * pixels + y) * pixels + x, at++);
          }
        }
      }
    }
  }
}

/** Patches [n * side^2, channels * patch^2] of images [n, channels, side * patch, side * patch], as `patchify` has them. */
export function imagePatches(images: Float32Array, shape: PatchShape): Float32Array<ArrayBuffer> {
  const patches = new Float32Array(images.length);
  eachPatchNumber(shape, images.length, (pixel, at) => {
    patches[at] = images[pixel];
  });
  return patches;
}

/** The images that `imagePatches` took apart. */
export function patchImages(patches: Float32Array, shape: PatchShape): Float32Array<ArrayBuffer> {
  const images = new Float32Array(patches.length);
  eachPatchNumber(shape, patches.length, (pixel, at) => {
    images[pixel] = patches[at];
  });
  return images;
}
