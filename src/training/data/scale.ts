/** The scale that gives pixel models inputs of unit variance (SPEC section 5). */
import { EmigmError } from '../../errors.ts';
import type { ItemStore } from './types.ts';

/** Pictures that the variance is taken of: all of a small data set, evenly spaced ones of a large one. */
const SAMPLED = 4096;

/**
 * 1 / the standard deviation of the pixels, all channels together, as numbers in [-1, 1]. The same for a store in
 * memory and one that is streamed. With `tolerant` pictures that cannot be read are left out.
 * @throws EmigmError 'input' when all pixels are the same
 */
export async function unitVarianceScale(store: ItemStore<Uint8Array>, tolerant = false): Promise<number> {
  const size = store.labels.length;
  const count = Math.min(size, SAMPLED);
  const histogram = new Float64Array(256);
  let next = 0;
  const reader = async () => {
    while (next < count) {
      const index = Math.floor((next++ * size) / count);
      try {
        for (const byte of await store.read(index)) histogram[byte]++;
      } catch (error) {
        if (!(tolerant && error instanceof EmigmError && error.code === 'file')) throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: 64 }, reader));
  const moment = (value: (x: number) => number) =>
    histogram.reduce((sum, n, byte) => sum + n * value(byte / 127.5 - 1), 0) / histogram.reduce((a, b) => a + b, 0);
  const mean = moment((x) => x);
  const variance = moment((x) => (x - mean) ** 2);
  if (!(variance > 0)) throw new EmigmError('input', 'all pixels of the data are the same; there is nothing to learn');
  return 1 / Math.sqrt(variance);
}
