/** What the models of the framework have in common, as statements that are checked. */
import { describe, expect, test } from 'vitest';
import { axisPresets, drawMasks, resolveAxes } from '../../src/masking/axes.ts';
import { maskDistribution, maskDistributions, maskedCount } from '../../src/masking/distributions.ts';
import type { Draws } from '../../src/masking/draws.ts';
import { randomMasking } from '../../src/masking/random_masking.ts';
import { revealCounts } from '../../src/masking/reveal.ts';
import {
  expectedReveals,
  lossWeight,
  maskSchedule,
  maskSchedules,
  samplingTimes,
  trainingSchedules,
} from '../../src/masking/schedules.ts';
import { timeTruncations, maskTime } from '../../src/masking/truncation.ts';
import { CounterRandom } from '../../src/random.ts';
import { binomial, expectFits } from '../helpers/chi_square.ts';

/** Draws in sequence; the seed is fixed, so that no test fails now and then. */
function sequence(seed: number): Draws {
  const random = new CounterRandom(seed, 99);
  let drawn = 0;
  return {
    rand: (n) => Float32Array.from({ length: n }, () => (random.words(drawn++, 0)[0] >>> 8) / 2 ** 24),
    randperm: (n) => random.permutation(n, drawn++, 1),
    randint: (n) => random.integer(n, drawn++, 2),
  };
}

/** Dual numbers a + b e, e^2 = 0: b is the derivative of a. */
type Dual = readonly [number, number];
const dual = {
  constant: (a: number): Dual => [a, 0],
  add: ([a, b]: Dual, [c, d]: Dual): Dual => [a + c, b + d],
  times: ([a, b]: Dual, [c, d]: Dual): Dual => [a * c, a * d + b * c],
  exp: ([a, b]: Dual): Dual => [Math.exp(a), Math.exp(a) * b],
  log: ([a, b]: Dual): Dual => [Math.log(a), b / a],
  cos: ([a, b]: Dual): Dual => [Math.cos(a), -Math.sin(a) * b],
  sqrt: ([a, b]: Dual): Dual => [Math.sqrt(a), b / (2 * Math.sqrt(a))],
};
const { constant, add, times, exp, log, cos, sqrt } = dual;

/** gamma(t) of each schedule, as the paper prints it, on dual numbers. */
const dualGamma: Record<string, (t: Dual) => Dual> = {
  linear: (t) => t,
  cosine: (t) => cos(times(constant(Math.PI / 2), add(constant(1), times(constant(-1), t)))),
  exp: (t) => add(constant(1), times(constant(-1), exp(times(constant(-5), t)))),
  'poly-0.5': (t) => sqrt(t),
  log: (t) => times(constant(0.2), log(add(constant(1), times(constant(Math.exp(5) - 1), t)))),
};

const grid = Array.from({ length: 200 }, (_, i) => (i + 0.5) / 200);

describe("gamma'/gamma by automatic differentiation", () => {
  test('is checked for every schedule', () => {
    expect(Object.keys(dualGamma).sort()).toEqual(Object.keys(maskSchedules).sort());
  });
  test.each(Object.keys(dualGamma))('%s', (name) => {
    const { gamma, gammaDerivative } = maskSchedule(name);
    for (const t of grid) {
      const [value, slope] = dualGamma[name]([t, 1]);
      expect(Math.abs(gamma(t) - value)).toBeLessThan(1e-14);
      expect(Math.abs(gammaDerivative(t) / slope - 1)).toBeLessThan(1e-11);
      expect(Math.abs(lossWeight(name, 'elbo', t) / (slope / value) - 1)).toBeLessThan(1e-11);
    }
  });

  test('truncated-normal: gamma inverts the distribution function, whose slope is 1/gamma', () => {
    const { gamma, gammaDerivative } = trainingSchedules['truncated-normal'];
    // The integral of the density from 0.7 by Simpson's rule, and the density itself.
    const density = (x: number) => Math.exp(-0.5 * ((x - 1) / 0.25) ** 2);
    const integral = (high: number, parts = 400) => {
      const h = (high - 0.7) / parts;
      const inner = Array.from({ length: parts - 1 }, (_, i) => (i % 2 ? 2 : 4) * density(0.7 + (i + 1) * h));
      return (h / 3) * (density(0.7) + inner.reduce((a, b) => a + b, 0) + density(high));
    };
    expect([gamma(0), gamma(1)].map((ratio) => Number(ratio.toFixed(12)))).toEqual([0.7, 1]);
    for (const t of grid) {
      expect(Math.abs(integral(gamma(t)) / integral(1) - t)).toBeLessThan(1e-10);
      expect(Math.abs((gammaDerivative(t) * density(gamma(t))) / integral(1) - 1)).toBeLessThan(1e-10);
    }
  });
});

/** The integral of f over [0, 1] by Gauss-Legendre (2 points a cell) in u, t = u^4: smooth for roots of t too. */
function integrate(f: (t: number) => number, cells = 500): number {
  let sum = 0;
  for (let i = 0; i < 2 * cells; i++) {
    const u = (Math.floor(i / 2) + 0.5 + ((i % 2) - 0.5) / Math.sqrt(3)) / cells;
    sum += (f(u ** 4) * 4 * u ** 3) / (2 * cells);
  }
  return sum;
}

/**
 * Weight of all masks with n of N tokens in the loss: the integral of w(t) P(n | t). As the masks of n tokens are equally
 * likely under both distributions, these N numbers are all of the loss that depends on distribution, schedule and w.
 */
const countWeight = {
  independent: (name: string, w: 'uniform' | 'elbo', n: number, size: number) => {
    let choose = 1;
    for (let i = 1; i <= n; i++) choose *= (size - n + i) / i;
    const { gamma } = maskSchedule(name);
    return integrate((t) => lossWeight(name, w, t) * choose * gamma(t) ** n * (1 - gamma(t)) ** (size - n));
  },
  /** ceil(gamma N) = n while (n - 1)/N < gamma <= n/N: the ends by bisection, in between a smooth integral. */
  'fixed-count': (name: string, w: 'uniform' | 'elbo', n: number, size: number) => {
    const { gamma } = maskSchedule(name);
    const inverse = (ratio: number) => {
      let [low, high] = [0, 1];
      for (let i = 0; i < 60; i++) {
        const middle = (low + high) / 2;
        if (gamma(middle) < ratio) low = middle;
        else high = middle;
      }
      return (low + high) / 2;
    };
    const [a, b] = [inverse((n - 1) / size), inverse(n / size)];
    return (b - a) * integrate((u) => lossWeight(name, w, a + (b - a) * u), 200);
  },
};

describe('the two mask distributions weigh the loss alike (the paper, appendix A)', () => {
  test.each(Object.keys(maskSchedules))("%s, w = gamma'/gamma: masks of n tokens weigh 1/n", (name) => {
    const size = 24;
    for (let n = 1; n <= size; n++) {
      // The integral over gamma of C(N, n) gamma^(n-1) (1 - gamma)^(N-n) is 1/n; exp ends at gamma = 0.9933.
      const top = maskSchedule(name).gamma(1);
      const beyond = integrate((u) => {
        const ratio = top + (1 - top) * u;
        let chance = 1;
        for (let i = 1; i <= n; i++) chance *= ((size - n + i) / i) * ratio;
        return (1 - top) * (chance / ratio) * (1 - ratio) ** (size - n);
      });
      expect(Math.abs(countWeight.independent(name, 'elbo', n, size) - (1 / n - beyond))).toBeLessThan(2e-7);
      // A fixed count has the integral of dgamma/gamma over its cell: ln(n / (n-1)), up to 1/(2 n^2) the same.
      if (n === 1 || n / size > top) continue;
      const fixed = countWeight['fixed-count'](name, 'elbo', n, size);
      expect(Math.abs(fixed - Math.log(n / (n - 1)))).toBeLessThan(1e-9);
      expect(fixed - 1 / n).toBeGreaterThan(0);
      expect(fixed - 1 / n).toBeLessThan(1 / (n * (n - 1)));
    }
  });

  test.each(Object.keys(maskSchedules))(
    '%s, w = 1: the same share of the loss for each mask ratio as N grows',
    (name) => {
      // Weight of all masks with a ratio up to 1/4, 1/2, 3/4: the difference falls as 1/N.
      const shares = (distribution: keyof typeof countWeight, size: number) =>
        [0.25, 0.5, 0.75].map((ratio) => {
          let sum = 0;
          // The expected number of masked tokens, over N, counts each mask once for each of its tokens.
          for (let n = 1; n <= ratio * size; n++)
            sum += (n / size) * countWeight[distribution](name, 'uniform', n, size);
          return sum;
        });
      const gap = (size: number) => {
        const [a, b] = [shares('independent', size), shares('fixed-count', size)];
        return Math.max(...a.map((share, i) => Math.abs(share - b[i])));
      };
      const [small, large] = [gap(16), gap(64)];
      expect(large).toBeLessThan(0.02);
      expect(large).toBeLessThan(0.4 * small);
    },
  );

  test.each(Object.keys(maskDistributions))(
    '%s: at equal counts every set of tokens is as likely (chi-square)',
    (name) => {
      const draws = sequence(5);
      const seqLen = 6;
      for (const exchangeable of [true, false]) {
        const seen = new Map<number, Float64Array>();
        const rows = 24000;
        for (let i = 0; i < rows / 8; i++) {
          const gammas = Array.from({ length: 8 }, (_, row) => [0.3, 0.6][row % 2]);
          const options = { schedule: { gamma: () => 0.5, gammaDerivative: () => 0, doc: 'half' }, batch: 8, seqLen };
          const mask = exchangeable
            ? randomMasking(draws, { ...options, distribution: name }).mask
            : maskDistribution(name).draw(draws, seqLen, gammas, false);
          for (let row = 0; row < 8; row++) {
            const bits = mask.subarray(row * seqLen, (row + 1) * seqLen);
            const count = bits.reduce((a, b) => a + b, 0);
            if (!seen.has(count)) seen.set(count, new Float64Array(2 ** seqLen));
            seen.get(count)![bits.reduce((code, bit, j) => code + bit * 2 ** j, 0)]++;
          }
        }
        if (name === 'fixed-count') expect([...seen.keys()].sort()).toEqual(exchangeable ? [3] : [2, 4]);
        for (const [count, codes] of seen) {
          const total = codes.reduce((a, b) => a + b, 0);
          const sets = [...codes.keys()].filter(
            (code) => [...code.toString(2)].filter((c) => c === '1').length === count,
          );
          // All masks of these counts are among the sets of that size.
          expect(sets.reduce((sum, code) => sum + codes[code], 0)).toBe(total);
          expectFits(
            sets.map((code) => codes[code]),
            sets.map(() => total / sets.length),
            `${count} masked`,
          );
        }
      }
    },
  );

  test('independent: the number of masked tokens is binomial (chi-square)', () => {
    const [seqLen, rows] = [12, 20000];
    const mask = maskDistributions.independent.draw(sequence(7), seqLen, new Array(rows).fill(0.35));
    const seen = new Array(seqLen + 1).fill(0);
    for (let row = 0; row < rows; row++) {
      seen[mask.subarray(row * seqLen, (row + 1) * seqLen).reduce((a, b) => a + b, 0)]++;
    }
    expectFits(
      seen,
      binomial(seqLen, 0.35).map((chance) => rows * chance),
      'masked tokens',
    );
  });

  test('fixed-count: exactly ceil(gamma N)', () => {
    for (const [gamma, count] of [
      [0, 0],
      [1e-6, 1],
      [0.5, 8],
      [0.501, 9],
      [1, 16],
    ]) {
      expect(maskedCount(gamma, 16)).toBe(count);
      const mask = maskDistributions['fixed-count'].draw(sequence(1), 16, [gamma], false);
      expect(mask.reduce((a, b) => a + b, 0)).toBe(count);
    }
  });
});

describe('time truncation', () => {
  const rows = 20000;
  const drawn = (truncation: string) =>
    Array.from(sequence(11).rand(rows), (u) => maskTime(u, { truncation, tMin: 0.2, margin: 0 }));
  const cells = (times: number[]) => {
    const seen = new Array(10).fill(0);
    for (const t of times) seen[Math.min(9, Math.floor(t * 10 + 1e-6))]++;
    return seen;
  };
  test('clamp: tMin itself with probability tMin, uniform above (chi-square)', () => {
    const times = drawn('clamp');
    expect(Math.min(...times)).toBe(Math.fround(0.2));
    const atMinimum = times.filter((t) => t === Math.fround(0.2)).length;
    expectFits([atMinimum, rows - atMinimum], [0.2 * rows, 0.8 * rows], 'at tMin');
    expectFits(
      cells(times),
      [0, 0, 0.3, ...new Array(7).fill(0.1)].map((share) => share * rows),
      'times',
    );
  });
  test('interval: uniform on [tMin, 1] (chi-square)', () => {
    const times = drawn('interval');
    expect(Math.min(...times)).toBeGreaterThanOrEqual(Math.fround(0.2));
    expect(times.filter((t) => t === Math.fround(0.2)).length).toBeLessThan(5);
    expectFits(
      cells(times),
      [0, 0, ...new Array(8).fill(1 / 8)].map((share) => share * rows),
      'times',
    );
  });
  test.each(Object.keys(timeTruncations))('%s: the margin comes after it; no truncation at 0', (truncation) => {
    expect(maskTime(0, { truncation, tMin: 0.2 })).toBeCloseTo(0.999 * 0.2 + 0.001, 6);
    expect(maskTime(0.5, { truncation })).toBeCloseTo(0.999 * 0.5 + 0.001, 6);
    expect(maskTime(0.5, { truncation, margin: 0 })).toBe(0.5);
    expect(() => maskTime(0.5, { truncation, tMin: 1.2 })).toThrow(/no time from 0 to 1/);
  });
});

describe('reveals', () => {
  const settings = Object.keys(maskSchedules).flatMap((name) => [8, 16].map((steps) => [name, steps] as const));
  test.each(settings)('%s in %i steps: N (gamma(t) - gamma(s)) tokens a step', (name, steps) => {
    const seqLen = 256;
    const { gamma } = maskSchedule(name);
    const times = samplingTimes(steps);
    const expected = expectedReveals(name, steps, seqLen);
    expect(expected.reduce((a, b) => a + b, 0)).toBeCloseTo(seqLen, 9);
    for (let i = 0; i < steps; i++) {
      const end = i === steps - 1 ? 0 : gamma(times[i + 1]);
      expect(expected[i]).toBeCloseTo((seqLen * (gamma(times[i]) - end)) / gamma(1), 9);
    }
    // Drawn counts, where nothing is forced: steps that reveal no token by chance are rare where 16 are expected.
    const trials = 1000;
    const mean = new Float64Array(steps);
    for (let seed = 0; seed < trials; seed++) {
      revealCounts({ seed, seqLen, steps, schedule: name }).forEach((count, i) => {
        mean[i] += count / trials;
      });
    }
    for (let i = 0; i < steps; i++) {
      if (expected[i] < 16 || [...expected.subarray(0, i)].some((count) => count < 16)) break;
      const deviation = Math.sqrt((expected[i] * (1 - expected[i] / seqLen)) / trials);
      expect(Math.abs(mean[i] - expected[i]), `step ${i}`).toBeLessThan(4.5 * deviation);
    }
    // Counts without chance follow within the rounding of the numbers left masked before and after.
    for (const counts of ['expected', 'floor'] as const) {
      let [sum, want] = [0, 0];
      revealCounts({ seed: 0, seqLen, steps, schedule: name, counts }).forEach((count, i) => {
        sum += count;
        want += expected[i];
        const slack = name === 'exp' && counts === 'floor' ? 1 + seqLen * (1 / gamma(1) - 1) : 1.01;
        if (expected[i] >= 1) expect(Math.abs(sum - want), `${counts}, step ${i}`).toBeLessThan(slack + 1e-4 * seqLen);
      });
    }
  });
});

describe('presets draw masks', () => {
  test.each(Object.keys(axisPresets))('%s: mask ratios follow gamma at the times given', (preset) => {
    const point = resolveAxes(preset);
    const draws = sequence(3);
    const [batch, seqLen] = [4, 64];
    const gamma = maskSchedule(point.schedule).gamma;
    let [deviation, variance] = [0, 0];
    const shared = !(point.network === 'single' && point.weighting !== 'uniform');
    for (let trial = 0; trial < 400; trial++) {
      const { mask, p } = drawMasks(draws, point, { batch, seqLen });
      const counts = Array.from({ length: batch }, (_, row) =>
        mask.subarray(row * seqLen, (row + 1) * seqLen).reduce((a, b) => a + b, 0),
      );
      if (shared) expect([new Set(counts).size, new Set(p).size]).toEqual([1, 1]);
      for (let row = 0; row < (shared ? 1 : batch); row++) {
        expect(p[row]).toBeGreaterThanOrEqual(Math.fround(point.tMin));
        const ratio = gamma(p[row], Math.fround);
        if (point.maskDistribution === 'fixed-count') expect(counts[row]).toBe(Math.ceil(seqLen * ratio));
        deviation += counts[row] - seqLen * ratio;
        variance += seqLen * ratio * (1 - ratio);
      }
      if (preset === 'mar') expect(counts[0]).toBeGreaterThanOrEqual(Math.ceil(0.7 * seqLen));
    }
    if (point.maskDistribution === 'independent') expect(Math.abs(deviation)).toBeLessThan(4.5 * Math.sqrt(variance));
  });

  test('mar: masked tokens are ceil(N ratio) of the truncated normal (chi-square)', () => {
    const draws = sequence(17);
    const [seqLen, trials] = [20, 6000];
    const seen = new Array(7).fill(0);
    for (let i = 0; i < trials; i++) {
      const { mask } = drawMasks(draws, axisPresets.mar, { batch: 1, seqLen });
      seen[mask.reduce((a, b) => a + b, 0) - 14]++;
    }
    // 15..20 of 20 are ratios in (0.7, 0.75], ..., (0.95, 1]; 14 needs a ratio of 0.7 itself.
    const density = (x: number) => Math.exp(-0.5 * ((x - 1) / 0.25) ** 2);
    const masses = seen.map((_, k) => {
      if (k === 0) return 0;
      const points = Array.from({ length: 200 }, (_, i) => density(0.7 + 0.05 * (k - 1 + (i + 0.5) / 200)));
      return points.reduce((a, b) => a + b, 0);
    });
    const total = masses.reduce((a, b) => a + b, 0);
    expectFits(
      seen,
      masses.map((mass) => (trials * mass) / total),
      'counts',
    );
  });
});
