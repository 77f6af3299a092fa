/** Which items make the batch of a step: a new random order each epoch, a function of the seed and the step alone. */
import { EmigmError } from '../../errors.ts';
import { CounterRandom, STREAMS } from '../../random.ts';

/** What the numbers of the data stream are for: its `step`. */
const ORDER = 0;
const FLIPS = 1;

/**
 * As the official data loader has it (DistributedSampler of one process, DataLoader with drop_last): each epoch goes
 * through the items once in an order of its own, batch after batch, and the rest that fills no batch, fewer than
 * `batch` items, sits this epoch out. The orders themselves are other random numbers than PyTorch's.
 */
export class BatchOrder {
  readonly size: number;
  readonly batch: number;
  readonly stepsPerEpoch: number;
  readonly #orders: CounterRandom;
  readonly #flips: CounterRandom;
  readonly #recent = new Map<number, Int32Array>();

  /**
   * @param size number of items
   * @param batch items a step
   * @throws EmigmError 'input' when the items do not fill one batch
   */
  constructor(size: number, batch: number, seed: number | bigint) {
    if (!Number.isInteger(batch) || batch < 1 || batch > size) {
      throw new EmigmError('input', `a batch of ${batch} cannot be made of ${size} images; give 1 to ${size}`);
    }
    this.size = size;
    this.batch = batch;
    this.stepsPerEpoch = Math.floor(size / batch);
    this.#orders = new CounterRandom(seed, STREAMS.data, ORDER);
    this.#flips = new CounterRandom(seed, STREAMS.data, FLIPS);
  }

  /** The items of a step, which is counted from 0 over all epochs. */
  at(step: number): { epoch: number; indices: Int32Array<ArrayBuffer> } {
    if (!Number.isSafeInteger(step) || step < 0) throw new EmigmError('input', `there is no batch of step ${step}`);
    const epoch = Math.floor(step / this.stepsPerEpoch);
    const from = (step % this.stepsPerEpoch) * this.batch;
    return { epoch, indices: this.#order(epoch).slice(from, from + this.batch) as Int32Array<ArrayBuffer> };
  }

  /** Whether an item is mirrored in an epoch: for half of all. */
  flipped(epoch: number, index: number): boolean {
    return (this.#flips.words(epoch, index)[0] & 1) === 1;
  }

  #order(epoch: number): Int32Array {
    let order = this.#recent.get(epoch);
    if (!order) {
      order = this.#orders.permutation(this.size, epoch);
      // Two epochs are in use at once where one ends; more are not kept.
      for (const old of this.#recent.keys()) if (this.#recent.size > 1) this.#recent.delete(old);
      this.#recent.set(epoch, order);
    }
    return order;
  }
}
