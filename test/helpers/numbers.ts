/** Comparing tensors, and fresh random inputs whose seed is told when a test fails. */
import { expect, onTestFailed } from 'vitest';

type Numbers = ArrayLike<number>;

export interface Tolerance {
  /** Largest difference allowed, as a share of the largest magnitude expected. */
  relative?: number;
  /** Largest difference allowed besides (added), for tensors that may be all zero. */
  absolute?: number;
}

/**
 * Fails unless max |actual - expected| <= relative * max |expected| + absolute. Lengths must agree,
 * and a NaN on either side fails. Returns the largest difference over the largest magnitude.
 */
export function expectClose(actual: Numbers, expected: Numbers, tolerance: Tolerance, label = 'tensor'): number {
  const { relative = 0, absolute = 0 } = tolerance;
  expect(actual.length, `${label}: number of elements`).toBe(expected.length);
  let worst = 0;
  let scale = 0;
  let at = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i] - expected[i]);
    if (Number.isNaN(difference) && !(actual[i] === expected[i])) {
      expect.fail(`${label}: element ${i} is ${actual[i]}, expected ${expected[i]}`);
    }
    if (difference > worst) [worst, at] = [difference, i];
    scale = Math.max(scale, Math.abs(expected[i]));
  }
  const limit = relative * scale + absolute;
  if (!(worst <= limit)) {
    expect.fail(
      `${label}: element ${at} is ${actual[at]}, expected ${expected[at]}: off by ${worst.toExponential(3)}, ` +
        `${(worst / scale).toExponential(3)} of the largest magnitude ${scale}; allowed ${limit.toExponential(3)}`,
    );
  }
  return scale > 0 ? worst / scale : worst;
}

export interface Random {
  readonly seed: number;
  /** A number in [0, 1). */
  next(): number;
  /** A whole number from low to high, both included. */
  integer(low: number, high: number): number;
  uniform(count: number, low?: number, high?: number): Float32Array<ArrayBuffer>;
  normal(count: number, scale?: number): Float32Array<ArrayBuffer>;
}

/**
 * Random inputs for a test, new at each run unless a seed is given here or in EMIGM_SEED. When the
 * test fails its seed is printed.
 */
export function random(seed?: number): Random {
  const chosen = seed ?? (process.env.EMIGM_SEED ? Number(process.env.EMIGM_SEED) : (Math.random() * 2 ** 32) >>> 0);
  try {
    onTestFailed(() => console.error(`random inputs of this test: EMIGM_SEED=${chosen}`));
  } catch {
    // outside a test there is nobody to tell
  }
  let state = chosen | 0;
  const next = () => {
    // mulberry32
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  return {
    seed: chosen,
    next,
    integer: (low, high) => low + Math.floor(next() * (high - low + 1)),
    uniform: (count, low = -1, high = 1) => Float32Array.from({ length: count }, () => low + (high - low) * next()),
    normal: (count, scale = 1) => Float32Array.from({ length: count }, () => scale * normal()),
  };
}
