import { describe, expect, test } from 'vitest';
import { EmigmError } from '../../src/errors.ts';
import { haltonOrder, type RevealOrderName, revealOrders } from '../../src/masking/orders.ts';
import { type RevealCounts, revealCountRules, revealCounts, revealPlan } from '../../src/masking/reveal.ts';
import { maskSchedules, revealProbability, samplingTimes } from '../../src/masking/schedules.ts';
import { binomial, chiSquareQuantile, expectFits } from '../helpers/chi_square.ts';
import { random } from '../helpers/numbers.ts';

const orders = Object.keys(revealOrders) as RevealOrderName[];
const schedules = Object.keys(maskSchedules);
const kinds = Object.keys(revealCountRules) as RevealCounts[];
const identity = (n: number) => Array.from({ length: n }, (_, i) => i);

describe('reveal plan', () => {
  const settings = orders.flatMap((order) => schedules.flatMap((s) => kinds.map((k) => [order, s, k] as const)));
  test.each(settings)('%s, %s, %s: every token of every image once, no empty step', (order, schedule, counts) => {
    const inputs = random();
    for (let trial = 0; trial < 12; trial++) {
      const gridWidth = inputs.integer(1, 9);
      const seqLen = gridWidth * inputs.integer(1, 9);
      const steps = inputs.integer(1, 40);
      const seed = inputs.integer(0, 1e9);
      const imageIndices = identity(3).map(() => inputs.integer(0, 50000));
      const plan = revealPlan({ seed, imageIndices, seqLen, gridWidth, steps, schedule, counts, order });
      expect(plan.steps.length).toBeLessThanOrEqual(steps);
      expect([...plan.times]).toEqual([...samplingTimes(steps)]);
      imageIndices.forEach((_, image) => {
        const revealed = plan.steps.flatMap((step) => [...step.positions[image]]);
        expect(revealed.sort((a, b) => a - b)).toEqual(identity(seqLen));
      });
      let known = 0;
      plan.steps.forEach((step, i) => {
        expect(step.count).toBeGreaterThanOrEqual(1);
        expect([step.t, step.s]).toEqual([plan.times[i], plan.times[i + 1]]);
        expect(step.revealedAfter).toBe((known += step.count));
        for (const positions of step.positions) {
          expect(positions.length).toBe(step.count);
          expect([...positions]).toEqual([...positions].sort((a, b) => a - b));
        }
      });
      expect(known).toBe(seqLen);
      if (counts !== 'official') expect(plan.steps.length).toBe(Math.min(steps, seqLen));
    }
  });

  test.each(orders)('%s: an image does not depend on the batch it is in', (order) => {
    const options = { seed: 42n, seqLen: 64, gridWidth: 8, steps: 12, schedule: 'exp', order } as const;
    const together = revealPlan({ ...options, imageIndices: [5, 900, 2, 7] });
    const alone = revealPlan({ ...options, imageIndices: [2] });
    expect(alone.steps.map((step) => step.positions[0])).toEqual(together.steps.map((step) => step.positions[2]));
    const none = revealPlan({ ...options, imageIndices: [] });
    expect(none.steps.map((step) => step.count)).toEqual(together.steps.map((step) => step.count));
  });

  test('random orders differ between images and seeds', () => {
    const options = { seed: 1, seqLen: 64, gridWidth: 8, steps: 8, schedule: 'linear' };
    const plan = revealPlan({ ...options, imageIndices: [0, 1] });
    const other = revealPlan({ ...options, seed: 2, imageIndices: [0] });
    const flat = (p: typeof plan, image: number) => p.steps.flatMap((step) => [...step.positions[image]]);
    expect(flat(plan, 0)).not.toEqual(flat(plan, 1));
    expect(flat(plan, 0)).not.toEqual(flat(other, 0));
  });

  test.each([
    [{ order: 'spiral' as RevealOrderName }, /random, halton, checkerboard/],
    [{ counts: 'many' as RevealCounts }, /official, expected, floor/],
    [{ gridWidth: 7 }, /rows of 7/],
    [{ steps: 0 }, /positive integer/],
    [{ schedule: 'none' }, /unknown/],
  ])('%j is refused', (bad, message) => {
    const good = { seed: 0, imageIndices: [0], seqLen: 64, gridWidth: 8, steps: 8, schedule: 'exp' };
    expect(() => revealPlan({ ...good, ...bad })).toThrow(EmigmError);
    expect(() => revealPlan({ ...good, ...bad })).toThrow(message);
  });
});

describe('reveal counts', () => {
  // The seeds are 0..trials-1, so these are fixed numbers: no test fails now and then.
  const trials = 4000;

  test.each(schedules)('%s: official counts follow the sampler step by step (chi-square)', (schedule) => {
    const [seqLen, steps] = [16, 6];
    const times = samplingTimes(steps);
    // Distribution of the number of masked tokens, carried through the steps of the official sampler.
    let masked = new Array(seqLen + 1).fill(0);
    masked[seqLen] = 1;
    const runs = Array.from({ length: trials }, (_, seed) => revealCounts({ seed, seqLen, steps, schedule }));
    for (let step = 0; step < steps - 1; step++) {
      const after = new Array(seqLen + 1).fill(0);
      const p = revealProbability(schedule, times[step], times[step + 1]);
      masked.forEach((chance, m) => {
        if (m === 0) after[0] += chance;
        else
          binomial(m, p).forEach((share, k) => {
            after[m - Math.max(1, k)] += chance * share;
          });
      });
      const seen = new Array(seqLen + 1).fill(0);
      for (const run of runs) seen[seqLen - run.slice(0, step + 1).reduce((sum, n) => sum + n, 0)]++;
      expectFits(
        seen,
        after.map((chance) => trials * chance),
        `step ${step}`,
      );
      masked = after;
    }
  });

  test.each(schedules)('%s: on average N (1 - gamma(s)/gamma(1)) tokens are known', (schedule) => {
    const [seqLen, steps, few] = [256, 8, 300];
    const { gamma } = maskSchedules[schedule];
    const times = samplingTimes(steps);
    const known = new Float64Array(steps);
    for (let seed = 0; seed < few; seed++) {
      let sum = 0;
      revealCounts({ seed, seqLen, steps, schedule }).forEach((count, step) => {
        known[step] += (sum += count) / few;
      });
    }
    const expected = revealCounts({ seed: 0, seqLen, steps, schedule, counts: 'expected' });
    let sum = 0;
    for (let step = 0; step < steps - 1; step++) {
      const ratio = gamma(times[step + 1]) / gamma(1);
      const deviation = Math.sqrt((seqLen * ratio * (1 - ratio)) / few);
      // An empty draw reveals one token all the same: at most (1 - p)^masked of a token for each step.
      let forced = 0;
      for (let i = 0; i <= step; i++) {
        const p = revealProbability(schedule, times[i], times[i + 1]);
        forced += (1 - p) ** ((seqLen * gamma(times[i])) / gamma(1));
      }
      expect(known[step] - seqLen * (1 - ratio)).toBeGreaterThan(-5 * deviation);
      expect(known[step] - seqLen * (1 - ratio)).toBeLessThan(5 * deviation + forced + 0.1);
      sum += expected[step];
      expect(Math.abs(sum - seqLen * (1 - ratio))).toBeLessThanOrEqual(0.5 + step);
    }
  });

  test('expected counts draw nothing: the seed does not matter', () => {
    const counts = (seed: number) => revealCounts({ seed, seqLen: 64, steps: 20, schedule: 'exp', counts: 'expected' });
    expect(counts(1)).toEqual(counts(2));
  });

  // What LTH14/mar computes: np.floor(seq_len * np.cos(math.pi / 2. * (step + 1) / num_iter)), at least one masked and at
  // least one revealed, the rest in the last step; MaskGIT's code rounds the same way.
  test.each([1, 2, 3, 8, 12, 16, 48, 64, 100, 256])('floor: counts of MAR and MaskGIT in %i steps', (steps) => {
    for (const seqLen of [16, 64, 256, 1024]) {
      let masked = seqLen;
      const expected: number[] = [];
      for (let step = 0; step < steps && masked > 0; step++) {
        const ratio = Math.cos(((Math.PI / 2) * (step + 1)) / steps);
        let next = Math.max(1, Math.min(masked - 1, Math.floor(seqLen * ratio)));
        if (step === steps - 1) next = 0;
        if (masked > next) expected.push(masked - next);
        masked = next;
      }
      const counts = revealCounts({ seed: 0, seqLen, steps, schedule: 'cosine', counts: 'floor' });
      expect(counts).toEqual(expected);
    }
  });

  test('floor: guidance of the last step counts one token as masked, as the official MAR', () => {
    const options = { seed: 0, imageIndices: [0], seqLen: 64, gridWidth: 8, steps: 8, schedule: 'cosine' };
    const plan = revealPlan({ ...options, counts: 'floor' });
    expect(plan.steps.map((step) => step.revealedForGuidance)).toEqual([
      ...plan.steps.slice(0, -1).map((step) => step.revealedAfter),
      63,
    ]);
    for (const step of revealPlan(options).steps) expect(step.revealedForGuidance).toBe(step.revealedAfter);
  });

  test('a schedule that serves training alone is refused', () => {
    const options = { seed: 0, seqLen: 64, steps: 8, schedule: 'truncated-normal' };
    for (const counts of kinds) expect(() => revealCounts({ ...options, counts })).toThrow(/serves training alone/);
  });

  test('more steps than tokens: one token a step, then the end', () => {
    const counts = revealCounts({ seed: 0, seqLen: 5, steps: 50, schedule: 'linear', counts: 'expected' });
    expect(counts).toEqual([1, 1, 1, 1, 1]);
  });
});

describe('reveal orders', () => {
  test('random: each token is as often in the first step as any other (chi-square)', () => {
    const [seqLen, images] = [16, 8000];
    const options = { seed: 9, seqLen, gridWidth: 4, steps: 4, schedule: 'linear' };
    const plan = revealPlan({ ...options, imageIndices: identity(images) });
    const { count, positions } = plan.steps[0];
    const seen = new Array(seqLen).fill(0);
    for (const tokens of positions) for (const token of tokens) seen[token]++;
    // Tokens are drawn without replacement: cells vary less than independent ones would, by (N - n) / (N - 1).
    const expected = (images * count) / seqLen;
    const chiSquare = seen.reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0);
    expect(chiSquare / ((seqLen - count) / (seqLen - 1))).toBeLessThan(chiSquareQuantile(seqLen - 1));
  });

  test('halton: the sequence, by hand for 4 x 4', () => {
    // Base 2: 1/2 1/4 3/4 1/8 5/8 ..., base 3: 1/3 2/3 1/9 4/9 7/9 ...
    expect([...haltonOrder(16, 4)].slice(0, 5)).toEqual([1 * 4 + 2, 2 * 4 + 1, 0 * 4 + 3, 1 * 4 + 0, 3 * 4 + 2]);
  });

  test.each([2, 3, 5, 8, 16, 32])(
    'halton: a quarter of the tokens of a grid of %i is spread over its quarters',
    (size) => {
      const order = haltonOrder(size * size, size);
      expect([...order].sort((a, b) => a - b)).toEqual(identity(size * size));
      if (size < 8) return;
      const quarters = [0, 0, 0, 0];
      for (const token of order.slice(0, order.length / 4)) {
        quarters[2 * Number(token >= order.length / 2) + Number(token % size >= size / 2)]++;
      }
      for (const n of quarters) expect(Math.abs(n / (order.length / 16) - 1)).toBeLessThan(0.3);
    },
  );

  test('checkerboard: all even cells before any odd one', () => {
    const gridWidth = 6;
    const order = revealOrders.checkerboard.order({ seed: 3, seqLen: 36, gridWidth }, 8);
    const parities = [...order].map((token) => (Math.floor(token / gridWidth) + (token % gridWidth)) % 2);
    expect(parities).toEqual([...new Array(18).fill(0), ...new Array(18).fill(1)]);
  });
});
