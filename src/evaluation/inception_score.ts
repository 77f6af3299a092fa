/** The Inception Score (Salimans et al. 2016), as torch-fidelity computes it. */
import { EmigmError } from '../errors.ts';
import { numpyPermutation } from './numpy_random.ts';

export interface InceptionScoreOptions {
  /** Default 10. */
  splits?: number;
  /**
   * Which image stands where: `shuffled` (default) as torch-fidelity does, by NumPy's permutation of seed 2020;
   * `given`: as they are, for images of mixed classes only; or the image at each place.
   */
  order?: 'shuffled' | 'given' | ArrayLike<number>;
}

/** Mean and population standard deviation over the splits. */
export interface InceptionScore {
  readonly mean: number;
  readonly deviation: number;
}

/**
 * exp(mean over a split's images of KL(p(y | x) || p(y))), p(y) the split's mean, over splits of equal size; in float64.
 * @param logits [images, classes]: of the Inception network those without bias, `logits_unbiased`
 * @throws EmigmError 'input' when there are fewer images than splits, 'shape' when an order is of other images
 */
export function inceptionScore(
  logits: Float32Array,
  classes: number,
  { splits = 10, order = 'shuffled' }: InceptionScoreOptions = {},
): InceptionScore {
  const images = logits.length / classes;
  if (!Number.isInteger(images)) throw new EmigmError('shape', `${logits.length} logits are no rows of ${classes}`);
  if (!(Number.isInteger(splits) && splits > 0 && images >= splits)) {
    throw new EmigmError('input', `an Inception Score over ${splits} splits needs as many images; there are ${images}`);
  }
  const place = order === 'shuffled' ? numpyPermutation(images, 2020) : order === 'given' ? undefined : order;
  if (place && (place.length !== images || new Set(Array.from(place)).size !== images)) {
    throw new EmigmError('shape', `the order given for the Inception Score is no permutation of ${images} images`);
  }
  const scores = Array.from({ length: splits }, (_, split) => {
    const [first, end] = [split, split + 1].map((s) => Math.floor((s * images) / splits));
    const total = new Float64Array(classes);
    let entropies = 0;
    for (let i = first; i < end; i++) entropies += addSoftmax(logits, (place ? place[i] : i) * classes, total);
    let mixed = 0;
    for (const sum of total) mixed += plogp(sum / (end - first));
    return Math.exp(entropies / (end - first) - mixed);
  });
  const mean = scores.reduce((sum, score) => sum + score, 0) / splits;
  const deviation = Math.sqrt(scores.reduce((sum, score) => sum + (score - mean) ** 2, 0) / splits);
  return { mean, deviation };
}

const plogp = (p: number) => (p > 0 ? p * Math.log(p) : 0);

/** Adds softmax of one row to `total` and returns the sum of p log p. */
function addSoftmax(logits: Float32Array, at: number, total: Float64Array): number {
  const classes = total.length;
  let most = Number.NEGATIVE_INFINITY;
  for (let c = 0; c < classes; c++) most = Math.max(most, logits[at + c]);
  let sum = 0;
  let weighted = 0;
  for (let c = 0; c < classes; c++) {
    const x = logits[at + c] - most;
    const e = Math.exp(x);
    sum += e;
    weighted += e * x;
  }
  for (let c = 0; c < classes; c++) total[c] += Math.exp(logits[at + c] - most) / sum;
  return weighted / sum - Math.log(sum);
}
