import { expect, test } from 'vitest';
import { Smoothed } from '../../src/training/smoothing.ts';

test('weighted mean of all values, the newest weighing most', () => {
  const smoothed = new Smoothed(0.75);
  expect(smoothed.value).toBeNaN();
  const values = [4, -2, 7, 7, 1];
  for (const [n, value] of values.entries()) {
    const seen = values.slice(0, n + 1);
    const weights = seen.map((_, i) => 0.75 ** (n - i));
    const mean = seen.reduce((sum, x, i) => sum + x * weights[i], 0) / weights.reduce((a, b) => a + b);
    expect(smoothed.add(value)).toBeCloseTo(mean, 12);
  }
});

test('a constant stays; what is not finite is passed over', () => {
  const smoothed = new Smoothed();
  for (let i = 0; i < 100; i++) expect(smoothed.add(i % 3 === 2 ? Number.NaN : 0.3)).toBeCloseTo(0.3, 12);
  expect(smoothed.add(Number.POSITIVE_INFINITY)).toBeCloseTo(0.3, 12);
});

test('impossible decays', () => {
  for (const decay of [1, -0.1, Number.NaN]) expect(() => new Smoothed(decay)).toThrow(/smoothing/);
});
