/** `emigm train`: a run, its files, its continuation to the last bit, and one clear line for what cannot be. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { kebab } from '../../src/cli/options.ts';
import { readImage } from '../../src/formats/images.ts';
import { openSafetensors } from '../../src/formats/safetensors.ts';
import { readStepLog } from '../../src/formats/step_log.ts';
import { openModel } from '../../src/models/checkpoint.ts';
import { stateDictShapes } from '../../src/models/config.ts';
import { readRunConfig, writeRunConfig } from '../../src/training/run_config.ts';
import { emigm } from '../helpers/cli.ts';
import { pictureSet } from '../helpers/data_sets.ts';
import { random } from '../helpers/golden.ts';
import { toyConfig } from '../helpers/toy.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-train-'));
const data = join(folder, 'data');
const config = join(folder, 'config.json');
const at = (name: string) => join(folder, name);
const { classes: _, ...model } = toyConfig;
const training = {
  steps: 6,
  batch: 4,
  learningRate: 1e-3,
  warmupSteps: 2,
  diffusionBatchMul: 2,
  saveEvery: 2,
  sampleEvery: 0,
  emaDecay: 0.9,
};

beforeAll(async () => {
  await pictureSet(data, { circle: 4, square: 4, star: 5 }, random());
  writeFileSync(config, JSON.stringify({ name: 'toy', model, training, sampling: { steps: 2, headSteps: 2, cfg: 2 } }));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const train = (out: string, ...argv: string[]) =>
  emigm(['train', '--config', config, '--data', data, '--out', at(out), ...argv]);
const losses = async (out: string) => (await readStepLog(at(join(out, 'log.jsonl')))).map(({ loss }) => loss);

describe('a run', () => {
  it('leaves checkpoints, a log, events, a sheet and a model that samples', async () => {
    const result = await train('a', '--official');
    expect(result.code, result.err).toBe(0);
    expect(result.out).toMatch(/memory +[\d.]+ MB/);
    expect(result.out).toMatch(/6 steps of 4 images, 2\.0 epochs/);
    const names = readdirSync(at('a'));
    expect(names.filter((name) => name.startsWith('checkpoint'))).toEqual([
      'checkpoint-00000004.safetensors',
      'checkpoint-00000006.safetensors',
    ]);
    expect(names.some((name) => name.includes('tfevents'))).toBe(true);
    const log = await readStepLog(at('a/log.jsonl'));
    expect(log.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
    for (const line of log) {
      expect(line.loss).toBeGreaterThan(0);
      expect(line.gradient_norm).toBeGreaterThan(0);
    }
    expect(log.map(({ lr }) => lr)).toEqual([0, 5e-4, 1e-3, 1e-3, 1e-3, 1e-3]);
    expect((await readImage(at('a/samples/step-00000006.png'))).height).toBeGreaterThan(3 * 8);

    const drawn = await emigm(['sample', '--model', at('a/model.safetensors'), '-n', '1', '-o', at('a/out')]);
    expect(drawn.code, drawn.err).toBe(0);
    expect(readdirSync(at('a/out'))).toContain('star-0000.png');
    const file = await openModel(at('a/model.safetensors'));
    expect(file.info).toMatchObject({ name: 'toy', classNames: ['circle', 'square', 'star'], weights: 'model_ema' });
    await file.close();

    const official = await openSafetensors(at('a/official.safetensors'));
    const shapes = [...official.tensors].map(([name, { shape }]) => [name, [...shape]]);
    expect(Object.fromEntries(shapes)).toEqual(Object.fromEntries(stateDictShapes({ ...toyConfig, classes: 3 })));
    await official.close();
  });

  it('that is stopped and resumed goes on with the same numbers, and cannot be overwritten or changed', async () => {
    const stop = new AbortController();
    const stopped = emigm(['train', '--config', config, '--data', data, '--out', at('b')], stop.signal);
    while (!existsSync(at('b/log.jsonl')) || !readFileSync(at('b/log.jsonl'), 'utf8').includes('"step":1')) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    stop.abort();
    await stopped;
    const refused = await train('b');
    expect(refused.code).toBe(1);
    expect(refused.err).toMatch(/b holds a run of \d steps; go on with --resume/);
    const changed = await train('b', '--resume', '--learning-rate', '2e-3');
    expect(changed.code).toBe(1);
    expect(changed.err).toMatch(/learningRate 0.001, now it is 0.002/);
    const resumed = await emigm(['train', '--data', data, '--out', at('b'), '--resume']);
    expect(resumed.code, resumed.err).toBe(0);
    expect(await losses('b')).toEqual(await losses('a'));
    const further = await emigm(['train', '--data', data, '--out', at('b'), '--resume', '--steps', '8']);
    expect(further.code, further.err).toBe(0);
    expect(await losses('b')).toHaveLength(8);
  });

  it('that is killed leaves nothing half-written and goes on to the bit', { timeout: 120_000 }, async () => {
    const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
    const argv = ['--import', 'tsx', main, 'train', '--config', config, '--data', data, '--out', at('c')];
    for (const lines of [1, 3]) {
      const child = spawn(process.execPath, [...argv, '--resume'], { stdio: 'ignore' });
      const ended = new Promise((resolve) => child.once('exit', resolve));
      let seen = 0;
      while (seen < lines && child.exitCode === null) {
        await new Promise((resolve) => setTimeout(resolve, 10));
        seen = existsSync(at('c/log.jsonl')) ? readFileSync(at('c/log.jsonl'), 'utf8').split('\n').length - 1 : 0;
      }
      child.kill('SIGKILL');
      await ended;
    }
    const resumed = await train('c', '--resume');
    expect(resumed.code, resumed.err).toBe(0);
    expect(await losses('c')).toEqual(await losses('a'));
    expect(readdirSync(at('c')).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });
});

describe('flags', () => {
  it('are kept in the configuration of the run', () => {
    const text = readFileSync(config, 'utf8');
    const kept = writeRunConfig(text, { ...readRunConfig(text, {}, config), dataScale: 0.5 });
    expect(readRunConfig(kept, {}, 'config.json').dataScale).toBe(0.5);
  });

  it('there are for all that configurations set of training', async () => {
    const { out } = await emigm(['train', '--help']);
    const flags = new Set([...out.matchAll(/^ +(?:-\w, )?--(?:no-)?([\w-]+)/gm)].map(([, flag]) => flag));
    const others = ['name', 'description', 'source', 'license', 'model', 'training', 'sampling'];
    const configs = readdirSync('configs').map((name) => JSON.parse(readFileSync(join('configs', name), 'utf8')));
    const names = configs.flatMap((one) => [...Object.keys(one), ...Object.keys(one.training)]);
    const wanted = new Set(names.filter((name) => !others.includes(name)).map(kebab));
    expect(wanted).toContain('data-scale');
    expect([...wanted].filter((flag) => !flags.has(flag))).toEqual([]);
  });
});

describe('one clear line for', () => {
  it.each([
    ['no configuration', ['--data', data, '--out', at('x')], /name a configuration with --config/],
    [
      'an absent one',
      ['--config', at('absent.json'), '--data', data, '--out', at('x')],
      /absent\.json: .* cannot be read/,
    ],
    ['an absent folder', ['--config', config, '--data', at('absent'), '--out', at('x')], /absent/],
    ['a large batch', ['--config', config, '--data', data, '--out', at('x'), '--batch', '64'], /64.*13/],
    ['a bad rate', ['--config', config, '--data', data, '--out', at('x'), '--label-drop', '2'], /--label-drop/],
    [
      'a bad name',
      ['--config', config, '--data', data, '--out', at('x'), '--mask-schedule', 'sine'],
      /sine.*choose one of/,
    ],
    [
      'another scale than that of the run',
      ['--data', data, '--out', at('a'), '--resume', '--data-scale', '0.25'],
      /dataScale \d\.\d+, now it is 0\.25/,
    ],
    ['parts', ['--config', config, '--data', data, '--out', at('x'), '--micro-batch', '3'], /batch 4 .* microBatch 3/],
  ])('%s', async (_, argv, message) => {
    const result = await emigm(['train', ...argv]);
    expect(result.code).not.toBe(0);
    expect(result.err.split('\n').at(-1)).toMatch(message);
  });

  it('a hyper-parameter that does not exist', async () => {
    writeFileSync(at('bad.json'), JSON.stringify({ model, training: { ...training, learnRate: 1 } }));
    const result = await emigm(['train', '--config', at('bad.json'), '--data', data, '--out', at('x')]);
    expect(result.code).toBe(1);
    expect(result.err).toMatch(/"learnRate" is no hyper-parameter/);
  });
});
