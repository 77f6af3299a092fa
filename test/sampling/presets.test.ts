/** Sampling along the axes: what each preset reveals and how it is guided, and what `emigm sample` says of it. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { axisPresets, resolveAxes } from '../../src/masking/axes.ts';
import { revealCountRules } from '../../src/masking/reveal.ts';
import { expectedReveals, maskSchedules } from '../../src/masking/schedules.ts';
import { saveModel } from '../../src/models/checkpoint.ts';
import { Emigm } from '../../src/models/emigm.ts';
import { axesOfRun, modelAxes, presetSettings, recommendedSettings, settingsOfAxes } from '../../src/sampling/axes.ts';
import { planBatch } from '../../src/sampling/plan.ts';
import { sample, type SampleProgress } from '../../src/sampling/sample.ts';
import { defaultSettings, resolveSettings } from '../../src/sampling/settings.ts';
import { emigm } from '../helpers/cli.ts';
import { toyConfig, toySource } from '../helpers/toy.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-presets-'));
let device: Device;
let model: Emigm;
beforeAll(async () => {
  device = await Device.open();
  model = await Emigm.load(device, toyConfig, toySource(toyConfig));
});
afterAll(() => {
  model?.dispose();
  device?.dispose();
  rmSync(folder, { recursive: true, force: true });
});

const tokens = 16;
const continuous = Object.keys(axisPresets).filter((name) => resolveAxes(name).order !== 'confidence');
/** A plan asks the model for its sizes alone. */
const planOnly = (seqLen: number) =>
  ({
    sequenceLength: seqLen,
    config: { ...toyConfig, imageSize: 2 * Math.sqrt(seqLen) },
    unconditional: 3,
  }) as unknown as Emigm;

describe('defaults', () => {
  it('are exactly those of eMIGM', () => {
    expect(resolveSettings({ ...presetSettings('emigm') })).toEqual(defaultSettings);
    expect(resolveSettings(recommendedSettings({}))).toEqual(defaultSettings);
    expect(resolveSettings(recommendedSettings({ preset: 'emigm', axes: resolveAxes('emigm') }))).toEqual(
      defaultSettings,
    );
  });

  it("of MAR are its code's", () => {
    expect(resolveSettings(presetSettings('mar'))).toMatchObject({
      ...{ steps: 64, headSampler: 'ddpm', headSteps: 100, temperature: 1 },
      ...{ maskSchedule: 'cosine', counts: 'floor', order: 'random', cfgSchedule: 'linear', cfgInterval: [0, 1] },
    });
  });

  it("come from the model's file: its axes, then the settings that it names", () => {
    const axes = resolveAxes('mar', { samplingSchedule: 'linear', order: 'halton' });
    const info = { preset: 'mar', axes, sampling: { steps: 9, cfgSchedule: 'power' } };
    expect(resolveSettings(recommendedSettings(info), { cfg: 2 })).toMatchObject({
      ...{ steps: 9, headSampler: 'ddpm', maskSchedule: 'linear', order: 'halton', counts: 'floor' },
      ...{ cfgSchedule: 'power', cfg: 2 },
    });
    expect(() => recommendedSettings({ axes: { order: 'sideways' } })).toThrow(
      /axes of the model file: order: "sideways"/,
    );
    expect(() => recommendedSettings({ preset: 'var' })).toThrow(/preset "var" is unknown/);
  });

  it('of a file without axes are eMIGM on its network, with the schedule that it recommends', () => {
    const config = { mae: false, maskGuidance: false };
    const expected = resolveAxes('emigm', { schedule: 'cosine', network: 'single', unconditional: 'fake-class' });
    expect(modelAxes(config, { sampling: { maskSchedule: 'cosine' } })).toEqual(expected);
    expect(modelAxes({ mae: true, maskGuidance: true }, {})).toEqual(resolveAxes('emigm'));
    const settings = resolveSettings({ maskSchedule: 'log', counts: 'expected', cfgSchedule: 'cubic' });
    expect(axesOfRun(expected, settings)).toEqual({
      ...expected,
      ...{ samplingSchedule: 'log', counts: 'expected', guidanceSchedule: 'cubic' },
    });
  });
});

describe('plans', () => {
  it.each([16, 64, 256])("of MAR follow its code's loop, %i tokens", (seqLen) => {
    for (const steps of [1, 2, 7, 16, seqLen, seqLen + 3]) {
      const settings = resolveSettings(presetSettings('mar'), { steps, cfg: 3.2 });
      const plan = planBatch(planOnly(seqLen), settings, [0, 1], [0, 1]);
      // models/mar.py, sample_tokens.
      let masked = seqLen;
      const expected = [];
      for (let step = 0; step < steps && masked > 0; step++) {
        const ratio = Math.cos(((Math.PI / 2) * (step + 1)) / steps);
        const next = Math.max(1, Math.min(masked - 1, Math.floor(seqLen * ratio + 1e-9)));
        const count = step >= steps - 1 ? masked : masked - next;
        // Later steps would find nothing to predict, and the one token left is predicted in the last.
        if (count > 0) expected.push({ count, cfg: 1 + ((3.2 - 1) * (seqLen - next)) / seqLen });
        masked = step >= steps - 1 ? 0 : next;
      }
      expect(plan.steps.map(({ positions }) => positions.map(({ length }) => length))).toEqual(
        expected.map(({ count }) => [count, count]),
      );
      for (const [i, { guidance }] of plan.steps.entries()) expect(guidance ?? 1).toBeCloseTo(expected[i].cfg, 5);
    }
  });

  it('of MAR keep the order of an image, whatever the steps; images differ', () => {
    const orders = [4, 16, 64].map((steps) => {
      const settings = resolveSettings(presetSettings('mar'), { steps, seed: 8 });
      return planBatch(planOnly(64), settings, [0, 0], [5, 6]).steps.map(({ positions }) => positions);
    });
    const ranks = (image: number, plan: (typeof orders)[0]) => {
      const rank = new Map<number, number>();
      for (const [step, positions] of plan.entries()) for (const p of Array.from(positions[image])) rank.set(p, step);
      return rank;
    };
    const [few, , many] = orders;
    for (const image of [0, 1]) {
      const [coarse, fine] = [ranks(image, few), ranks(image, many)];
      // A token that comes earlier in few steps never comes later in many.
      for (const [a, step] of coarse) {
        for (const [b, other] of coarse) if (step < other) expect(fine.get(a)!).toBeLessThan(fine.get(b)!);
      }
    }
    expect(ranks(0, many)).not.toEqual(ranks(1, many));
  });

  it.each(Object.keys(maskSchedules))('reveal N (gamma(t) - gamma(s)) tokens a step on average: %s', (maskSchedule) => {
    const [seqLen, steps, runs] = [256, 8, 300];
    const totals = new Float64Array(steps);
    for (let seed = 0; seed < runs; seed++) {
      const settings = resolveSettings({ steps, maskSchedule, seed });
      const plan = planBatch(planOnly(seqLen), settings, [0], [0]);
      for (const [step, { positions }] of plan.steps.entries()) totals[step] += positions[0].length / runs;
    }
    const expected = expectedReveals(maskSchedule, steps, seqLen);
    // No step may be empty, so that a step that reveals few reveals a trifle more, and later ones as much less.
    for (const [step, mean] of totals.entries()) {
      const bound = 4.5 * Math.sqrt(expected[step] / runs) + 0.4;
      expect(Math.abs(mean - expected[step]), `step ${step}: ${mean}`).toBeLessThan(bound);
    }
  });
});

describe('sampling', () => {
  const combinations = continuous.flatMap((preset) =>
    Object.keys(revealCountRules).flatMap((counts) =>
      ['random', 'halton', 'checkerboard'].map((order) => [preset, counts, order] as const),
    ),
  );

  it.each(combinations)('%s, %s counts, %s order: each token exactly once', (preset, counts, order) => {
    for (const steps of [1, 3, 16, 40]) {
      const settings = resolveSettings(settingsOfAxes(resolveAxes(preset, { counts, order })), { steps, seed: steps });
      const plan = planBatch(planOnly(64), settings, [0, 1, 2], [3, 1, 4]);
      for (const image of [0, 1, 2]) {
        const all = plan.steps.flatMap(({ positions }) => Array.from(positions[image]));
        expect(all.sort((a, b) => a - b)).toEqual(Array.from({ length: 64 }, (_, i) => i));
      }
    }
  });

  it.each(continuous)('%s on the device: every token is drawn, finite, and none twice', async (preset) => {
    const asked = {
      ...presetSettings(preset),
      steps: 5,
      headSteps: 3,
      cfg: 2,
      cfgInterval: [0, 1] as [number, number],
    };
    const seen: number[] = [];
    let before: Float32Array | undefined;
    const onStep = async ({ latents, revealed }: SampleProgress) => {
      const now = await latents();
      const changed = new Set<number>();
      for (let i = 0; i < now.length; i++) {
        const [row, column] = [Math.floor((i % 64) / 8), i % 8];
        if (now[i] !== (before?.[i] ?? 0)) changed.add(Math.floor(row / 2) * 4 + Math.floor(column / 2));
      }
      before = now;
      seen.push(...changed);
      expect([...new Set(seen)].sort((a, b) => a - b)).toEqual(
        [...(await revealed())[0].entries()].filter(([, on]) => on).map(([p]) => p),
      );
    };
    const { images } = await sample(model, { ...asked, classes: [1], onStep });
    expect(seen.sort((a, b) => a - b)).toEqual(Array.from({ length: tokens }, (_, i) => i));
    expect(images[0].latents.every(Number.isFinite)).toBe(true);
  });

  it('refuses what needs codes', async () => {
    const draw = (settings: object) => sample(model, { classes: [0], ...settings });
    await expect(draw(presetSettings('maskgit'))).rejects.toThrow(/order: "confidence" needs probabilities of codes/);
    await expect(draw({ topK: 5 })).rejects.toThrow(/topK: needs probabilities of codes/);
    await expect(draw({ maskSchedule: 'truncated-normal' })).rejects.toThrow(/serves training alone/);
  });
});

describe('emigm sample', () => {
  const file = join(folder, 'toy.safetensors');
  const draw = async (...argv: string[]) => {
    const out = join(folder, 'out');
    const flags = ['-c', '0', '-n', '1', '--steps', '4', '--head-steps', '3', '-o', out];
    const result = await emigm(['sample', '-m', file, ...flags, ...argv]);
    expect(result.code, result.err).toBe(0);
    return { result, sidecar: JSON.parse(readFileSync(join(out, 'sample.json'), 'utf8')) };
  };
  beforeAll(async () => {
    const read = async (name: string) => new Float32Array(await toySource(toyConfig).read(name));
    await saveModel(file, { config: toyConfig, info: { sampling: { cfg: 2.5 } }, read });
  });

  it('prints the axes and stores them', async () => {
    const plain = await draw();
    expect(plain.sidecar.axes).toEqual(resolveAxes('emigm'));
    expect(plain.result.out).toMatch(/axes: maskDistribution independent, schedule exp, .*counts official/);
  });

  it('--preset mar, and each axis by its flag', async () => {
    const { sidecar, result } = await draw('--preset', 'mar', '--order', 'halton');
    expect(sidecar.preset).toBe('mar');
    expect(sidecar.settings).toMatchObject({ counts: 'floor', headSampler: 'ddpm', steps: 4, headSteps: 3, cfg: 2.5 });
    expect(sidecar.nfe).toBe(8);
    const sampled = { samplingSchedule: 'cosine', counts: 'floor', order: 'halton', guidanceSchedule: 'linear' };
    expect(sidecar.axes).toEqual({ ...resolveAxes('emigm'), ...sampled });
    expect(result.out).toMatch(/samplingSchedule cosine, counts floor, order halton/);
  });
});
