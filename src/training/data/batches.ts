/** Batches of items: mirrored, scaled, in the layout of the network. */
import { EmigmError } from '../../errors.ts';
import { BatchOrder } from './order.ts';
import { posteriorNoise, samplePosterior } from './posterior.ts';
import { Prefetcher } from './prefetch.ts';
import type { Batch, ItemStore, TrainingData } from './types.ts';

/** What turns an item into numbers of the network. */
export interface Conversion<Row extends Uint8Array | Float32Array> {
  readonly shape: TrainingData['shape'];
  /** What pixels or latents are multiplied by. */
  readonly scale: number;
  /** Whether the store is asked for mirrored items (else `convert` mirrors). */
  readonly storedMirrored: boolean;
  convert(row: Row, out: Float32Array, item: { epoch: number; index: number; flipped: boolean }): void;
}

/**
 * Pictures [S, S, 3] as (byte / 255 - 0.5) / 0.5 * dataScale in float32, [3, S, S]: ToTensor, Normalize, and the
 * scale that gives pixel models unit variance.
 */
export function pictureConversion(size: number, dataScale: number): Conversion<Uint8Array> {
  const levels = Float32Array.from({ length: 256 }, (_, v) =>
    Math.fround(Math.fround(Math.fround(Math.fround(v / 255) - 0.5) / 0.5) * Math.fround(dataScale)),
  );
  const pixels = size * size;
  return {
    shape: { channels: 3, height: size, width: size },
    scale: dataScale,
    storedMirrored: false,
    convert(row, out, { flipped }) {
      for (let y = 0; y < size; y++) {
        for (let x = 0; x < size; x++) {
          const from = 3 * (y * size + (flipped ? size - 1 - x : x));
          const to = y * size + x;
          out[to] = levels[row[from]];
          out[pixels + to] = levels[row[from + 1]];
          out[2 * pixels + to] = levels[row[from + 2]];
        }
      }
    },
  };
}

/**
 * Latents: drawn from the posterior of `moments` with noise of (seed, epoch, item), or as they are; times `scale`.
 * @param shape of a stored item, [2C or C, H, W]
 */
export function latentConversion(
  shape: readonly number[],
  kind: 'moments' | 'latents',
  scale: number,
  seed: number | bigint,
): Conversion<Float32Array> {
  const [stored, height, width] = shape;
  const channels = kind === 'moments' ? stored / 2 : stored;
  return {
    shape: { channels, height, width },
    scale,
    storedMirrored: true,
    convert(row, out, { epoch, index }) {
      if (kind === 'moments') samplePosterior(row, posteriorNoise(seed, epoch, index, out.length), scale, out);
      else for (let i = 0; i < out.length; i++) out[i] = row[i] * scale;
    },
  };
}

export interface BatchOptions {
  readonly batch: number;
  readonly seed: number | bigint;
  readonly flip: boolean;
  /** Take the next item instead of one that cannot be read. */
  readonly skipUnreadable: boolean;
  /** Batches prepared ahead. */
  readonly prefetch: number;
  readonly description: string;
  /** Told once of each item that is skipped. */
  readonly onWarning?: (message: string) => void;
}

/** Batches of a store, which it then owns. */
export function makeBatches<Row extends Uint8Array | Float32Array>(
  store: ItemStore<Row>,
  conversion: Conversion<Row>,
  options: BatchOptions,
): TrainingData {
  const { batch, seed, flip, skipUnreadable, onWarning } = options;
  const { labels, classes } = store;
  const { shape } = conversion;
  const order = new BatchOrder(labels.length, batch, seed);
  const length = shape.channels * shape.height * shape.width;
  const warned = new Set<number>();

  /** The item, or the next one that can be read: the same for every reader of the data set, in memory or not. */
  const readable = async (index: number, flipped: boolean): Promise<{ index: number; row: Row }> => {
    for (let tried = 0; tried < labels.length; tried++) {
      const at = (index + tried) % labels.length;
      try {
        return { index: at, row: await store.read(at, flipped && conversion.storedMirrored) };
      } catch (error) {
        if (!skipUnreadable || !(error instanceof EmigmError) || error.code !== 'file') throw error;
        if (!warned.has(at)) onWarning?.(`skipped: ${error.message}`);
        warned.add(at);
      }
    }
    throw new EmigmError('file', `none of the ${labels.length} items can be read`);
  };

  const load = async (step: number): Promise<Batch> => {
    const { epoch, indices } = order.at(step);
    const images = new Float32Array(batch * length);
    await Promise.all(
      Array.from(indices, async (wanted, b) => {
        const flipped = flip && order.flipped(epoch, wanted);
        const { index, row } = await readable(wanted, flipped);
        conversion.convert(row, images.subarray(b * length, (b + 1) * length), { epoch, index: wanted, flipped });
        indices[b] = index;
      }),
    );
    return { images, labels: Int32Array.from(indices, (index) => labels[index]), indices };
  };

  const batches = new Prefetcher(load, options.prefetch);
  return {
    size: labels.length,
    classes,
    shape,
    scale: conversion.scale,
    description: options.description,
    stepsPerEpoch: order.stepsPerEpoch,
    batch: (step) => batches.at(step),
    close: () => store.close(),
  };
}
