/** Recorded draws of the official code, replayed: masks, counts and scales must come out as they were. */
import { describe, expect, test } from 'vitest';
import { type OfficialRevealPlan, officialRevealPlan } from '../../src/masking/official_reveal.ts';
import { randomMasking, randomMaskingPerRow } from '../../src/masking/random_masking.ts';
import { describeGolden, type Golden } from '../helpers/golden.ts';
import { replayDraws } from '../helpers/replay_draws.ts';

interface Case {
  bsz: number;
  num_iter: number;
  cfg: number;
  sched: string;
  mask_strategy?: string;
  cfg_t_min: number;
  cfg_t_max: number;
  steps_run: number;
  early_break: boolean;
  n_fallback: number;
  guided_steps: number[];
}

describeGolden('sample_*', (golden) => {
  const config = golden.meta('config');
  const cases = Object.entries<Case>(golden.meta('cases'));
  test('has cases', () => expect(cases.length).toBeGreaterThan(0));

  describe.each(cases)('%s', (name, settings) => {
    const first = `${name}.step000.`;
    const seqLen = golden.shape(`${first}mask_before`)[1];
    const draws = replayDraws(golden, `${name}.step`, ['randn', 'randn_like']);
    const plan = officialRevealPlan(draws, {
      steps: settings.num_iter,
      schedule: settings.mask_strategy ?? config.mask_strategy,
      batch: settings.bsz,
      seqLen,
      guidance: {
        cfg: settings.cfg,
        schedule: settings.sched,
        interval: [settings.cfg_t_min, settings.cfg_t_max],
      },
    });

    test('as many steps as were run, every draw consumed', () => {
      expect(draws.left()).toBe(0);
      expect(plan.steps.length).toBe(settings.steps_run);
      expect(plan.earlyBreak !== undefined).toBe(settings.early_break);
      const early = golden.names(`${name}.step`).filter((key) => key.endsWith('.early_break'));
      const expected = early.map((key) => Number(/\.step(\d+)\./.exec(key)?.[1]));
      expect(plan.earlyBreak === undefined ? [] : [plan.earlyBreak]).toEqual(expected);
      const guided = plan.steps.flatMap((step, i) => (step.guided ? [i] : []));
      // The step that breaks off had its network run before, guided or not.
      expect(guided).toEqual(settings.guided_steps.filter((i) => i !== plan.earlyBreak));
    });

    test('masks, uniform numbers, scales of every step', () => {
      for (let i = 0; i < plan.steps.length; i++) checkStep(golden, `${name}.step${`${i}`.padStart(3, '0')}.`, plan, i);
    });
  });
});

function checkStep(golden: Golden, prefix: string, plan: OfficialRevealPlan, i: number): void {
  const step = plan.steps[i];
  const scalar = (key: string) => golden.f64(prefix + key)[0];
  const equal = (key: string, ours: ArrayLike<number>) =>
    expect(Array.from(ours), prefix + key).toEqual([...golden.f64(prefix + key)]);
  equal('mask_before', step.maskBefore);
  equal('random_vals', step.randomValues);
  equal('mask_to_pred', step.maskToPredict);
  equal('mask_after', step.maskAfter);
  expect([step.t, step.s]).toEqual([scalar('t'), scalar('s')]);
  expect(step.fallback).toBe(scalar('fallback') === 1);
  expect(step.guided).toBe(scalar('tr_batch') > golden.shape(`${prefix}mask_before`)[0]);
  expect(Math.abs(step.probability - scalar('p_transfer'))).toBeLessThanOrEqual((4 * 2 ** -24) / step.t);
  expect(Math.abs(step.scale - scalar('cfg_iter'))).toBeLessThanOrEqual(2 ** -22 * Math.abs(step.scale));
}

describeGolden('train_masking', (golden) => {
  const cases = golden
    .names()
    .filter((name) => name.endsWith('.mask'))
    .map((name) => name.slice(0, -'.mask'.length));
  test('has cases', () => expect(cases.length).toBeGreaterThan(0));
  test.each(cases)('%s', (name) => {
    const schedule = name.slice(0, name.lastIndexOf('.'));
    const [batch, seqLen] = golden.shape(`${name}.mask`);
    const draws = replayDraws(golden, `${name}.draw`);
    const { mask, p } = name.endsWith('.batch')
      ? randomMaskingPerRow(draws, { schedule, batch, seqLen })
      : randomMasking(draws, { schedule, batch, seqLen, clampTMin: golden.meta('clamp_t_min')[name] });
    expect(draws.left()).toBe(0);
    expect([...mask]).toEqual([...golden.f64(`${name}.mask`)]);
    const expanded = Array.from({ length: batch * seqLen }, (_, i) => p[Math.floor(i / seqLen)]);
    expect(expanded).toEqual([...golden.f64(`${name}.p_mask`)]);
  });
});

test('masking of a single token could never have two masked, and is refused', () => {
  const draws = {
    rand: (n: number) => new Float32Array(n),
    randperm: (n: number) => new Int32Array(n),
    randint: () => 0,
  };
  expect(() => randomMasking(draws, { schedule: 'linear', batch: 1, seqLen: 1 })).toThrow(/at least 2 tokens/);
});
