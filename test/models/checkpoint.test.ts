import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { EmigmError } from '../../src/errors.ts';
import { args, openTorchCheckpoint, stateDict } from '../../src/formats/pytorch.ts';
import { openSafetensors, writeSafetensors } from '../../src/formats/safetensors.ts';
import { type OpenModelOptions, openModel, saveModel } from '../../src/models/checkpoint.ts';
import {
  checkConfig,
  type ModelConfig,
  parameterCounts,
  parameterShapes,
  presets,
  stateDictShapes,
} from '../../src/models/config.ts';
import { inferConfig } from '../../src/models/infer.ts';
import { checkInfo, infoFromArgs } from '../../src/models/info.ts';
import { formulaWeight, goldenFiles, goldenPath, loadGolden } from '../helpers/golden.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-models-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function fault(promise: Promise<unknown>): Promise<EmigmError> {
  const error = await promise.then(
    () => new Error('nothing was thrown'),
    (thrown) => thrown,
  );
  expect(error).toBeInstanceOf(EmigmError);
  expect(error.message).not.toContain('\n');
  return error;
}

const tiny: ModelConfig = {
  imageSize: 16,
  vaeStride: 1,
  patchSize: 4,
  channels: 3,
  classes: 3,
  bufferSize: 2,
  encoderWidth: 16,
  encoderDepth: 1,
  encoderHeads: 2,
  decoderWidth: 16,
  decoderDepth: 2,
  decoderHeads: 2,
  headDepth: 1,
  headWidth: 24,
  mae: true,
  maskGuidance: true,
  mlpRatio: 4,
};

/** Writes the state dict of a configuration, changed as told, without our metadata unless given. */
async function write(
  name: string,
  shapes: Map<string, number[]>,
  metadata: Record<string, string> = {},
  dtype: 'F32' | 'I32' = 'F32',
): Promise<string> {
  const path = join(folder, name);
  const tensors = [...shapes].map(([key, shape]) => {
    const values = formulaWeight(key, shape);
    return { name: key, dtype, shape, data: dtype === 'F32' ? values : new Int32Array(values.length) };
  });
  await writeSafetensors(path, tensors, metadata);
  return path;
}

const own = (config: object) => ({
  format: 'emigm-wgsl',
  config: JSON.stringify({ version: 1, ...config }),
  info: JSON.stringify({ version: 1 }),
});

describe('golden checkpoints', () => {
  const names = goldenFiles('checkpoints/ckpt_*.pth');
  if (names.length === 0) test.skip('absent: no checkpoints/ckpt_*.pth', () => {});
  for (const name of names) {
    /** What nothing in the file tells: the heads, and without arguments the tokenizer. Shapes do not depend on these. */
    const openOptions = async (): Promise<OpenModelOptions> => {
      const checkpoint = await openTorchCheckpoint(goldenPath(name));
      const token = stateDict(checkpoint, 'model_ema').get('z_proj.weight')!.shape[1];
      const config = { encoderHeads: 1, decoderHeads: 1 };
      await checkpoint.close();
      return { config: args(checkpoint) ? config : { ...config, channels: token, vaeStride: 16 } };
    };

    test(`${name}: parameters as the official model has them after loading`, async () => {
      const model = await openModel(goldenPath(name), await openOptions());
      const loaded = loadGolden('checkpoints/ckpt_ema_loaded');
      expect(model.info.weights).toBe('model_ema');
      expect(model.names()).toEqual([...parameterShapes(model.config).keys()]);
      for (const parameter of model.names()) {
        expect(await model.read(parameter), parameter).toEqual(loaded.f32(parameter));
        expect(model.shape(parameter)).toEqual(loaded.shape(parameter));
      }
      await model.close();
    });

    test(`${name}: the averaged mask token by option`, async () => {
      const options = await openOptions();
      const raw = await openModel(goldenPath(name), options);
      const averaged = await openModel(goldenPath(name), { ...options, averagedMaskToken: true });
      const checkpoint = await openTorchCheckpoint(goldenPath(name));
      const stored = stateDict(checkpoint, 'model_ema');
      const fake = await stored.get('fake_latent')!.readFloat32();
      const mask = await stored.get('mask_token')!.readFloat32();
      expect(fake).not.toEqual(mask); // or the rest shows nothing
      expect(await raw.read('fake_latent')).toEqual(mask);
      expect(await averaged.read('fake_latent')).toEqual(fake);
      expect([raw.info.maskToken, averaged.info.maskToken]).toEqual(['raw', 'averaged']);
      expect(raw.maskTokenNote).toContain('the raw mask_token is used');
      for (const file of [raw, averaged, checkpoint]) await file.close();
    });

    test(`${name}: heads that nothing tells are asked for`, async () => {
      const { config } = await openOptions();
      const error = await fault(openModel(goldenPath(name), { config: { ...config, encoderHeads: undefined } }));
      expect(error.code).toBe('model');
      expect(error.message).toMatch(/heads of an attention of width \d+ cannot be read.*give --encoder-heads N/);
    });
  }
});

describe('inference from shapes', () => {
  test.each(Object.keys(presets))('%s', (name) => {
    const { config, guessed } = inferConfig(stateDictShapes(presets[name]));
    expect(config).toEqual(presets[name]);
    expect(guessed).toContain('encoderHeads');
    expect(guessed).toContain('mae');
  });

  test('unlike encoder and decoder, separate mask token, pixel model', () => {
    const config = checkConfig({ ...tiny, decoderWidth: 32, decoderHeads: 4, maskGuidance: false, mlpRatio: 2 });
    const known = { encoderHeads: 2, decoderHeads: 4 };
    expect(inferConfig(stateDictShapes(config), known)).toEqual({
      config,
      guessed: ['channels', 'patchSize', 'vaeStride', 'imageSize', 'mae'],
    });
  });

  test('what is ambiguous is asked for, and taken when given', () => {
    const config = checkConfig({ ...presets['s-256'], vaeStride: 8, patchSize: 2, channels: 4 });
    const shapes = stateDictShapes(config); // tokens of 16 numbers, as KL-16 has them
    expect(inferConfig(shapes).config.channels).toBe(16);
    expect(inferConfig(shapes, { channels: 4, vaeStride: 8 }).config).toEqual(config);
    expect(() => inferConfig(shapes, { channels: 4 })).toThrow('give --vae-stride N');
    shapes.set('z_proj.weight', [512, 5]);
    expect(() => inferConfig(shapes)).toThrow("tokens of 5 numbers are no known tokenizer's; give --channels N");
    shapes.set('diffusion_pos_embed_learned', [1, 250, 512]);
    expect(() => inferConfig(shapes)).toThrow('250 tokens are no square grid');
    shapes.delete('z_proj.weight');
    expect(() => inferConfig(shapes)).toThrow('has no tensor z_proj.weight, so it is neither an eMIGM nor a MAR model');
    expect(() => inferConfig(new Map([['z_proj.weight', []]]))).toThrow('z_proj.weight has shape []');
  });
});

describe('tensors that do not fit', () => {
  const cases: [string, (shapes: Map<string, number[]>) => void, string][] = [
    [
      'wrong shape',
      (shapes) => shapes.set('encoder_blocks.0.mlp.fc1.weight', [65, 16]),
      'tensor encoder_blocks.0.mlp.fc1.weight has shape [65, 16], the configuration needs [64, 16]',
    ],
    [
      'missing',
      (shapes) => shapes.delete('decoder_blocks.1.norm2.bias'),
      'tensor decoder_blocks.1.norm2.bias [16] of the configuration is missing',
    ],
    [
      'unexpected',
      (shapes) => shapes.set('extra.bias', [3]),
      'tensor "extra.bias" [3] is not part of the configuration',
    ],
  ];
  for (const [name, change, message] of cases) {
    test(`${name}: named, with both shapes`, async () => {
      const shapes = stateDictShapes(tiny);
      change(shapes);
      const path = await write(`${name}.safetensors`, shapes, own(tiny));
      const error = await fault(openModel(path));
      expect(error.code).toBe('model');
      expect(error.message).toBe(`${path}: ${message}`);
    });
  }

  test('several: the first and how many more', async () => {
    const path = await write('deep.safetensors', stateDictShapes(tiny), own({ ...tiny, encoderDepth: 2 }));
    const error = await fault(openModel(path));
    expect(error.message).toContain(
      'tensor encoder_blocks.1.norm1.weight [16] of the configuration is missing (and 11',
    );
    const wide = await fault(openModel(path, { config: { encoderDepth: 1, classes: 4 } }));
    expect(wide.message).toContain('class_emb.weight has shape [3, 16], the configuration needs [4, 16]');
  });

  test('integers for weights', async () => {
    const path = await write('integers.safetensors', stateDictShapes(tiny), own(tiny), 'I32');
    expect((await fault(openModel(path))).message).toContain('tensor fake_latent is I32, weights must be F32');
  });

  test.each([
    [{ format: 'emigm-wgsl' }, 'metadata has no "config"'],
    [{ ...own(tiny), config: '{' }, 'metadata "config" is no JSON'],
    [{ ...own(tiny), config: '{"version":2}' }, 'metadata "config" has version 2, this program reads version 1'],
    [own({ ...tiny, encoderHeads: 3 }), 'encoderWidth 16 is no multiple of encoderHeads 3'],
    [{ ...own(tiny), info: '{"version":1,"classNames":["a"]}' }, '1 class names for a model of 3 classes'],
  ])('metadata %j', async (metadata, message) => {
    const path = await write('metadata.safetensors', stateDictShapes(tiny), metadata);
    expect((await fault(openModel(path))).message).toContain(message);
  });

  test('missing file, text file, foreign safetensors', async () => {
    expect((await fault(openModel(join(folder, 'none')))).message).toContain('no such file');
    writeFileSync(join(folder, 'text'), 'no model at all, only text');
    expect((await fault(openModel(join(folder, 'text')))).code).toBe('file');
    const path = await write('foreign.safetensors', new Map([['weight', [2, 2]]]));
    expect((await fault(openModel(path))).message).toContain('has no tensor');
  });
});

describe('saveModel', () => {
  const info = {
    name: 'tiny',
    classNames: ['a', 'b', 'c'],
    sampling: { steps: 4, cfgInterval: [0.1, 0.3] as [number, number] },
  };

  test('keeps configuration, information and weights', async () => {
    const path = join(folder, 'saved.safetensors');
    const seen: number[] = [];
    const read = (name: string) => formulaWeight(name, parameterShapes(tiny).get(name)!);
    await saveModel(path, { config: tiny, info, read, onProgress: (done) => seen.push(done) });
    const model = await openModel(path);
    expect(model.config).toEqual(tiny);
    expect(model.info).toEqual(info);
    expect(model.guessed).toEqual([]);
    for (const name of model.names()) expect(await model.read(name), name).toEqual(read(name));
    expect(() => model.shape('mask_token')).toThrow('"mask_token" is no parameter');
    expect(seen.at(-1)).toBe(parameterCounts(tiny).total);
    await model.close();
    const file = await openSafetensors(path);
    expect(file.tensors.has('mask_token')).toBe(false);
    await file.close();
  });

  test('half precision: rounded, and refused where it would overflow', async () => {
    const path = join(folder, 'half.safetensors');
    const value = 1 + 2 ** -11 + 2 ** -20;
    const fill = (x: number) => (name: string) =>
      new Float32Array(
        parameterShapes(tiny)
          .get(name)!
          .reduce((a, b) => a * b, 1),
      ).fill(x);
    await saveModel(path, { config: tiny, info, read: fill(value), dtype: 'F16' });
    const model = await openModel(path);
    expect(model.dtype('z_proj.bias')).toBe('F16');
    expect((await model.read('z_proj.bias'))[0]).toBe(1 + 2 ** -10);
    await model.close();
    const error = await fault(saveModel(path, { config: tiny, info, read: fill(65520), dtype: 'F16' }));
    expect(error.message).toMatch(/holds 65520, too large for f16; use bf16 or f32/);
  });

  test('stopped half-way: nothing under the name, nothing beside it', async () => {
    const path = join(folder, 'stopped.safetensors');
    const before = readdirSync(folder);
    const read = (name: string) => {
      if (name.startsWith('decoder')) throw new EmigmError('aborted', 'stopped');
      return formulaWeight(name, parameterShapes(tiny).get(name)!);
    };
    expect((await fault(saveModel(path, { config: tiny, info, read }))).code).toBe('aborted');
    expect(readdirSync(folder)).toEqual(before);
  });
});

describe('information', () => {
  test('from official arguments', () => {
    const official = { classes: ['a', 'b', 'c'], data_scale: 2, mask_strategy: 'cosine' };
    const expected = { classNames: ['a', 'b', 'c'], dataScale: 2, sampling: { maskSchedule: 'cosine' } };
    expect(infoFromArgs(official, tiny)).toEqual(expected);
    expect(infoFromArgs({ classes: ['a'] }, tiny)).toEqual({});
  });

  test('official sizes carry the intervals of the paper', () => {
    const interval = (name: string) => infoFromArgs({}, presets[name]).sampling?.cfgInterval;
    expect(['b-256', 'h-256', 'xs-512'].map(interval)).toEqual([
      [0.1, 0.3],
      [0.2, 0.4],
      [0.15, 0.35],
    ]);
  });

  test.each([
    [{ classNames: ['a', 'b', 'a'] }, 'class name "a" stands twice'],
    [{ sampling: { cfgInterval: [0.3, 0.1] } }, 'sampling.cfgInterval 0.3,0.1 is reversed; give 0.1,0.3'],
    [{ sampling: { steps: 0 } }, 'sampling.steps: '],
    [{ data_scale: 2 }, 'data_scale'],
  ])('refuses %j', (info, message) => {
    expect(() => checkInfo(info, tiny, 'info.json')).toThrow(`info.json: `);
    expect(() => checkInfo(info, tiny, 'info.json')).toThrow(message);
  });
});
