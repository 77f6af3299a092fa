/** A sweep on a toy model: what is run, counted and kept. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import type { Dispatch } from '../../src/gpu/recorder.ts';
import { measurePeak } from '../../src/measurement/peak.ts';
import {
  checkPreset,
  modelPoints,
  type Point,
  pointId,
  points,
  presetSettings,
  sizeConfig,
} from '../../src/measurement/point.ts';
import { assemble, split } from '../../src/measurement/rows.ts';
import { checkRungs, checkUsed } from '../../src/measurement/rungs.ts';
import { type Header, type Line, parseLine, parseReport, VERSION } from '../../src/measurement/schema.ts';
import { sweep } from '../../src/measurement/sweep.ts';
import { commonText } from '../../src/measurement/tables.ts';
import { Workbench } from '../../src/measurement/workbench.ts';
import { saveModel } from '../../src/models/checkpoint.ts';
import { presets } from '../../src/models/config.ts';
import { checkDiscreteConfig, discreteParameterCount } from '../../src/models/discrete/config.ts';
import { loadDiscreteModel, saveDiscreteModel } from '../../src/models/discrete/file.ts';
import { loadModel } from '../../src/models/load.ts';
import { sampleAny } from '../../src/sampling/any.ts';
import { presetSettings as wholePreset } from '../../src/sampling/axes.ts';
import { emptyStats, sample } from '../../src/sampling/sample.ts';
import { toyCodebook, toyDiscrete, toyDiscreteSource } from '../helpers/discrete.ts';
import { toyConfig, toySource } from '../helpers/toy.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-sweep-'));
const model = join(folder, 'toy.safetensors');
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeAll(async () => {
  const read = async (name: string) => new Float32Array(await toySource(toyConfig).read(name));
  await saveModel(model, { config: toyConfig, info: { name: 'toy', sampling: { headSteps: 3, cfg: 2 } }, read });
});

const toyPoints = (some: Partial<Record<keyof Point, readonly unknown[]>> = {}) =>
  points({
    ...{ model: [model], preset: [undefined], stored: [undefined], kernel: [undefined], headSampler: [undefined] },
    ...{ headSteps: [undefined], cfg: [undefined], cfgInterval: [undefined], batch: [1, 2], steps: [2, 3] },
    ...some,
  } as Parameters<typeof points>[0]);

const header: Header = {
  kind: 'header',
  version: VERSION,
  machine: { adapter: 'A', driver: 'D', isCpu: true, cpu: 'C', versions: {} },
  peak: {
    flops: { perSecond: 1e12, size: 256, stored: 'f32', kernel: 'matmul/tiled' },
    bytes: { perSecond: 1e10, size: 1024 },
  },
  options: '{}',
};

async function run(asked: readonly Point[], repeats: number, finished: Line[] = [], options = {}): Promise<Line[]> {
  const bench = new Workbench(options);
  const lines: Line[] = [];
  try {
    await sweep(bench, { points: asked, repeats, finished, onLine: (line) => lines.push(line) });
    return lines;
  } finally {
    bench.dispose();
  }
}

describe('points', () => {
  it('every combination once, with an id of its own', () => {
    const all = toyPoints({
      cfgInterval: [
        [0, 1],
        [0.1, 0.3],
      ],
      stored: ['f32', 'f32'],
    });
    expect(all).toHaveLength(8);
    expect(new Set(all.map(pointId)).size).toBe(8);
    expect(pointId(all[0])).toBe('toy.safetensors f32 steps=2 interval=0..1 batch=1');
  });

  it('presets sample as their axes say, on networks of their own kind', () => {
    expect(presetSettings('mar')).toEqual({
      ...{ maskSchedule: 'cosine', counts: 'floor', order: 'random', cfgSchedule: 'linear' },
    });
    expect(presetSettings('maskgit')).toMatchObject({ order: 'confidence', maskSchedule: 'cosine', counts: 'floor' });
    const size = presets['xs-256'];
    expect(sizeConfig(size, {})).toBe(size);
    expect(sizeConfig(size, { preset: 'mar', codes: 12 })).toEqual({ ...size, maskGuidance: false });
    for (const preset of ['maskgit', 'mdm'] as const) {
      const { headDepth: _, headWidth: __, ...trunk } = size;
      const config = sizeConfig(size, { preset });
      expect(config).toEqual({ ...trunk, mae: false, maskGuidance: false, codes: 1024 });
      expect(checkDiscreteConfig(config)).toEqual(config);
      const more = sizeConfig(presets['xs-512'], { preset, codes: 16384 });
      expect(more).toMatchObject({ codes: 16384, vaeStride: 16, patchSize: 1 });
    }
    const file = 'a/toy.safetensors';
    expect(() => checkPreset({ model: file, preset: 'maskgit' }, false)).toThrow(
      /preset maskgit draws codes, toy.safetensors continuous tokens: take --preset mar or emigm .*--model b-256/,
    );
    expect(() => checkPreset({ model: file, preset: 'mar' }, true)).toThrow(/codes: take --preset maskgit or mdm/);
    for (const preset of ['maskgit', undefined] as const) checkPreset({ model: file, preset }, true);
  });
});

describe('combinations of a model', () => {
  const axes: Parameters<typeof modelPoints>[0] = {
    model: [],
    ...{ preset: ['emigm', 'maskgit'], codes: [256, 1024], stored: [undefined], kernel: [undefined], batch: [1] },
    ...{ headSampler: [undefined, 'ddpm'], headSteps: [4, 8], cfg: [1, 2], cfgInterval: [undefined], steps: [2] },
    ...{ headStepsLast: [undefined], shareEarly: [undefined], reuseEncoder: [undefined], counts: [undefined] },
  };
  const ids = (model: string, isDiscrete: boolean, preset: Point['preset'][] = [...axes.preset]) =>
    modelPoints({ ...axes, model: [model], preset }, isDiscrete).map(pointId);

  it('have savings where there is a head to save', () => {
    const saving = {
      ...axes,
      headStepsLast: [2, 4],
      shareEarly: [1, 4],
      reuseEncoder: [2],
      counts: ['expected'] as const,
    };
    const of = (preset: Point['preset']) => modelPoints({ ...saving, model: ['xs-256'], preset: [preset] }, false);
    const [emigm, maskgit] = [of('emigm').map(pointId), of('maskgit').map(pointId)];
    expect(emigm).toHaveLength(32);
    expect(emigm[0]).toBe(
      'xs-256 emigm steps=2 head=4 head-last=2 cfg=1 share-early=1 reuse-encoder=2 counts=expected batch=1',
    );
    expect(maskgit).toHaveLength(4);
    expect(maskgit[0]).toBe('xs-256 maskgit codes=256 steps=2 cfg=1 counts=expected batch=1');
  });

  it('leave out what a model of codes, or of none, does not have', () => {
    const size = ids('xs-256', false);
    expect(size.filter((id) => id.startsWith('xs-256 emigm'))).toHaveLength(8);
    expect(size.filter((id) => id.startsWith('xs-256 maskgit'))).toEqual(
      [256, 1024].flatMap((codes) => [1, 2].map((cfg) => `xs-256 maskgit codes=${codes} steps=2 cfg=${cfg} batch=1`)),
    );
    expect(ids('a.safetensors', true, [undefined])).toEqual(
      [1, 2].map((cfg) => `a.safetensors steps=2 cfg=${cfg} batch=1`),
    );
    expect(ids('a.safetensors', false, ['mar'])).toHaveLength(8);
    expect(() => ids('a.safetensors', true)).toThrow(/preset emigm draws continuous tokens, a.safetensors codes/);
  });
});

describe('a sweep', () => {
  it('runs every point in every round, in changing order, and goes on where it stopped', async () => {
    const asked = toyPoints();
    const lines = await run(asked, 3);
    for (const line of lines) expect(parseLine(JSON.parse(JSON.stringify(line)), 'line')).toEqual(line);
    const runs = lines.flatMap((line) => (line.kind === 'run' ? [line] : []));
    const rounds = [1, 2, 3].map((round) => runs.filter((line) => line.round === round).map(({ id }) => id));
    expect(runs.map(({ round }) => round)).toEqual([1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
    for (const ids of rounds) expect([...ids].sort()).toEqual(asked.map(pointId).sort());
    expect(new Set(rounds.map(String)).size).toBeGreaterThan(1);
    expect(lines.filter(({ kind }) => kind === 'facts')).toHaveLength(4);

    const kept = lines.slice(0, 5);
    const later = await run(asked, 3, kept);
    const keys = (all: readonly Line[]) =>
      all.flatMap((line) => (line.kind === 'run' ? [`${line.id} ${line.round}`] : []));
    expect(keys([...kept, ...later]).sort()).toEqual(keys(lines).sort());
    expect(await run(asked, 3, lines)).toEqual([]);

    const report = assemble(header, lines, asked.map(pointId), { date: 'now', command: 'emigm', repeats: 3 });
    expect(parseReport(JSON.parse(JSON.stringify(report)), 'report').rows).toHaveLength(4);
    const row = report.rows.find(({ id }) => id === 'toy.safetensors steps=3 batch=2')!;
    // Counted as a sampling run counts them.
    const loaded = await loadModel(model);
    const request = { classes: [0, 1], batch: 2, steps: 3, headSteps: 3, cfg: 2 };
    const { stats } = await sample(loaded.network, request);
    loaded.dispose();
    const { nfe, headEvaluations, dispatches } = stats;
    expect(row).toMatchObject({ nfe, headEvaluations, dispatches, batch: 2, stored: 'f32', kernel: 'default' });
    const { anImage, batch, firstImage, host } = row.seconds;
    expect(anImage.samples).toHaveLength(3);
    expect(anImage.median).toBeCloseTo(batch.median / 2, 12);
    expect(firstImage.median).toBeGreaterThanOrEqual(Math.min(...batch.samples));
    expect(host.median).toBeLessThan(batch.median);
    expect(row.flopsPerSecond).toBeCloseTo(row.flops / batch.median, 0);
    expect(row.shareOfPeak).toBeCloseTo(row.flopsPerSecond / 1e12, 12);
    // Work and times by part and by kernel are those of the whole.
    const work = Object.values(row.work);
    expect(work.reduce((sum, { flops }) => sum + flops, 0)).toBe(row.flops);
    expect(row.kernels!.reduce((sum, { flops }) => sum + flops, 0)).toBe(row.flops);
    expect(row.kernels!.reduce((sum, kernel) => sum + kernel.dispatches, 0)).toBe(row.dispatches);
    expect(Object.keys(row.parts).sort()).toEqual(['decoder', 'encoder', 'head', 'idle', 'rest']);
    expect(row.memory.weights).toBeGreaterThan(0);
  });

  it('runs models of codes, counted as a sampling run counts them', async () => {
    const codes = join(folder, 'codes.safetensors');
    const read = async (name: string) => new Float32Array(await toyDiscreteSource(toyDiscrete).read(name));
    const info = { name: 'toy codes', preset: 'maskgit', sampling: { cfg: 2 } };
    await saveDiscreteModel(codes, { config: toyDiscrete, info, codebook: toyCodebook, read });
    const asked = toyPoints({
      model: [codes],
      preset: [undefined, 'mdm'],
      batch: [2],
      steps: [3],
      cfgInterval: [[0, 1]],
    });
    const lines = await run(asked, 1);
    for (const line of lines) expect(parseLine(JSON.parse(JSON.stringify(line)), 'line')).toEqual(line);
    const { rows } = assemble(header, lines, asked.map(pointId), { date: 'now', command: 'emigm', repeats: 1 });
    const loaded = await loadDiscreteModel(codes);
    for (const [i, preset] of (['maskgit', 'mdm'] as const).entries()) {
      const row = rows[i];
      const stats = emptyStats();
      const settings = { ...wholePreset(preset), steps: 3, cfg: 2, classes: [0, 1], batch: 2 };
      for await (const _ of sampleAny(loaded.network, settings, stats));
      const { nfe, dispatches } = stats;
      expect(row).toMatchObject({ nfe, dispatches, headEvaluations: 0, batch: 2 });
      expect(row.model).toMatchObject({ codes: 12, tokens: 16, parameters: discreteParameterCount(toyDiscrete) });
      expect(row.settings).toMatchObject({ order: wholePreset(preset).order, steps: 3 });
      expect(row.settings).not.toHaveProperty('headSteps');
      expect(Object.keys(row.parts).sort()).toEqual(['decoder', 'encoder', 'head', 'idle', 'rest']);
    }
    loaded.dispose();
    // By confidence logits of all masked tokens are wanted, else of those to be revealed.
    expect(rows[0].work.head.flops).toBeGreaterThan(1.5 * rows[1].work.head.flops);
    expect(rows[0].nfe).toBe(6);
    expect(rows[0].preset).toBeUndefined();
  });

  it('counts the work of each batch, step and head step', async () => {
    const facts = (lines: readonly Line[]) => {
      return new Map(lines.flatMap((line) => (line.kind === 'facts' ? [[line.id, line.facts] as const] : [])));
    };
    const found = facts(await run(toyPoints({ headSteps: [2, 4], cfg: [1], kernel: [{ matmul: 'reference' }] }), 1));
    const of = (batch: number, steps: number, head: number) =>
      found.get(`toy.safetensors matmul=reference steps=${steps} head=${head} cfg=1 batch=${batch}`)!;
    expect(of(1, 2, 2).nfe).toBe(2);
    expect(of(1, 3, 2).nfe).toBe(3);
    expect(of(1, 2, 4).headEvaluations).toBe(2 * of(1, 2, 2).headEvaluations);
    expect(of(2, 2, 2).headEvaluations).toBe(2 * of(1, 2, 2).headEvaluations);
    expect(of(2, 2, 2).work.head.flops).toBeGreaterThan(1.9 * of(1, 2, 2).work.head.flops);
    expect(of(1, 2, 2).kernel).toBe('matmul=reference');
  });

  it('runs savings, and records them', async () => {
    const savings = { headStepsLast: [1], shareEarly: [1, 16], reuseEncoder: [2], counts: ['expected'] };
    const asked = toyPoints({ ...savings, batch: [1], steps: [3] });
    const { rows } = assemble(header, await run(asked, 1), asked.map(pointId), { date: '', command: '', repeats: 1 });
    const [exact, shared] = rows;
    const settings = { headSteps: 3, headStepsLast: 1, reuseEncoder: 2, counts: 'expected' };
    expect(exact.settings).toMatchObject({ ...settings, shareEarly: 1 });
    expect(shared.settings).toMatchObject({ ...settings, shareEarly: 16 });
    expect(shared.nfe).toBeLessThan(exact.nfe);
    expect(split(rows).varying).toEqual(['share early']);
    expect(commonText(rows)).toMatch(/head steps last 1, .*reuse encoder 2, counts expected/);
  });

  it('measures the same with room for one point at a time', async () => {
    const asked = toyPoints({ stored: ['f32', 'f16'], steps: [2] });
    const counts = (lines: readonly Line[]) => lines.map(({ kind }) => kind).sort();
    expect(counts(await run(asked, 2, [], { keepBytes: 0 }))).toEqual(counts(await run(asked, 2)));
  });

  it('stops between steps when it is told to', async () => {
    const bench = new Workbench();
    const stop = new AbortController();
    const lines: Line[] = [];
    const onLine = (line: Line) => {
      lines.push(line);
      if (lines.length === 3) stop.abort();
    };
    const running = sweep(bench, { points: toyPoints(), repeats: 2, finished: [], onLine, signal: stop.signal });
    await expect(running).rejects.toMatchObject({ code: 'aborted' });
    expect(lines).toHaveLength(3);
    bench.dispose();
  });
});

it('implementations that are not used are not measured under their name', async () => {
  const dispatch = (file: string, flops: number, op = 'matmul') =>
    ({ op, flops, kernel: { spec: { file } } }) as unknown as Dispatch;
  const used = [dispatch('matmul/few_rows', 9), dispatch('matmul/tiled', 1)];
  used.push(dispatch('norm/layernorm', 5, 'layernorm'));
  for (const matmul of ['tiled_vec4', 'few_rows', 'default']) checkUsed({ matmul, layernorm: 'layernorm' }, used);
  checkUsed({ matmul: 'cpu' }, [dispatch('matmul/cpu_f16', 1)]);
  for (const matmul of ['tiled', 'cpu_quad']) {
    expect(() => checkUsed({ matmul }, used)).toThrow(`most layers here cannot use matmul=${matmul}`);
  }
  const device = await Device.open();
  try {
    checkRungs(device, { matmul: 'reference', attention: 'default' });
    if (device.isCpu) expect(() => checkRungs(device, { matmul: 'subgroup_matrix' })).toThrow(/does not run on/);
  } finally {
    device.dispose();
  }
  // Weights in int8 have no kernel of this name.
  const asked = toyPoints({ stored: ['int8'], kernel: [{ matmul: 'tiled' }], batch: [1], steps: [2] });
  await expect(run(asked, 1)).rejects.toThrow(
    /^toy.safetensors int8 matmul=tiled .*: most layers here cannot use matmul=tiled/,
  );
});

it('the peak is a rate that the adapter has reached', async () => {
  const device = await Device.open();
  const { flops, bytes } = await measurePeak(device);
  expect(device.allocated).toBeLessThan(1e4);
  device.dispose();
  expect(flops.perSecond).toBeGreaterThan(1e8);
  expect(flops.size).toBeGreaterThanOrEqual(256);
  expect(flops.kernel).toMatch(/^matmul\//);
  expect(bytes.perSecond).toBeGreaterThan(1e8);
});
