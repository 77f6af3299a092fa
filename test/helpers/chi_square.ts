/** Pearson's chi-square test of drawn counts. */
import { expect } from 'vitest';

/** The 0.9999 quantile of the chi-square distribution, by Wilson and Hilferty. */
export function chiSquareQuantile(freedom: number): number {
  return freedom * (1 - 2 / (9 * freedom) + 3.719 * Math.sqrt(2 / (9 * freedom))) ** 3;
}

/**
 * Fails when the counts would come from these expectations (of the same sum) once in ten thousand times. Cells of few
 * expected counts are pooled into one. Where that leaves one cell, the counts must be the rounded expectations.
 */
export function expectFits(seen: ArrayLike<number>, expected: ArrayLike<number>, label: string): void {
  const cells = Array.from(expected, (e, i) => [seen[i], e]);
  const pooled = cells.filter(([, e]) => e < 8).reduce(([a, b], [o, e]) => [a + o, b + e], [0, 0]);
  const used = [...cells.filter(([, e]) => e >= 8), ...(pooled[1] > 1 ? [pooled] : [])];
  const chiSquare = used.reduce((sum, [o, e]) => sum + (o - e) ** 2 / e, 0);
  const freedom = used.length - 1;
  if (freedom > 0)
    expect(chiSquare, `${label}, ${freedom} degrees of freedom`).toBeLessThan(chiSquareQuantile(freedom));
  else expect(Array.from(seen), label).toEqual(Array.from(expected, Math.round));
}

/** P(k of n), k = 0..n, each with probability p, by the recurrence. */
export function binomial(n: number, p: number): number[] {
  let chances = [1];
  for (let i = 0; i < n; i++) {
    chances = Array.from({ length: i + 2 }, (_, k) => (chances[k] ?? 0) * (1 - p) + (chances[k - 1] ?? 0) * p);
  }
  return chances;
}
