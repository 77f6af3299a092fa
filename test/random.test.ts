import { describe, expect, test } from 'vitest';
import { EmigmError } from '../src/errors.ts';
import { CounterRandom, normalNoise, STREAMS, seedKey, streamKey, threefry } from '../src/random.ts';

describe('threefry', () => {
  // Known answers of Random123 (kat_vectors): threefry2x32 20 rounds, counter, key, result.
  test.each([
    [
      [0, 0],
      [0, 0],
      [0x6b200159, 0x99ba4efe],
    ],
    [
      [0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x1cb996fc, 0xbb002be7],
    ],
    [
      [0x243f6a88, 0x85a308d3],
      [0x13198a2e, 0x03707344],
      [0xc4923a9c, 0x483df7a0],
    ],
  ] as const)('counter %j key %j', (counter, key, expected) => expect(threefry(key, counter)).toEqual(expected));
});

describe('seeds', () => {
  test('64 bits, numbers and bigints alike', () => {
    expect(seedKey(7)).toEqual([7, 0]);
    expect(seedKey(7n)).toEqual([7, 0]);
    expect(seedKey(2 ** 33 + 5)).toEqual([5, 2]);
    expect(seedKey((1n << 64n) - 1n)).toEqual([0xffffffff, 0xffffffff]);
  });
  test.each([-1, 0.5, 2 ** 53, Number.NaN, -1n, 1n << 64n])('%s is refused', (seed) =>
    expect(() => seedKey(seed)).toThrow(EmigmError),
  );
  test('streams have distinct numbers', () => {
    const numbers = Object.values(STREAMS);
    expect(new Set(numbers).size).toBe(numbers.length);
  });
});

describe('CounterRandom', () => {
  test('depends on seed, stream, step and counters alone', () => {
    const draw = (seed: number, stream: number, step: number, ...counters: number[]) =>
      new CounterRandom(seed, stream, step).uniform(...counters);
    expect(draw(1, 2, 3, 4, 5)).toBe(draw(1, 2, 3, 4, 5));
    const changed = [draw(2, 2, 3, 4, 5), draw(1, 3, 3, 4, 5), draw(1, 2, 4, 4, 5), draw(1, 2, 3, 5, 4)];
    expect(new Set([draw(1, 2, 3, 4, 5), ...changed]).size).toBe(5);
  });

  test('uniform: moments and range', () => {
    const random = new CounterRandom(11, 1);
    const values = Array.from({ length: 20000 }, (_, i) => random.uniform(i));
    expect(values.every((u) => u >= 0 && u < 1)).toBe(true);
    const mean = values.reduce((sum, u) => sum + u, 0) / values.length;
    // Standard error of the mean is 1/sqrt(12 n) = 0.002.
    expect(Math.abs(mean - 0.5)).toBeLessThan(0.01);
  });

  test('permutation: every value once; each of the 24 orders of four equally often', () => {
    const random = new CounterRandom(5, STREAMS.revealOrder);
    expect([...random.permutation(1000, 3)].sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
    const seen = new Map<string, number>();
    const draws = 24000;
    for (let i = 0; i < draws; i++) {
      const order = random.permutation(4, i).join();
      seen.set(order, (seen.get(order) ?? 0) + 1);
    }
    expect(seen.size).toBe(24);
    const expected = draws / 24;
    const chiSquare = [...seen.values()].reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0);
    // 23 degrees of freedom: 49.7 is exceeded once in a thousand; the seed is fixed.
    expect(chiSquare).toBeLessThan(49.7);
  });

  test('integer: in range, also for bounds that do not divide 2^32', () => {
    const random = new CounterRandom(5, 1);
    for (const bound of [1, 2, 3, 10, 2 ** 31 + 1, 2 ** 32]) {
      for (let i = 0; i < 200; i++) {
        const value = random.integer(bound, i);
        expect(Number.isInteger(value) && value >= 0 && value < bound).toBe(true);
      }
    }
  });
});

describe('normalNoise', () => {
  test('is the documented chain of keys and Box-Muller', () => {
    const [seed, stream, step, image, position, headStep] = [2 ** 40 + 3, STREAMS.headNoise, 5, 1234, 17, 9];
    const row = threefry(threefry(seedKey(seed), [stream, step]), [image, position]);
    expect(streamKey(seed, stream, step)).toEqual(threefry(seedKey(seed), [stream, step]));
    const noise = normalNoise(seed, stream, step, image, position, headStep, 5);
    expect(noise.length).toBe(5);
    noise.forEach((value, element) => {
      const [a, b] = threefry(row, [headStep, element >> 1]).map((word) => ((word >>> 8) + 0.5) / 2 ** 24);
      const angle = 2 * Math.PI * b;
      const expected = Math.sqrt(-2 * Math.log(a)) * (element % 2 ? Math.sin(angle) : Math.cos(angle));
      expect(value).toBeCloseTo(expected, 14);
    });
  });

  test('standard normal: moments, and the share beyond two deviations', () => {
    const values: number[] = [];
    for (let image = 0; image < 40; image++) {
      for (let position = 0; position < 64; position++) values.push(...normalNoise(3, 3, 0, image, position, 0, 16));
    }
    const n = values.length;
    const moment = (power: number) => values.reduce((sum, v) => sum + v ** power, 0) / n;
    // Five standard errors each: 1/sqrt n, sqrt(2/n), sqrt(15/n), sqrt(96/n).
    expect(Math.abs(moment(1))).toBeLessThan(5 / Math.sqrt(n));
    expect(Math.abs(moment(2) - 1)).toBeLessThan(5 * Math.sqrt(2 / n));
    expect(Math.abs(moment(3))).toBeLessThan(5 * Math.sqrt(15 / n));
    expect(Math.abs(moment(4) - 3)).toBeLessThan(5 * Math.sqrt(96 / n));
    const tail = values.filter((v) => Math.abs(v) > 2).length / n;
    expect(Math.abs(tail - 0.0455003)).toBeLessThan(5 * Math.sqrt((0.0455 * 0.9545) / n));
  });
});
