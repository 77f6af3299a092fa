/**
 * Improved precision and recall (Kynkäänniemi et al. 2019) as ADM's evaluation suite defines them: the manifold of a set
 * is the union of balls around its members that reach to their k-th nearest neighbour in the set.
 */
import { EmigmError } from '../errors.ts';
import { rowProducts } from './linear_algebra.ts';

/** Features [images, dimensions] and their squared lengths. */
export interface Points {
  readonly rows: number;
  readonly dimensions: number;
  readonly data: Float32Array;
  readonly squares: Float64Array;
}

/** @throws EmigmError 'shape' when the numbers are no rows of `dimensions`, 'numeric' when one is not finite */
export function points(features: Float32Array, dimensions: number): Points {
  const rows = features.length / dimensions;
  if (!Number.isInteger(rows)) throw new EmigmError('shape', `${features.length} features, no rows of ${dimensions}`);
  if (!features.every(Number.isFinite)) throw new EmigmError('numeric', 'a feature is not finite');
  const squares = new Float64Array(rows);
  for (let i = 0; i < features.length; i++) squares[Math.floor(i / dimensions)] += features[i] ** 2;
  return { rows, dimensions, data: features, squares };
}

/** Takes inner products of rows, for distances: on the host in float64, or on a device (`deviceProducts`). */
export interface RowProducts {
  /** Rows of a and of b that are multiplied at once. */
  readonly block: readonly [number, number];
  /** Holds rows [*, dimensions] to multiply others with. */
  hold(b: Float32Array, dimensions: number): HeldRows;
}

export interface HeldRows {
  /** Products [rows of a, rows held]. */
  times(a: Float32Array): Promise<ArrayLike<number>>;
  release(): void;
}

export const hostProducts: RowProducts = {
  block: [256, 4096],
  hold: (b, dimensions) => {
    const matrix = (x: Float32Array) => {
      return { rows: x.length / dimensions, columns: dimensions, data: Float64Array.from(x) };
    };
    const held = matrix(b);
    return { times: async (a) => rowProducts(matrix(a), held).data, release: () => undefined };
  },
};

export interface PrecisionRecall {
  /** Share of the samples inside the manifold of the references. */
  readonly precision: number;
  /** Share of the references inside the manifold of the samples. */
  readonly recall: number;
}

export interface PrecisionRecallOptions {
  /** Nearest neighbours that a ball reaches to; ADM's suite takes 3. */
  k?: number;
  /** Default: on the host. */
  products?: RowProducts;
  /** Called with the share done, from 0 to 1. */
  onProgress?: (share: number) => void;
  signal?: AbortSignal;
}

/**
 * Distances are Euclidean. Duplicates count as neighbours, the image itself does not.
 * @throws EmigmError 'input' when a set has no k neighbours, 'shape' when the sets have other features, 'aborted'
 */
export async function precisionRecall(
  reference: Points,
  sample: Points,
  options: PrecisionRecallOptions = {},
): Promise<PrecisionRecall> {
  if (reference.dimensions !== sample.dimensions) {
    const [a, b] = [reference.dimensions, sample.dimensions];
    throw new EmigmError('shape', `precision and recall of images with ${a} and with ${b} features`);
  }
  const [n, m] = [reference.rows, sample.rows];
  const work = n * n + m * m + n * m;
  let done = 0;
  const part = (pairs: number): PrecisionRecallOptions => {
    const before = done;
    done += pairs / work;
    return { ...options, onProgress: (share) => options.onProgress?.(before + (share * pairs) / work) };
  };
  const radii = await squaredRadii(reference, part(n * n));
  const sampleRadii = await squaredRadii(sample, part(m * m));
  const [inReference, inSample] = [new Uint8Array(m), new Uint8Array(n)];
  await forDistances(reference, sample, part(n * m), (i, first, distances) => {
    for (let j = 0; j < distances.length; j++) {
      if (distances[j] <= radii[i]) inReference[first + j] = 1;
      if (distances[j] <= sampleRadii[first + j]) inSample[i] = 1;
    }
  });
  const share = (flags: Uint8Array) => flags.reduce((sum, flag) => sum + flag, 0) / flags.length;
  return { precision: share(inReference), recall: share(inSample) };
}

/** Squared distance of each point to its k-th nearest neighbour. @throws EmigmError 'input' when there are not so many */
export async function squaredRadii(set: Points, options: PrecisionRecallOptions = {}): Promise<Float64Array> {
  const { rows } = set;
  const { k = 3 } = options;
  if (!(Number.isInteger(k) && k >= 1 && rows > k)) {
    throw new EmigmError('input', `the ${k} nearest neighbours of an image need more than ${k} images, not ${rows}`);
  }
  const nearest = new Float64Array(rows * k).fill(Number.POSITIVE_INFINITY); // of each point, rising
  await forDistances(set, set, options, (i, first, distances) => {
    const last = i * k + k - 1;
    for (let j = 0; j < distances.length; j++) {
      const distance = distances[j];
      if (distance >= nearest[last] || first + j === i) continue;
      let at = last;
      for (; at > i * k && nearest[at - 1] > distance; at--) nearest[at] = nearest[at - 1];
      nearest[at] = distance;
    }
  });
  return Float64Array.from({ length: rows }, (_, i) => nearest[i * k + k - 1]);
}

/** Squared distances from row i of a to rows of b from `first` on: |x|^2 - 2 x y + |y|^2, not below zero. */
async function forDistances(
  a: Points,
  b: Points,
  { products = hostProducts, onProgress, signal }: PrecisionRecallOptions,
  use: (i: number, first: number, distances: Float64Array) => void,
): Promise<void> {
  const d = a.dimensions;
  const [aBlock, bBlock] = products.block;
  for (let first = 0; first < b.rows; first += bBlock) {
    const end = Math.min(b.rows, first + bBlock);
    const distances = new Float64Array(end - first);
    const held = products.hold(b.data.subarray(first * d, end * d), d);
    try {
      for (let from = 0; from < a.rows; from += aBlock) {
        if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
        const to = Math.min(a.rows, from + aBlock);
        const product = await held.times(a.data.subarray(from * d, to * d));
        for (let i = from, at = 0; i < to; i++) {
          for (let j = 0; j < distances.length; j++, at++) {
            distances[j] = Math.max(0, a.squares[i] - 2 * product[at] + b.squares[first + j]);
          }
          use(i, first, distances);
        }
        onProgress?.((first * a.rows + to * (end - first)) / (a.rows * b.rows));
      }
    } finally {
      held.release();
    }
  }
}
