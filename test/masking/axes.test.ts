import { describe, expect, test } from 'vitest';
import { EmigmError } from '../../src/errors.ts';
import {
  annealedTemperature,
  type Axes,
  type Axis,
  axes,
  axisPresets,
  describeAxes,
  drawMasks,
  parseAxes,
  resolveAxes,
} from '../../src/masking/axes.ts';
import { type RevealOrderName, revealOrders } from '../../src/masking/orders.ts';
import { randomMasking, randomMaskingPerRow } from '../../src/masking/random_masking.ts';
import { revealPlan } from '../../src/masking/reveal.ts';
import { trainingSchedules } from '../../src/masking/schedules.ts';
import { random } from '../helpers/numbers.ts';

const presets = Object.entries(axisPresets) as [string, Axes][];
const named = Object.entries(axes).filter(([, { choices }]) => choices);

describe('presets', () => {
  // The table of SPEC section 1 (the paper's table 1).
  test.each([
    ['maskgit', 'fixed-count', 'cosine', 'cosine', 'uniform', 'categorical', 'single', 'fake-class', 0],
    ['mdm', 'independent', 'linear', 'linear', 'elbo', 'categorical', 'single', 'fake-class', 0],
    ['mar', 'fixed-count', 'truncated-normal', 'cosine', 'uniform', 'diffusion', 'mae', 'fake-class', 0],
    ['emigm', 'independent', 'exp', 'exp', 'uniform', 'diffusion', 'mae', 'mask', 0.2],
  ])('%s', (preset, ...row) => {
    const point = resolveAxes(preset);
    const { maskDistribution, schedule, samplingSchedule, weighting, conditional, network, unconditional } = point;
    const given = [maskDistribution, schedule, samplingSchedule, weighting, conditional, network, unconditional];
    expect([...given, point.tMin]).toEqual(row);
  });

  test.each(presets)('%s goes through JSON unchanged and is described line by line', (preset, point) => {
    expect(parseAxes(JSON.parse(JSON.stringify(resolveAxes(preset))))).toEqual(point);
    const lines = describeAxes(point);
    expect(lines.length).toBe(Object.keys(axes).length);
    for (const [axis, value] of Object.entries(point)) {
      expect(lines.some((line) => line.startsWith(axis) && line.includes(` ${value} `))).toBe(true);
    }
  });

  test.each(presets)('%s: every choice of every axis can be set by itself', (preset) => {
    for (const [axis, { choices }] of named) {
      for (const choice of Object.keys(choices!)) {
        const before = resolveAxes(preset);
        const change = () => resolveAxes(preset, { [axis]: choice });
        const confident = { ...before, [axis]: choice };
        if (confident.order === 'confidence' && confident.conditional !== 'categorical') {
          expect(change).toThrow(/order "confidence" needs probabilities/);
          continue;
        }
        const follows = axis === 'schedule' && !trainingSchedules[choice].trainingOnly;
        expect(change()).toEqual({ ...before, [axis]: choice, ...(follows && { samplingSchedule: choice }) });
      }
    }
    expect(resolveAxes(preset, { tMin: 0.4, order: undefined })).toEqual({ ...resolveAxes(preset), tMin: 0.4 });
  });

  test('every choice says what it is', () => {
    for (const [axis, { doc, choices }] of Object.entries(axes)) {
      expect(doc.length, axis).toBeGreaterThan(10);
      for (const [name, choice] of Object.entries(choices ?? {})) expect(choice.doc, name).toBeTruthy();
    }
  });

  test('aliases of schedules become their names', () => {
    const point = resolveAxes('emigm', { schedule: 'sqrt', samplingSchedule: 'exponential' });
    expect([point.schedule, point.samplingSchedule]).toEqual(['poly-0.5', 'exp']);
  });

  test.each([
    ['magvit', {}, /preset "magvit" is unknown; choose one of maskgit, mdm, mar, emigm/],
    ['mar', { weighting: 'none' }, /preset mar: weighting: "none" is unknown; choose one of uniform, elbo/],
    [
      'mar',
      { samplingSchedule: 'truncated-normal' },
      /samplingSchedule: "truncated-normal" is unknown; choose one of linear/,
    ],
    ['mar', { tMin: 2 }, /tMin/],
    ['mar', { tmin: 0.2 }, /"tmin" is no axis; there are maskDistribution/],
  ])('%s with %j is refused', (preset, overrides, message) => {
    expect(() => resolveAxes(preset, overrides)).toThrow(EmigmError);
    expect(() => resolveAxes(preset, overrides)).toThrow(message);
  });

  test.each([[undefined], [null], [3], ['emigm'], [{ ...axisPresets.mar, network: undefined }]])(
    '%j is no point on the axes',
    (value) => expect(() => parseAxes(value, 'sidecar')).toThrow(/^sidecar: /),
  );

  test.each(presets)('%s: a run reveals every token exactly once', (_, point) => {
    const draw = random();
    for (let trial = 0; trial < 20; trial++) {
      const gridWidth = draw.integer(1, 12);
      const seqLen = gridWidth * draw.integer(1, 12);
      const steps = draw.integer(1, 64);
      // The confidence order is the device's: only the counts are planned here (test/ops has the selection).
      const order = point.order in revealOrders ? (point.order as RevealOrderName) : 'random';
      const { samplingSchedule: schedule, counts } = point;
      const options = { seed: draw.integer(0, 1e9), imageIndices: [3, 5], seqLen, gridWidth, steps, schedule };
      const plan = revealPlan({ ...options, counts, order });
      for (const image of [0, 1]) {
        const revealed = plan.steps.flatMap(({ positions }) => [...positions[image]]).sort((a, b) => a - b);
        expect(revealed).toEqual(Array.from({ length: seqLen }, (_, i) => i));
      }
      expect(plan.steps.length).toBeLessThanOrEqual(steps);
    }
  });
});

describe('drawMasks', () => {
  const draws = () => {
    const draw = random(4);
    return {
      rand: (n: number) => draw.uniform(n, 0, 1),
      randperm: (n: number) => Int32Array.from({ length: n }, (_, i) => i).sort(() => draw.next() - 0.5),
      randint: (n: number) => draw.integer(0, n - 1),
    };
  };
  const size = { batch: 3, seqLen: 20 };
  test('emigm: as the official code, draw for draw', () => {
    const expected = randomMasking(draws(), { ...size, schedule: 'exp', clampTMin: 0.2 });
    expect(drawMasks(draws(), axisPresets.emigm, size)).toEqual(expected);
  });
  test('single encoder with weights: each image its own time, clamp not applied, interval applied', () => {
    const change = { network: 'single', weighting: 'elbo' } as const;
    const expected = randomMaskingPerRow(draws(), { ...size, schedule: 'exp' });
    expect(drawMasks(draws(), resolveAxes('emigm', change), size)).toEqual(expected);
    const { p } = drawMasks(draws(), resolveAxes('emigm', { ...change, timeTruncation: 'interval', tMin: 0.9 }), size);
    for (const time of p) expect(time).toBeGreaterThan(0.9);
    expect(new Set(p).size).toBe(3);
  });
});

test('the choice temperature is annealed to 0 (MaskGIT)', () => {
  const temperatures = [0, 1, 2, 3].map((step) => annealedTemperature(4.5, step, 4));
  expect(temperatures).toEqual([3.375, 2.25, 1.125, 0]);
  const axis: Axis = 'choiceTemperature';
  expect(resolveAxes('maskgit')[axis]).toBe(4.5);
});
