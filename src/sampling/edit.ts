/** Editing: the tokens under a mask are drawn anew, given all others; outside of them the picture stays as it is. */
import { EmigmError } from '../errors.ts';
import { centerCrop } from '../formats/crop.ts';
import { type RgbImage, toBytes, toFloats } from '../formats/rgb.ts';
import { gridSize } from '../models/config.ts';
import { classNumber, type LoadedModel } from '../models/load.ts';
import { checkTokenizer, type Tokenizer } from '../models/tokenizer.ts';
import { decodePictures } from './decode.ts';
import { emptyStats, type SampleProgress, type SampleStats, sampleBatches } from './sample.ts';
import { recommendedSettings } from './axes.ts';
import { resolveSettings, type SampleSettings } from './settings.ts';

export interface EditRequest extends Partial<SampleSettings> {
  /** Cropped to the model's size as for training. */
  image: RgbImage;
  /** Of the same size as the image: what is bright is drawn anew. */
  mask: RgbImage;
  /** What is to be seen, by name or number; undefined: without a class. */
  class?: string | number;
  /** Needed for models of latents. */
  tokenizer?: Tokenizer;
  /** Tokens around the masked ones that are drawn anew too, because they show what was there; 1 by default. */
  dilate?: number;
  /**
   * Pixels inside the region that is drawn anew over which the picture passes into it. By default half of the tokens
   * that `dilate` added for models of latents, whose decoded edges differ a little, and 0 for pixels.
   */
  feather?: number;
  /** Index of each variant that is drawn; default: one, 0. */
  indices?: readonly number[];
  batch?: number;
  onStep?: (progress: SampleProgress) => void | Promise<void>;
  signal?: AbortSignal;
}

export interface EditedImage {
  index: number;
  /** The picture with the region drawn anew; byte for byte that of `original` elsewhere. */
  image: RgbImage;
  /** What the model makes of the whole picture, before blending. */
  generated: RgbImage;
}

export interface EditResult {
  images: EditedImage[];
  /** The picture, cropped to the model's size. */
  original: RgbImage;
  /** [tokens]: 1 where a token was drawn anew. */
  masked: Uint8Array;
  settings: SampleSettings;
  stats: SampleStats;
}

/**
 * Draws the masked part of a picture anew.
 * @throws EmigmError 'input' for a mask that is empty or of another size, a missing tokenizer or bad settings;
 *   'memory', 'aborted'
 */
export async function edit(model: LoadedModel, request: EditRequest, stats = emptyStats()): Promise<EditResult> {
  const { image, mask, class: wanted, tokenizer, indices = [0], batch, onStep, signal, ...rest } = request;
  const { dilate = 1, feather: askedFeather, ...asked } = rest;
  const { config, info, network } = model;
  const isPixels = config.vaeStride === 1 && config.channels === 3;
  const { imageSize } = config;
  for (const [name, value] of Object.entries({ dilate, feather: askedFeather ?? 0 })) {
    if (!Number.isInteger(value) || value < 0)
      throw new EmigmError('input', `${name} must be a whole number, not ${value}`);
  }
  if (mask.width !== image.width || mask.height !== image.height) {
    throw new EmigmError(
      'input',
      `the mask has ${mask.width} x ${mask.height} pixels, the picture ${image.width} x ${image.height}; they must agree`,
    );
  }
  if (!isPixels && !tokenizer) throw new EmigmError('input', 'this model draws latents; editing needs its tokenizer');
  if (tokenizer) checkTokenizer(config, tokenizer, 'the tokenizer');

  const original = centerCrop(image, imageSize);
  const grid = gridSize(config);
  const masked = dilateMask(tokenMask(centerCrop(mask, imageSize), grid), grid, dilate);
  if (!masked.includes(1))
    throw new EmigmError('input', 'the mask has no bright pixel in the part of the picture that is seen');
  const dataScale = info.dataScale ?? (isPixels ? 1 : tokenizer!.scale);
  const latents = isPixels
    ? toFloats(original)
    : await tokenizer!.latents(toFloats(original), original, { scale: dataScale, signal });

  const settings = resolveSettings(recommendedSettings(info), asked);
  const number = wanted === undefined ? undefined : classNumber(model, wanted);
  const stream = sampleBatches(
    network,
    {
      ...settings,
      classes: indices.map(() => number),
      indices,
      batch,
      kept: { masked, latents },
      outputScale: isPixels ? 1 / dataScale : 1,
      onStep,
      signal,
    },
    stats,
  );
  const cell = imageSize / grid;
  const feather = askedFeather ?? (isPixels ? 0 : Math.floor((cell * dilate) / 2));
  const weights = blendWeights(masked, grid, cell, feather);
  const images: EditedImage[] = [];
  for await (const drawn of stream) {
    const pictures = isPixels
      ? drawn.map((one) => toBytes(one.latents, imageSize, imageSize))
      : decodePictures(
          model,
          tokenizer!,
          drawn.map((one) => one.latents),
          signal,
        );
    let next = 0;
    for await (const generated of pictures) {
      images.push({ index: drawn[next++].index, image: blend(original, generated, weights), generated });
    }
  }
  return { images, original, masked, settings, stats };
}

const BRIGHT = 128;

/** [grid * grid]: 1 for each cell with a bright pixel (of a mean from 128) in it. */
export function tokenMask({ width, rgb }: RgbImage, grid: number): Uint8Array<ArrayBuffer> {
  const cell = width / grid;
  const tokens = new Uint8Array(grid * grid);
  for (let i = 0; i < rgb.length / 3; i++) {
    if (rgb[3 * i] + rgb[3 * i + 1] + rgb[3 * i + 2] < 3 * BRIGHT) continue;
    tokens[Math.floor(Math.floor(i / width) / cell) * grid + Math.floor((i % width) / cell)] = 1;
  }
  return tokens;
}

/** The mask with all cells at most `by` rows and columns away from one of its cells. */
export function dilateMask(tokens: Uint8Array, grid: number, by: number): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(tokens.length);
  for (const [token, is] of tokens.entries()) {
    if (is === 0) continue;
    const [row, column] = [Math.floor(token / grid), token % grid];
    for (let y = Math.max(0, row - by); y <= Math.min(grid - 1, row + by); y++) {
      out.fill(1, y * grid + Math.max(0, column - by), y * grid + Math.min(grid - 1, column + by) + 1);
    }
  }
  return out;
}

/**
 * [pixels]: how much of what was drawn is seen. 0 outside the masked cells; inside min(1, d / (feather + 1)) with d the
 * number of pixels (counted along rows, columns or diagonals) to the nearest one outside.
 */
export function blendWeights(masked: Uint8Array, grid: number, cell: number, feather: number): Float32Array {
  const side = grid * cell;
  const far = feather + 1;
  const distance = Float32Array.from({ length: side * side }, (_, i) => {
    const row = Math.floor(Math.floor(i / side) / cell);
    return masked[row * grid + Math.floor((i % side) / cell)] === 0 ? 0 : far;
  });
  // Chessboard distance in two sweeps (Rosenfeld and Pfaltz 1968).
  const sweep = (order: (i: number) => number, steps: readonly (readonly [number, number])[]) => {
    for (let i = 0; i < distance.length; i++) {
      const at = order(i);
      const [y, x] = [Math.floor(at / side), at % side];
      for (const [dy, dx] of steps) {
        if (y + dy < 0 || y + dy >= side || x + dx < 0 || x + dx >= side) continue;
        distance[at] = Math.min(distance[at], distance[(y + dy) * side + x + dx] + 1);
      }
    }
  };
  const before = [
    [-1, -1],
    [-1, 0],
    [-1, 1],
    [0, -1],
  ] as const;
  sweep((i) => i, before);
  sweep(
    (i) => distance.length - 1 - i,
    before.map(([dy, dx]) => [-dy, -dx] as const),
  );
  return distance.map((d) => Math.min(1, d / far));
}

/** original + weight (generated - original), rounded; exactly the original where the weight is 0. */
function blend(original: RgbImage, generated: RgbImage, weights: Float32Array): RgbImage {
  const rgb = original.rgb.map((value, i) => {
    const weight = weights[Math.floor(i / 3)];
    return Math.round(value + weight * (generated.rgb[i] - value));
  });
  return { ...original, rgb };
}
