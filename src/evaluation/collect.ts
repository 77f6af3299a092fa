/** What figures are computed from: features of a set of images, gathered batch by batch. */
import { EmigmError } from '../errors.ts';
import type { RgbImage } from '../formats/rgb.ts';
import type { FeatureExtractor, Features } from './extractor.ts';
import { Moments } from './moments.ts';

export interface ImageSet {
  readonly count: number;
  readonly moments: Moments;
  readonly spatial?: Moments;
  /** [images, dimensions], in the order of the images; kept when asked for. */
  readonly features?: Float32Array;
  /** [images, classes], where the network classifies. */
  readonly logits?: Float32Array;
}

export interface CollectOptions {
  /** Images at once. Features of an image do not depend on it. */
  batch: number;
  /** Keep the features of each image, for precision and recall. */
  keepFeatures?: boolean;
  onProgress?: (images: number) => void;
  signal?: AbortSignal;
}

/**
 * Runs the network over all images. While the device computes a batch, the host adds up the one before. Images of
 * different sizes go into different batches.
 * @throws EmigmError 'input' without images, 'aborted', and as the extractor does
 */
export async function collect(
  extractor: FeatureExtractor,
  images: AsyncIterable<RgbImage>,
  { batch, keepFeatures = false, onProgress, signal }: CollectOptions,
): Promise<ImageSet> {
  const moments = new Moments(extractor.dimensions, extractor.range);
  const spatial = extractor.spatialDimensions ? new Moments(extractor.spatialDimensions, extractor.range) : undefined;
  const features: Float32Array[] = [];
  const logits: Float32Array[] = [];
  const take = (found: Features): void => {
    moments.add(found.features);
    if (found.spatial) spatial?.add(found.spatial);
    if (found.logits) logits.push(found.logits);
    if (keepFeatures) features.push(found.features);
    onProgress?.(moments.count);
  };
  let before: Features | undefined;
  for await (const group of batches(images, batch)) {
    if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
    const running = extractor.extract(group);
    running.catch(() => undefined); // it is awaited below, unless `take` throws
    if (before) take(before);
    before = await running;
  }
  if (!before) throw new EmigmError('input', 'there are no images to evaluate');
  take(before);
  return {
    count: moments.count,
    moments,
    spatial,
    features: keepFeatures ? concatenate(features) : undefined,
    logits: logits.length > 0 ? concatenate(logits) : undefined,
  };
}

/** Runs of images of one size, `most` at the most. */
async function* batches(images: AsyncIterable<RgbImage>, most: number): AsyncGenerator<RgbImage[]> {
  let group: RgbImage[] = [];
  for await (const image of images) {
    const [first] = group;
    if (first && (group.length === most || first.width !== image.width || first.height !== image.height)) {
      yield group;
      group = [];
    }
    group.push(image);
  }
  if (group.length > 0) yield group;
}

/** One array after the other. */
export function concatenate(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
