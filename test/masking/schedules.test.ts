import { describe, expect, test } from 'vitest';
import { EmigmError } from '../../src/errors.ts';
import {
  checkGuidance,
  guidanceSchedules,
  inGuidanceInterval,
  nfe,
  plannedNfe,
  stepGuidance,
} from '../../src/masking/guidance.ts';
import {
  lossWeight,
  maskSchedule,
  maskSchedules,
  revealProbability,
  samplingTimes,
} from '../../src/masking/schedules.ts';
import { describeGolden } from '../helpers/golden.ts';

describeGolden('mask_schedules', (golden) => {
  const counts = golden.names().flatMap((name) => /^n(\d+)\.timesteps$/.exec(name)?.[1] ?? []);
  test('has cases', () => expect(counts.length).toBeGreaterThan(0));

  describe.each(counts.map(Number))('%i steps', (steps) => {
    const times = samplingTimes(steps);
    const prefix = `n${steps}.`;

    test('times, to the last bit', () => expect([...times]).toEqual([...golden.f64(`${prefix}timesteps`)]));

    const withProbability = golden.names(prefix).filter((name) => name.endsWith('.p_transfer'));
    test.each(withProbability)('%s', (name) => {
      const schedule = name.slice(prefix.length, -'.p_transfer'.length);
      const expected = golden.f64(name);
      expect(expected.length).toBe(steps);
      expected.forEach((value, i) => {
        const ours = i === steps - 1 ? 1 : revealProbability(schedule, times[i], times[i + 1]);
        // Probabilities are differences from 1, so a last place of the quotient is 2^-24. The reference may be one
        // last place off in each of two cosines or logarithms (2^-23 of the quotient each), or in each of two
        // exponentials, whose differences from 1 are divided by gamma(t).
        const amplified = schedule === 'exp' ? 1 / maskSchedules.exp.gamma(times[i]) : 1;
        expect(Math.abs(ours - value), `step ${i}`).toBeLessThanOrEqual(4 * 2 ** -24 * amplified);
      });
    });

    const guided = golden.names(prefix).filter((name) => name.endsWith('.cfg_iter'));
    test.each(guided)('%s', (name) => {
      const key = name.slice(0, -'.cfg_iter'.length);
      const interval = golden.meta('cfg_interval')[key] as [number, number];
      const guidance = { cfg: golden.meta('cfg') as number, schedule: key.slice(key.lastIndexOf('.') + 1), interval };
      const seqLen = golden.meta('seq_len') as number;
      const masked = golden.f64(`${key}.n_masked_after`);
      const rows = golden.f64(`${key}.tr_batch`);
      golden.f64(name).forEach((scale, i) => {
        const ours = stepGuidance(guidance, times[i + 1], seqLen - masked[i], seqLen);
        expect(ours.inInterval && guidance.cfg !== 1, `step ${i}`).toBe(rows[i] === 2);
        expect(Math.abs(ours.scale - scale), `step ${i}: ${ours.scale} against ${scale}`).toBeLessThanOrEqual(
          2 ** -22 * Math.abs(scale),
        );
        expect(ours.guided).toBe(ours.scale !== 1);
      });
    });

    const intervals = golden.names(`${prefix}in_interval.`);
    test.each(intervals)('%s', (name) => {
      const label = name.slice(`${prefix}in_interval.`.length);
      const bounds = label === 'exact' ? [...golden.f64(`${prefix}exact_bounds`)] : label.split('_').map(Number);
      const expected = [...golden.f64(name)].map(Boolean);
      const ours = Array.from(times.subarray(1), (s) => inGuidanceInterval(s, [bounds[0], bounds[1]]));
      expect(ours).toEqual(expected);
    });
  });

  interface Published {
    num_iter: number;
    interval: [number, number];
    guided_steps: number;
    transformer_evals_counting_2_per_guided_step: number;
  }
  test.each(Object.entries<Published>(golden.meta('nfe')))('NFE of %s', (_, published) => {
    const { num_iter: steps, interval, guided_steps: guided } = published;
    const evaluations = plannedNfe(samplingTimes(steps), { cfg: golden.meta('cfg'), interval });
    expect(evaluations).toBe(steps + guided);
    expect(evaluations).toBe(published.transformer_evals_counting_2_per_guided_step);
  });
});

describe('schedules', () => {
  const names = Object.keys(maskSchedules);
  const grid = Array.from({ length: 99 }, (_, i) => (i + 1) / 100);

  test.each(names)('%s rises from 0 to 1', (name) => {
    const { gamma } = maskSchedule(name);
    expect(gamma(0)).toBeCloseTo(0, 12);
    expect(gamma(1)).toBeCloseTo(1, 1);
    grid.forEach((t) => {
      expect(gamma(t)).toBeGreaterThan(gamma(t - 0.01));
    });
  });

  // Closed forms of gamma'/gamma as the paper prints them.
  const closedForms: Record<string, (t: number) => number> = {
    linear: (t) => 1 / t,
    cosine: (t) => (Math.PI / 2) * Math.tan((Math.PI / 2) * (1 - t)),
    exp: (t) => (5 * Math.exp(-5 * t)) / (1 - Math.exp(-5 * t)),
    'poly-0.5': (t) => 0.5 / t,
    log: (t) => (Math.exp(5) - 1) / ((1 + (Math.exp(5) - 1) * t) * Math.log(1 + (Math.exp(5) - 1) * t)),
  };
  test.each(names)("%s: w = gamma'/gamma by differences and in closed form", (name) => {
    const { gamma } = maskSchedule(name);
    grid.forEach((t) => {
      const step = 1e-5 * t;
      const numeric = (Math.log(gamma(t + step)) - Math.log(gamma(t - step))) / (2 * step);
      const weight = lossWeight(name, 'elbo', t);
      expect(Math.abs(weight - numeric) / (1 + Math.abs(numeric))).toBeLessThan(1e-7);
      expect(lossWeight(name, 'uniform', t)).toBe(1);
      if (closedForms[name]) expect(Math.abs(weight / closedForms[name](t) - 1)).toBeLessThan(1e-12);
    });
    expect(Object.keys(closedForms)).toEqual(expect.arrayContaining(names));
  });

  test('aliases and unknown names', () => {
    expect(maskSchedule('sqrt')).toBe(maskSchedules['poly-0.5']);
    expect(() => maskSchedule('toString')).toThrow(EmigmError);
    expect(() => maskSchedule('cosin')).toThrow(/linear, cosine/);
  });

  test.each([1, 2, 3, 15, 31, 47, 333, 1000])('%i steps: from 1 to 1e-5, falling, near exact spacing', (steps) => {
    const times = samplingTimes(steps);
    expect(times.length).toBe(steps + 1);
    expect(times[0]).toBe(1);
    times.forEach((t, i) => {
      expect(Math.abs(t - (1 + ((1e-5 - 1) * i) / steps))).toBeLessThan(1e-6);
      if (i > 0) expect(t).toBeLessThan(times[i - 1]);
    });
  });

  test.each([0, -3, 1.5, Number.NaN])('%s steps are refused', (steps) =>
    expect(() => samplingTimes(steps)).toThrow(EmigmError),
  );
});

describe('guidance', () => {
  test.each(Object.keys(guidanceSchedules))('%s ends at cfg and stays between 1 and cfg', (schedule) => {
    const scales = Array.from({ length: 64 }, (_, n) => stepGuidance({ cfg: 4, schedule }, 0.5, n + 1, 64).scale);
    expect(scales.at(-1)).toBeCloseTo(4, 1);
    expect(scales.every((scale) => scale >= 1 && scale <= 4)).toBe(true);
  });

  test('no guidance: cfg 1, outside of the interval, or a scale that rounds to 1', () => {
    expect(stepGuidance({ cfg: 1 }, 0.5, 10, 64).guided).toBe(false);
    expect(stepGuidance({ cfg: 4, interval: [0.1, 0.3] }, 0.5, 10, 64)).toEqual({
      inInterval: false,
      scale: 1,
      guided: false,
    });
    const tiny = stepGuidance({ cfg: 4, schedule: 'cubic' }, 0.5, 1, 4096);
    expect(tiny).toEqual({ inInterval: true, scale: 1, guided: false });
    expect(nfe([{ guided: true }, tiny, { guided: false }])).toBe(4);
  });

  test('the interval is open below and closed above, in float32', () => {
    expect(inGuidanceInterval(Math.fround(0.3), [0.1, 0.3])).toBe(true);
    expect(inGuidanceInterval(Math.fround(0.1), [0.1, 0.3])).toBe(false);
  });

  test.each([
    [{ cfg: Number.NaN }, /finite/],
    [{ cfg: 2, schedule: 'cubi' }, /constant, linear/],
    [{ cfg: 2, interval: [0.3, 0.1] as const }, /reversed; give 0.1,0.3/],
    [{ cfg: 2, interval: [0.3, 1.1] as const }, /between 0 and 1/],
  ])('%j is refused', (guidance, message) => expect(() => checkGuidance(guidance)).toThrow(message));
});
