/**
 * NumPy's legacy generator, `numpy.random.RandomState(seed)`, so far as to shuffle as published scores were shuffled.
 * Matsumoto, Nishimura 1998 (MT19937); numpy/random/mtrand.pyx.
 */
import { EmigmError } from '../errors.ts';

const SIZE = 624;
const SHIFT = 397;

/** `numpy.random.RandomState(seed).permutation(count)`; seed is a whole number below 2^32. */
export function numpyPermutation(count: number, seed: number): Int32Array<ArrayBuffer> {
  if (!(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32)) {
    throw new EmigmError('input', `seed ${seed}; NumPy takes whole numbers from 0 to 2^32 - 1`);
  }
  const next = mersenneTwister(seed);
  const order = Int32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const mask = 2 ** (32 - Math.clz32(i)) - 1;
    let j = (next() & mask) >>> 0;
    while (j > i) j = (next() & mask) >>> 0;
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

/** Unsigned 32-bit numbers. */
function mersenneTwister(seed: number): () => number {
  const state = new Uint32Array(SIZE);
  state[0] = seed;
  for (let i = 1; i < SIZE; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = SIZE;
  return () => {
    if (at === SIZE) {
      for (let i = 0; i < SIZE; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
        state[i] = state[(i + SHIFT) % SIZE] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}
