/**
 * Improved precision and recall (Kynkäänniemi et al. 2019) as ADM's evaluation suite defines them: the manifold of a set
 * is the union of balls around its members that reach to their k-th nearest neighbour in the set.
 */
import { EmigmError } from '../errors.ts';
import { type Matrix, rowProducts } from './linear_algebra.ts';

/** Images whose distances to all others are held at once. */
const BATCH = 256;

/** Features [images, dimensions] in float64 and their squared lengths. */
export interface Points {
  readonly matrix: Matrix;
  readonly squares: Float64Array;
}

/** @throws EmigmError 'shape' when the numbers are no rows of `dimensions`, 'numeric' when one is not finite */
export function points(features: Float32Array, dimensions: number): Points {
  const rows = features.length / dimensions;
  if (!Number.isInteger(rows)) throw new EmigmError('shape', `${features.length} features, no rows of ${dimensions}`);
  const data = Float64Array.from(features);
  if (!data.every(Number.isFinite)) throw new EmigmError('numeric', 'a feature is not finite');
  const squares = new Float64Array(rows);
  for (let i = 0; i < data.length; i++) squares[Math.floor(i / dimensions)] += data[i] ** 2;
  return { matrix: { rows, columns: dimensions, data }, squares };
}

export interface PrecisionRecall {
  /** Share of the samples inside the manifold of the references. */
  readonly precision: number;
  /** Share of the references inside the manifold of the samples. */
  readonly recall: number;
}

/** Called with the share done, from 0 to 1. */
export type OnShare = (share: number) => void;

/**
 * Distances are Euclidean, in float64 (ADM's suite takes half precision where it is finite). Duplicates count as
 * neighbours, the image itself does not.
 * @throws EmigmError 'input' when a set has no k neighbours, 'shape' when the sets have other features
 */
export function precisionRecall(reference: Points, sample: Points, k = 3, onShare?: OnShare): PrecisionRecall {
  if (reference.matrix.columns !== sample.matrix.columns) {
    const [a, b] = [reference.matrix.columns, sample.matrix.columns];
    throw new EmigmError('shape', `precision and recall of images with ${a} and with ${b} features`);
  }
  const [n, m] = [reference.matrix.rows, sample.matrix.rows];
  const work = n * n + m * m + n * m;
  const [first, second] = [(n * n) / work, (m * m) / work];
  const radii = squaredRadii(reference, k, (share) => onShare?.(share * first));
  const sampleRadii = squaredRadii(sample, k, (share) => onShare?.(first + share * second));
  const [inReference, inSample] = [new Uint8Array(m), new Uint8Array(n)];
  forDistances(reference, sample, (i, distances) => {
    for (let j = 0; j < m; j++) {
      if (distances[j] <= radii[i]) inReference[j] = 1;
      if (distances[j] <= sampleRadii[j]) inSample[i] = 1;
    }
    onShare?.(first + second + ((1 - first - second) * (i + 1)) / n);
  });
  const share = (flags: Uint8Array) => flags.reduce((sum, flag) => sum + flag, 0) / flags.length;
  return { precision: share(inReference), recall: share(inSample) };
}

/** Squared distance of each point to its k-th nearest neighbour. @throws EmigmError 'input' when there are not so many */
export function squaredRadii(set: Points, k: number, onShare?: OnShare): Float64Array {
  const { rows } = set.matrix;
  if (!(Number.isInteger(k) && k >= 1 && rows > k)) {
    throw new EmigmError('input', `the ${k} nearest neighbours of an image need more than ${k} images, not ${rows}`);
  }
  const radii = new Float64Array(rows);
  const nearest = new Float64Array(k);
  forDistances(set, set, (i, distances) => {
    nearest.fill(Number.POSITIVE_INFINITY);
    for (let j = 0; j < rows; j++) {
      if (j === i || distances[j] >= nearest[k - 1]) continue;
      let at = k - 1;
      for (; at > 0 && nearest[at - 1] > distances[j]; at--) nearest[at] = nearest[at - 1];
      nearest[at] = distances[j];
    }
    radii[i] = nearest[k - 1];
    onShare?.((i + 1) / rows);
  });
  return radii;
}

/** Squared distances from each point of a to all of b, row by row: |x|^2 - 2 x y + |y|^2, not below zero. */
function forDistances(a: Points, b: Points, use: (row: number, distances: Float64Array) => void): void {
  const { rows, columns, data } = a.matrix;
  for (let first = 0; first < rows; first += BATCH) {
    const end = Math.min(rows, first + BATCH);
    const batch = { rows: end - first, columns, data: data.subarray(first * columns, end * columns) };
    const products = rowProducts(batch, b.matrix);
    for (let i = first; i < end; i++) {
      const row = products.data.subarray((i - first) * b.matrix.rows, (i - first + 1) * b.matrix.rows);
      for (let j = 0; j < row.length; j++) row[j] = Math.max(0, a.squares[i] - 2 * row[j] + b.squares[j]);
      use(i, row);
    }
  }
}
