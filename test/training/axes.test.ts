/** The axes in training: what hyper-parameters, configuration and flags resolve to, and the masks that come of it. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openSafetensors } from '../../src/formats/safetensors.ts';
import { Device } from '../../src/gpu/device.ts';
import { axisPresets, fewestMasked, resolveAxes } from '../../src/masking/axes.ts';
import { maskSchedules } from '../../src/masking/schedules.ts';
import { truncatedNormalDensity } from '../../src/masking/truncated_normal.ts';
import { openModel } from '../../src/models/checkpoint.ts';
import { drawMicroBatch } from '../../src/training/draws.ts';
import { initialParameters } from '../../src/training/initialize.ts';
import type { MicroBatch } from '../../src/training/micro_batch.ts';
import { Parameters } from '../../src/training/parameters.ts';
import { parseRunConfig, readRunConfig, writeRunConfig } from '../../src/training/run_config.ts';
import {
  checkHyperparameters,
  flatAxes,
  flatHyperparameters,
  type HyperparameterInput,
  resolveSettings,
} from '../../src/training/settings.ts';
import { checkSame, comparable } from '../../src/training/run.ts';
import { Trainer } from '../../src/training/trainer.ts';
import { expectFits } from '../helpers/chi_square.ts';
import { emigm } from '../helpers/cli.ts';
import { pictureSet } from '../helpers/data_sets.ts';
import { random } from '../helpers/golden.ts';
import { toyConfig } from '../helpers/toy.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-axes-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);
const { classes: _, ...network } = toyConfig;

/** P(ceil(ratio N) = k), k = 0..N, of MAR's ratio: the density integrated by the midpoint rule. */
function marCounts(seqLen: number): number[] {
  const steps = 1000;
  return Array.from({ length: seqLen + 1 }, (_, k) => {
    const [low, high] = [Math.max(0.7, (k - 1) / seqLen), k / seqLen];
    const width = (high - low) / steps;
    let sum = 0;
    for (let i = 0; width > 0 && i < steps; i++) sum += truncatedNormalDensity(low + (i + 0.5) * width) * width;
    return sum;
  });
}

const masks = (given: HyperparameterInput, runs: number, { images = 4, tokens = 16, mae = true } = {}) =>
  Array.from({ length: runs }, (_, i) => drawMicroBatch(checkHyperparameters(given), { images, tokens, mae }, i));
const counts = (mask: Float32Array, tokens = 16) =>
  Array.from({ length: mask.length / tokens }, (_, row) =>
    mask.subarray(row * tokens, (row + 1) * tokens).reduce((sum, one) => sum + one, 0),
  );

describe('hyper-parameters', () => {
  it('are eMIGM by default, any preset by name, and each axis by itself', () => {
    expect(checkHyperparameters({})).toMatchObject({ preset: 'emigm', axes: axisPresets.emigm });
    for (const preset of ['maskgit', 'mdm', 'mar', 'emigm'] as const) {
      expect(checkHyperparameters({ preset }).axes).toEqual(axisPresets[preset]);
      for (const [name, value] of Object.entries(flatAxes(resolveAxes('mdm')))) {
        const given = { preset, [name]: value, ...(name === 'maskSchedule' && { samplingSchedule: 'cosine' }) };
        if (name === 'conditional' && preset !== 'maskgit') continue;
        const wanted = { ...flatAxes(axisPresets[preset]), ...given, preset: undefined };
        if (preset === 'maskgit' || name !== 'order') {
          expect({ ...flatAxes(checkHyperparameters(given as object).axes), preset: undefined }).toEqual(wanted);
        }
      }
    }
    expect(checkHyperparameters({ maskSchedule: 'exponential', tMin: 0.4 }).axes).toEqual(
      resolveAxes('emigm', { tMin: 0.4 }),
    );
  });

  it('given as flags go before those of a file, and a preset among them puts the axes of the file aside', () => {
    const file = { preset: 'mar', maskSchedule: 'linear', tMin: 0.1 } as const;
    expect(checkHyperparameters(file, 'file', { weighting: 'elbo' }).axes).toEqual(
      resolveAxes('mar', { schedule: 'linear', tMin: 0.1, weighting: 'elbo' }),
    );
    expect(checkHyperparameters(file, 'file', { preset: 'emigm', tMin: 0.3 }).axes).toEqual(
      resolveAxes('emigm', { tMin: 0.3 }),
    );
    expect(checkHyperparameters(file, 'file', { maskSchedule: 'log' }).axes.samplingSchedule).toBe('log');
  });

  it('are the same when they are written and read', () => {
    const given = checkHyperparameters({ preset: 'mar', timeTruncation: 'interval', tMin: 0.3, batch: 7 });
    expect(checkHyperparameters(flatHyperparameters(given))).toEqual(given);
  });

  it.each([
    [{ preset: 'var' }, /preset/],
    [{ maskSchedule: 'sine' }, /"sine" is unknown; choose one of linear, cosine/],
    [{ samplingSchedule: 'truncated-normal' }, /samplingSchedule: "truncated-normal" is unknown/],
    [{ preset: 'mar', order: 'confidence' }, /order "confidence" needs probabilities of codes/],
    [{ labelSmoothing: 0.1 }, /labelSmoothing is of conditional "categorical"/],
    [{ tMin: 1.5 }, /tMin/],
  ])('%j are refused', (given, message) => {
    expect(() => checkHyperparameters(given)).toThrow(message);
  });
});

describe('a configuration', () => {
  const parse = (value: object, flags: HyperparameterInput = {}) => parseRunConfig(JSON.stringify(value), flags, 'run');

  it('takes what its network and its sampling say for axes', () => {
    const sampling = { steps: 4, cfg: 2, maskSchedule: 'log', cfgSchedule: 'cubic' };
    const model = { ...network, mae: false, maskGuidance: false };
    const run = parse({ model, training: { weighting: 'elbo' }, sampling });
    const said = { network: 'single', unconditional: 'fake-class', samplingSchedule: 'log', guidanceSchedule: 'cubic' };
    expect(run.hyperparameters.axes).toEqual(resolveAxes('emigm', { ...said, weighting: 'elbo' }));
    expect(run.info).toMatchObject({ preset: 'emigm', axes: run.hyperparameters.axes, sampling });
    expect(run.model).toMatchObject(model);
  });

  it('becomes MAR by a flag: network, masks and sampling; the guidance scale stays', () => {
    const sampling = { steps: 4, cfg: 2, maskSchedule: 'exp', headSampler: 'dpm-solver' };
    const text = JSON.stringify({ model: network, training: { tMin: 0.3 }, sampling });
    const run = parseRunConfig(text, { preset: 'mar' }, 'run');
    expect(run.hyperparameters.axes).toEqual(resolveAxes('mar'));
    expect(run.model).toMatchObject({ mae: true, maskGuidance: false });
    expect(run.info).toMatchObject({ preset: 'mar', sampling: { cfg: 2 } });
    expect(parseRunConfig(writeRunConfig(text, run), {}, 'kept')).toEqual(run);
    expect(parse({ model: 'b-256' }, { preset: 'mar' }).model.maskGuidance).toBe(false);
  });

  it('of codes is read with its network as it stands', () => {
    const model = { codebook: 512, width: 64 };
    const text = JSON.stringify({ model, training: { labelSmoothing: 0.1 } });
    const run = readRunConfig(text, { preset: 'maskgit' }, 'run');
    expect(run.network).toEqual(model);
    expect(run.hyperparameters).toMatchObject({ labelSmoothing: 0.1, axes: axisPresets.maskgit });
    expect(() => parseRunConfig(text, { preset: 'maskgit' }, 'run')).toThrow(/"categorical" needs a model of codes/);
  });
});

describe('a run that goes on', () => {
  const config = { ...toyConfig, maskGuidance: false };
  const facts = { size: 100, classes: ['a'], scale: 1 };
  const options = (given: HyperparameterInput, on = config) => {
    const settings = resolveSettings(checkHyperparameters({ batch: 4, steps: 9, ...given }), 100);
    return { folder: 'runs/a', config: on, settings, info: {}, data: facts };
  };
  const header = (run: ReturnType<typeof options>) => {
    const settings: Record<string, unknown> = JSON.parse(JSON.stringify(comparable(run)));
    return { step: 3, config: run.config, settings };
  };

  it('has the same axes, whatever they were called', () => {
    const before = header(options({ preset: 'mar', weighting: 'elbo' }));
    expect(() => checkSame(before, options({ preset: 'mar', weighting: 'elbo' }))).not.toThrow();
    expect(() =>
      checkSame(before, options(flatAxes(resolveAxes('mar', { weighting: 'elbo' })) as object)),
    ).not.toThrow();
    expect(() => checkSame(before, options({ preset: 'mar' }))).toThrow(/has weighting "elbo", now it is "uniform"/);
    expect(() => checkSame(before, options({ preset: 'mar', weighting: 'elbo', counts: 'expected' }))).toThrow(
      /counts/,
    );
  });

  it('was eMIGM if its checkpoint was saved before there were axes', () => {
    const old = header(options({}, toyConfig));
    for (const name of Object.keys(flatAxes(axisPresets.emigm))) {
      if (!['maskSchedule', 'weighting', 'tMin'].includes(name)) delete old.settings[name];
    }
    expect(() => checkSame(old, options({}, toyConfig))).not.toThrow();
    const changed = options({ timeTruncation: 'interval' }, toyConfig);
    expect(() => checkSame(old, changed)).toThrow(/timeTruncation "clamp", now it is "interval"/);
  });
});

describe('masks of a micro-batch', () => {
  it.each([
    ['clamp', 0.4],
    ['interval', 0.4],
    ['clamp', 0],
  ] as const)('with times by %s, tMin %d', (timeTruncation, tMin) => {
    const cells = 10;
    const seen = new Array<number>(cells).fill(0);
    const runs = 2000;
    let atLeast = 0;
    const least = Math.fround(0.999 * tMin + 0.001);
    for (const { p } of masks({ timeTruncation, tMin }, runs, { images: 1 })) {
      if (p[0] <= least + 1e-6) atLeast++;
      seen[Math.min(cells - 1, Math.floor(((p[0] - 0.001) / 0.999) * cells + 1e-6))]++;
    }
    const share = (i: number) => {
      if ((i + 1) / cells <= tMin + 1e-9) return 0;
      const own = 1 / cells / (timeTruncation === 'interval' ? 1 - tMin : 1);
      return timeTruncation === 'clamp' && Math.abs(i / cells - tMin) < 1e-9 ? own + tMin : own;
    };
    expectFits(
      seen,
      Array.from({ length: cells }, (_, i) => runs * share(i)),
      'times',
    );
    // The official clamp heaps a share tMin of all times at tMin itself, the paper's interval none.
    expectFits(
      [atLeast, runs - atLeast],
      timeTruncation === 'clamp' ? [runs * tMin, runs * (1 - tMin)] : [0, runs],
      'at tMin',
    );
  });

  it.each(Object.keys(maskSchedules))('mask gamma(p) of the tokens on average: %s', (maskSchedule) => {
    let [masked, expected, variance] = [0, 0, 0];
    for (const { mask, p } of masks({ maskSchedule, tMin: 0.5 }, 400, { images: 1, tokens: 64 })) {
      const gamma = maskSchedules[maskSchedule].gamma(p[0]);
      masked += counts(mask, 64)[0];
      expected += 64 * gamma;
      variance += 64 * gamma * (1 - gamma);
    }
    expect(Math.abs(masked - expected)).toBeLessThan(4 * Math.sqrt(variance));
  });

  it('share their count where the encoder drops tokens, and have their own in a single encoder with weights', () => {
    const spread = (given: HyperparameterInput, mae: boolean) =>
      masks(given, 20, { mae, images: 6 }).map(({ mask }) => new Set(counts(mask)).size);
    const shared: [HyperparameterInput, boolean][] = [
      [{ preset: 'mar' }, true],
      [{}, true],
      [{ weighting: 'elbo' }, true],
      [{}, false],
    ];
    for (const [given, mae] of shared) expect(Math.max(...spread(given, mae))).toBe(1);
    for (const maskDistribution of ['independent', 'fixed-count'] as const) {
      const given = { preset: 'mdm', maskDistribution } as const;
      expect(Math.max(...spread(given, false))).toBeGreaterThan(2);
    }
  });

  it('are never fewer than what the memory of a run is planned for', () => {
    for (const preset of ['mar', 'emigm'] as const) {
      for (const tMin of [0, 0.2, 0.5]) {
        const given = checkHyperparameters({ preset, tMin });
        const least = fewestMasked(given.axes, 64);
        const drawn = masks({ preset, tMin }, 500, { tokens: 64, images: 1 }).map(({ mask }) => counts(mask, 64)[0]);
        expect(Math.min(...drawn)).toBeGreaterThanOrEqual(least);
      }
    }
    expect(fewestMasked(axisPresets.mar, 256)).toBe(180); // ceil(0.7 * 256)
  });
});

describe('a run of MAR', () => {
  it('trains on masks whose ratio is the truncated normal', { timeout: 120_000 }, async () => {
    const device = await Device.open();
    const [batch, steps, tokens] = [4, 100, 16];
    const config = { ...toyConfig, maskGuidance: false, classes: 4 };
    const given = { preset: 'mar', batch, steps, diffusionBatchMul: 1, learningRate: 1e-3 } as const;
    const settings = resolveSettings(checkHyperparameters(given), batch);
    const parameters = new Parameters(device, config);
    await parameters.load(initialParameters(config, 0));
    const trainer = Trainer.of(parameters, settings);
    await trainer.prepare();
    // What goes to the device, as it goes.
    const seen = new Array<number>(tokens + 1).fill(0);
    const inner = trainer as unknown as { load(...args: unknown[]): MicroBatch };
    const load = inner.load.bind(trainer);
    inner.load = (...args) => {
      const loaded = load(...args);
      seen[loaded.shape.rows / batch]++;
      return loaded;
    };
    const images = Float32Array.from(random().normal(batch * 3 * 64));
    const data = { images, labels: Int32Array.from([0, 1, 2, 3]), indices: Int32Array.from([0, 1, 2, 3]) };
    const losses: number[] = [];
    for (let step = 0; step < steps; step++) losses.push((await (await trainer.submit(step, data)).result).loss);
    const chances = marCounts(tokens);
    expect(chances.reduce((a, b) => a + b)).toBeCloseTo(1, 6);
    expectFits(
      seen,
      chances.map((chance) => steps * chance),
      'masked tokens',
    );
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
    expect(mean(losses.slice(-20))).toBeLessThan(mean(losses.slice(0, 5)));
    trainer.dispose();
    parameters.dispose();
    device.dispose();
  });
});

describe('emigm train', () => {
  const training = { steps: 2, batch: 4, warmupSteps: 1, diffusionBatchMul: 1, sampleEvery: 0, saveEvery: 2 };
  const [data, config, run] = [at('data'), at('config.json'), at('run')];
  beforeAll(async () => {
    await pictureSet(data, { circle: 3, star: 3 }, random());
    writeFileSync(config, JSON.stringify({ model: network, training, sampling: { steps: 2, headSteps: 2, cfg: 2 } }));
  });

  it('--preset mar with an axis of its own: printed, and stored in run, checkpoint and model', async () => {
    const argv = ['--config', config, '--data', data, '--out', run, '--preset', 'mar', '--weighting', 'elbo'];
    const result = await emigm(['train', ...argv]);
    expect(result.code, result.err).toBe(0);
    expect(result.out).toMatch(/axes +mar, with weighting elbo\n/);
    expect(result.out).toMatch(/schedule +truncated-normal +gamma\(t\)/);
    const axes = resolveAxes('mar', { weighting: 'elbo' });
    const kept = JSON.parse(readFileSync(join(run, 'config.json'), 'utf8'));
    expect(kept.training).toMatchObject({ preset: 'mar', ...flatAxes(axes) });
    expect(kept.model).toMatchObject({ mae: true, maskGuidance: false });
    const checkpoint = await openSafetensors(join(run, 'checkpoint-00000002.safetensors'));
    expect(JSON.parse(checkpoint.metadata.settings)).toMatchObject(flatAxes(axes));
    await checkpoint.close();
    const model = await openModel(join(run, 'model.safetensors'));
    expect(model.info).toMatchObject({ preset: 'mar', axes, sampling: { cfg: 2 } });
    expect(model.names()).toContain('mask_token');
    await model.close();
  });

  it('the model is sampled as its file says', async () => {
    const flags = ['--steps', '4', '--head-steps', '3', '-n', '1', '-o', at('drawn')];
    const result = await emigm(['sample', '-m', join(run, 'model.safetensors'), ...flags]);
    expect(result.code, result.err).toBe(0);
    const sidecar = JSON.parse(readFileSync(join(at('drawn'), 'sample.json'), 'utf8'));
    expect(sidecar.axes).toEqual(resolveAxes('mar', { weighting: 'elbo' }));
    expect(sidecar.settings).toMatchObject({ headSampler: 'ddpm', counts: 'floor', cfgSchedule: 'linear', cfg: 2 });
    const shown = await emigm(['inspect', join(run, 'model.safetensors')]);
    expect(shown.out).toMatch(/axes +mar: maskDistribution fixed-count, schedule truncated-normal, weighting elbo/);
  });
});
