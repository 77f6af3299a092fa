/** Models of codes from data to samples: quantise, train, go on, inspect, sample. */
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readCodebook } from '../../src/formats/codebook.ts';
import { axisPresets } from '../../src/masking/axes.ts';
import { loadDiscreteModel, sample } from '../../src/index.ts';
import { saveModel } from '../../src/models/checkpoint.ts';
import { modelKind } from '../../src/models/kind.ts';
import { emigm } from '../helpers/cli.ts';
import { toyDiscrete } from '../helpers/discrete.ts';
import { pictureSet } from '../helpers/data_sets.ts';
import { random } from '../helpers/golden.ts';
import { toyConfig, toySource } from '../helpers/toy.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-codes-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

const ok = async (...argv: string[]) => {
  const result = await emigm(argv);
  expect(result.code, result.err).toBe(0);
  return result.out;
};
const fails = async (...argv: string[]) => {
  const result = await emigm(argv);
  expect(result.code).not.toBe(0);
  return result.err;
};
const bytes = (name: string) => readFileSync(at(name)).toString('base64');

const {
  classes: _,
  codes: __,
  patchSize: ___,
  channels: ____,
  mae: _____,
  maskGuidance: ______,
  ...network
} = toyDiscrete;
const training = { batch: 4, steps: 4, learningRate: 1e-3, warmupSteps: 1, saveEvery: 2, sampleEvery: 0, keep: 9 };
const quantise = (out: string, ...more: string[]) =>
  ok(
    'data',
    'quantise',
    '--data',
    at('data'),
    '--patch',
    '2',
    '--codes',
    '12',
    '--size',
    '8',
    '--out',
    at(out),
    ...more,
  );
const train = (out: string, ...more: string[]) =>
  ok('train', '--config', at('c.json'), '--data', at('data'), '--out', at(out), '-q', ...more);

beforeAll(async () => {
  await pictureSet(at('data'), { blue: 4, red: 4 }, random());
  const config = { name: 'toy', model: network, training: { preset: 'maskgit', ...training }, sampling: { cfg: 1.5 } };
  writeFileSync(at('c.json'), JSON.stringify(config));
  expect(await quantise('book.safetensors')).toMatch(/12 codes of 3 x 2 x 2 from 128 patches.*PSNR \d+\.\d dB/);
  await train('maskgit', '--codebook', at('book.safetensors'), '--sample-every', '4');
});

describe('emigm data quantise', () => {
  it('makes the same codebook again, and says what it is', async () => {
    await quantise('again.safetensors', '-q');
    expect(bytes('again.safetensors')).toBe(bytes('book.safetensors'));
    const { size, channels, patch } = await readCodebook(at('book.safetensors'));
    expect({ size, channels, patch }).toEqual({ size: 12, channels: 3, patch: 2 });
    expect(await ok('inspect', at('book.safetensors'))).toMatch(/codes +12 patches of 3 x 2 x 2/);
  });

  it('refuses what cannot be, and to replace a file', async () => {
    const common = ['data', 'quantise', '--data', at('data'), '--size', '8'];
    expect(await fails(...common, '--patch', '3', '--out', at('x.safetensors'))).toMatch(/no multiple of --patch 3/);
    expect(await fails(...common, '--codes', '16385', '--out', at('x.safetensors'))).toMatch(/at most 16384/);
    expect(await fails(...common, '--patch', '2', '--out', at('book.safetensors'))).toMatch(/exists; replace/);
    expect(await fails(...common, '--out', at('x.bin'))).toMatch(/end in .safetensors/);
  });
});

describe('emigm train on codes', () => {
  it('goes on with the very numbers of a run that was never stopped', async () => {
    // What a run that was stopped after two steps leaves.
    mkdirSync(at('parts'));
    for (const name of ['checkpoint-00000002.safetensors', 'codebook.safetensors', 'config.json']) {
      copyFileSync(at(`maskgit/${name}`), at(`parts/${name}`));
    }
    await ok('train', '--data', at('data'), '--out', at('parts'), '--resume', '--steps', '4', '-q');
    expect(bytes('parts/checkpoint-00000004.safetensors')).toBe(bytes('maskgit/checkpoint-00000004.safetensors'));
    const [a, b] = ['parts', 'maskgit'].map((run) => bytes(`${run}/model.safetensors`));
    expect(a).toBe(b);
    expect(existsSync(at('maskgit/samples/step-00000004.png'))).toBe(true);
  });

  it('does not go on with another codebook, or begin without one', async () => {
    await quantise('other.safetensors', '--seed', '5', '-q');
    const resumed = ['train', '--data', at('data'), '--out', at('parts'), '--resume', '--steps', '6', '-q'];
    expect(await fails(...resumed, '--codebook', at('other.safetensors'))).toMatch(/has codebook/);
    const fresh = ['train', '--config', at('c.json'), '--data', at('data'), '--out', at('none'), '-q'];
    expect(await fails(...fresh)).toMatch(/needs a codebook: --codebook FILE; emigm data quantise/);
    const config = { model: { ...network, codes: 13 }, training: { preset: 'mdm', ...training } };
    writeFileSync(at('13.json'), JSON.stringify(config));
    const other = ['train', '--config', at('13.json'), '--data', at('data'), '--out', at('none'), '-q'];
    expect(await fails(...other, '--codebook', at('book.safetensors'))).toMatch(
      /12 codes of 3 x 2 x 2; the model needs 13/,
    );
  });
});

describe('a model of codes', () => {
  it.each(['maskgit', 'mdm'] as const)('of %s is inspected', async (preset) => {
    if (preset === 'mdm') await train('mdm', '--preset', 'mdm', '--codebook', at('book.safetensors'), '--steps', '1');
    const model = at(`${preset}/model.safetensors`);
    expect(await modelKind(model)).toBe('discrete');
    const shown = /codebook +12 codes[\s\S]*single encoder[\s\S]*order (confidence|random)/;
    expect(await ok('inspect', model)).toMatch(shown);
    const report = JSON.parse(await ok('inspect', model, '--json', '--tensors'));
    expect(report).toMatchObject({ kind: 'discrete', axes: axisPresets[preset], config: { codes: 12 } });
    expect(report.memory.f16.total).toBeGreaterThan(report.parameters.total);
  });

  it('is sampled, with all settings beside the images', async () => {
    const [model, out] = [at('maskgit/model.safetensors'), at('drawn')];
    const given = ['sample', '-m', model, '-n', '2', '--steps', '3', '--cfg-interval', '0,1', '--out', out];
    expect(await ok(...given, '--save-steps')).toMatch(/NFE 6/);
    const said = JSON.parse(readFileSync(join(out, 'sample.json'), 'utf8'));
    expect(said).toMatchObject({ nfe: 6, axes: axisPresets.maskgit, settings: { steps: 3, cfg: 1.5 } });
    expect(said.settings).not.toHaveProperty('headSteps');
    for (const name of ['sheet.png', 'reveal.gif', 'red-0001.png'])
      expect(existsSync(join(out, name)), name).toBe(true);
    expect(await fails('sample', '-m', model, '--head-steps', '3', '--out', out)).toMatch(/is of a diffusion head/);
    expect(await fails('sample', '-m', model, '--share-early', '3', '--out', out)).toMatch(
      /--share-early.*draws codes/,
    );
  });
});

describe('other files', () => {
  it('are told apart', async () => {
    expect(await fails('inspect', at('maskgit/checkpoint-00000004.safetensors'))).toMatch(
      /checkpoint of a training run/,
    );
    await saveModel(at('continuous.safetensors'), {
      config: toyConfig,
      info: {},
      read: async (name) => (await toySource(toyConfig).read(name)) as Float32Array<ArrayBuffer>,
    });
    const refused = ['sample', '-m', at('continuous.safetensors'), '--out', at('no')];
    expect(await fails(...refused, '--order', 'confidence')).toMatch(/needs probabilities of codes/);
    await expect(loadDiscreteModel(at('continuous.safetensors'))).rejects.toThrow(/is no model of codes/);
  });

  it('of a model of codes can be drawn from in a program', async () => {
    const model = await loadDiscreteModel(at('maskgit/model.safetensors'));
    const { images, stats } = await sample(model, { classes: ['red', 0], steps: 2, topK: 4, seed: 5 });
    model.dispose();
    expect(images.map(({ image }) => image?.width)).toEqual([8, 8]);
    expect(stats.nfe).toBe(4);
  });
});
