/**
 * Mean and covariance of features that come in batches, shards and any order.
 *
 * Sums of floating-point numbers depend on their order; these do not. A feature is rounded once, to a whole multiple of
 * range / 2^30 (for the default range 64 that is 2^-24, no more than float32 itself rounds features of 1 and above), and
 * from there on all is integer arithmetic: sums of features and of their products are exact for up to 2^20 images. So statistics are the same
 * to the last bit however images are batched, ordered and split into shards, and merging shards is exact. Mean and
 * covariance are then each one correctly rounded quotient of the exact sums, so there is no cancellation either.
 */
import { EmigmError } from '../errors.ts';

/** A feature is a whole number of at most 2^30 in units of range / 2^30. */
const UNITS = 2 ** 30;
const HALF = 2 ** 15;
/** Images summed at once: products of 15 and 30 bits, 2^7 of them, make 2^52, which leaves room for a carry. */
const CHUNK = 128;
const MOST = 2 ** 20;

/** Mean [dimensions] and covariance [dimensions, dimensions] (divided by images - 1) of features. */
export interface Statistics {
  readonly mean: Float64Array<ArrayBuffer>;
  readonly covariance: Float64Array<ArrayBuffer>;
  /** Images behind them, where it is known. */
  readonly count?: number;
  /** The covariance was stored in single precision: what is below its rounding is noise. */
  readonly single?: boolean;
}

/** The exact sums; all arrays hold whole numbers. */
export interface MomentState {
  readonly dimensions: number;
  readonly range: number;
  readonly count: number;
  /** Sum of features [dimensions]. */
  readonly sums: Float64Array<ArrayBuffer>;
  /** Sum of products, j <= i at i (i + 1) / 2 + j: high 2^30 + low, 0 <= low < 2^30. */
  readonly high: Float64Array<ArrayBuffer>;
  readonly low: Float64Array<ArrayBuffer>;
}

export class Moments implements MomentState {
  readonly dimensions: number;
  readonly range: number;
  readonly sums: Float64Array<ArrayBuffer>;
  readonly high: Float64Array<ArrayBuffer>;
  readonly low: Float64Array<ArrayBuffer>;
  private images = 0;
  private waiting = 0;
  /** Features of the images that wait to be summed, [dimensions, CHUNK]: n = 2^15 upper + lower. */
  private readonly n: Float64Array;
  private readonly upper: Float64Array;
  private readonly lower: Float64Array;

  /** @param range a power of two that no feature exceeds in magnitude; the same for all that are merged */
  constructor(dimensions: number, range = 64) {
    if (!(Number.isInteger(dimensions) && dimensions > 0) || !Number.isInteger(Math.log2(range))) {
      throw new EmigmError('input', `moments of ${dimensions} features within ${range}: give a power of two as range`);
    }
    this.dimensions = dimensions;
    this.range = range;
    const pairs = (dimensions * (dimensions + 1)) / 2;
    this.sums = new Float64Array(dimensions);
    this.high = new Float64Array(pairs);
    this.low = new Float64Array(pairs);
    this.n = new Float64Array(dimensions * CHUNK);
    this.upper = new Float64Array(dimensions * CHUNK);
    this.lower = new Float64Array(dimensions * CHUNK);
  }

  /** Images added so far. */
  get count(): number {
    return this.images;
  }

  /**
   * Adds images: features [images, dimensions].
   * @throws EmigmError 'numeric' for a feature that is not finite or beyond the range, 'shape' for a bad length
   */
  add(features: Float32Array): void {
    const { dimensions: d, n, upper, lower, sums } = this;
    const rows = features.length / d;
    if (!Number.isInteger(rows)) {
      throw new EmigmError('shape', `${features.length} features are no images of ${d} features each`);
    }
    if (this.images + rows > MOST) throw new EmigmError('input', `statistics hold ${MOST} images at most`);
    const scale = UNITS / this.range;
    for (let i = 0; i < features.length; i++) {
      if (!(Math.abs(features[i]) <= this.range)) {
        const what = `feature ${i % d} of image ${this.images + Math.floor(i / d)} is ${features[i]}`;
        throw new EmigmError('numeric', `${what}; statistics are kept for features within ${this.range}`);
      }
    }
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < d; i++) {
        const whole = Math.round(features[row * d + i] * scale);
        const above = Math.floor(whole / HALF);
        const at = i * CHUNK + this.waiting;
        n[at] = whole;
        upper[at] = above;
        lower[at] = whole - above * HALF;
        sums[i] += whole;
      }
      this.images++;
      if (++this.waiting === CHUNK) this.sumProducts();
    }
  }

  /** Adds the products of the images that wait. */
  private sumProducts(): void {
    const { dimensions: d, waiting, n, upper, lower } = this;
    const strip = 64; // rows that stay in the cache
    for (let first = 0; first < d; first += strip) {
      const end = Math.min(d, first + strip);
      for (let i = first; i < d; i += 2) {
        const [i0, i1] = [i * CHUNK, Math.min(i + 1, d - 1) * CHUNK];
        for (let j = first; j < Math.min(end, i + 2); j += 2) {
          const [j0, j1] = [j * CHUNK, Math.min(j + 1, d - 1) * CHUNK];
          let [p00, p01, p10, p11, q00, q01, q10, q11] = [0, 0, 0, 0, 0, 0, 0, 0];
          for (let k = 0; k < waiting; k++) {
            const [x0, x1] = [n[j0 + k], n[j1 + k]];
            const [u0, u1] = [upper[i0 + k], upper[i1 + k]];
            const [l0, l1] = [lower[i0 + k], lower[i1 + k]];
            p00 += u0 * x0;
            p01 += u0 * x1;
            p10 += u1 * x0;
            p11 += u1 * x1;
            q00 += l0 * x0;
            q01 += l0 * x1;
            q10 += l1 * x0;
            q11 += l1 * x1;
          }
          this.put(i, j, p00, q00);
          if (j + 1 <= i) this.put(i, j + 1, p01, q01);
          if (i + 1 < d) this.put(i + 1, j, p10, q10);
          if (i + 1 < d && j + 1 < d) this.put(i + 1, j + 1, p11, q11);
        }
      }
    }
    this.waiting = 0;
  }

  /** Adds 2^15 p + q to the sum of products of i and j; p and q are 2^52 at most. */
  private put(i: number, j: number, p: number, q: number): void {
    const at = (i * (i + 1)) / 2 + j;
    const above = Math.floor(p / HALF);
    this.carry(at, above, (p - above * HALF) * HALF + q);
  }

  private carry(at: number, high: number, low: number): void {
    const sum = this.low[at] + low;
    const over = Math.floor(sum / UNITS);
    this.high[at] += high + over;
    this.low[at] = sum - over * UNITS;
  }

  /** The sums, for a shard's file. */
  state(): MomentState {
    if (this.waiting > 0) this.sumProducts();
    const { dimensions, range, count, sums, high, low } = this;
    return { dimensions, range, count, sums, high, low };
  }

  /**
   * Adds the images of another shard. The order of merges makes no difference.
   * @throws EmigmError 'shape' when dimensions or range differ
   */
  merge(other: MomentState): void {
    const theirs = other instanceof Moments ? other.state() : other;
    if (theirs.dimensions !== this.dimensions || theirs.range !== this.range) {
      const of = ({ dimensions, range }: MomentState) => `${dimensions} features within ${range}`;
      throw new EmigmError('shape', `statistics of ${of(this)} and of ${of(theirs)} cannot be merged`);
    }
    if (this.images + theirs.count > MOST) throw new EmigmError('input', `statistics hold ${MOST} images at most`);
    this.state();
    for (let i = 0; i < this.sums.length; i++) this.sums[i] += theirs.sums[i];
    for (let i = 0; i < this.high.length; i++) this.carry(i, theirs.high[i], theirs.low[i]);
    this.images += theirs.count;
  }

  /** Mean and covariance of all images. @throws EmigmError 'input' for fewer than two images */
  statistics(): Statistics {
    const { dimensions: d, sums, high, low, count, range } = this.state();
    if (count < 2) throw new EmigmError('input', `a covariance needs two images or more, not ${count}`);
    const unit = range / UNITS;
    const mean = Float64Array.from(sums, (sum) => (sum / count) * unit);
    const covariance = new Float64Array(d * d);
    const divisor = count * (count - 1);
    for (let i = 0, at = 0; i < d; i++) {
      for (let j = 0; j <= i; j++, at++) {
        const value = (scatter(count, high[at], low[at], sums[i], sums[j]) / divisor) * unit * unit;
        covariance[i * d + j] = value;
        covariance[j * d + i] = value;
      }
    }
    return { mean, covariance, count };
  }
}

const LIMB = 2 ** 25;

/** n (2^30 high + low) - a b for whole numbers, rounded once: limbs of 25 bits, whose products are exact. */
function scatter(n: number, high: number, low: number, a: number, b: number): number {
  const [h1, a1, b1] = [Math.floor(high / LIMB), Math.floor(a / LIMB), Math.floor(b / LIMB)];
  const [h0, a0, b0] = [high - h1 * LIMB, a - a1 * LIMB, b - b1 * LIMB];
  const last = n * low - a0 * b0;
  const carry = Math.floor(last / LIMB);
  const middle = n * h0 * 32 - (a1 * b0 + a0 * b1) + carry;
  const over = Math.floor(middle / LIMB);
  const first = n * h1 * 32 - a1 * b1 + over;
  return first * LIMB * LIMB + ((middle - over * LIMB) * LIMB + (last - carry * LIMB));
}
