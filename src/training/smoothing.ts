/** The smoothed loss that is shown while a run trains, and in its plot. */
import { EmigmError } from '../errors.ts';

/**
 * Exponential moving average without the pull towards the initial 0 (as Adam's bias correction):
 * m = decay * m + (1 - decay) * x, shown as m / (1 - decay^n). Values that are not finite are passed over.
 */
export class Smoothed {
  readonly decay: number;
  #mean = 0;
  #weight = 0;

  /** @param decay in [0, 1): 0.98 averages over about 50 values. @throws EmigmError 'input' */
  constructor(decay = 0.98) {
    if (!(decay >= 0 && decay < 1)) throw new EmigmError('input', `smoothing ${decay} is not from 0 to below 1`);
    this.decay = decay;
  }

  /** The average, NaN before the first value. */
  get value(): number {
    return this.#mean / this.#weight;
  }

  /** Takes a value in and returns the average. */
  add(value: number): number {
    if (Number.isFinite(value)) {
      this.#mean = this.decay * this.#mean + (1 - this.decay) * value;
      this.#weight = this.decay * this.#weight + (1 - this.decay);
    }
    return this.value;
  }
}
