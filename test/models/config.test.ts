import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { EmigmError } from '../../src/errors.ts';
import {
  checkConfig,
  configFromArgs,
  gridSize,
  latentSize,
  parameterCounts,
  parameterShapes,
  preset,
  presetName,
  presets,
  sequenceLength,
  stateDictShapes,
  tokenDim,
} from '../../src/models/config.ts';
import { describeGoldenFile, goldenFiles, goldenFolder, goldenPath, loadGolden } from '../helpers/golden.ts';

function fault(run: () => unknown): EmigmError {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(EmigmError);
    return error as EmigmError;
  }
  throw new Error('nothing was thrown');
}

describeGoldenFile('models.json', (file) => {
  const { models } = JSON.parse(readFileSync(goldenPath(file), 'utf8'));
  for (const [name, golden] of Object.entries<Record<string, never>>(models)) {
    test(`${name}: names, order, shapes and counts`, () => {
      const config = preset(name);
      expect([...parameterShapes(config)]).toEqual(Object.entries(golden.params));
      const { total, transformer, diffloss } = golden;
      expect(parameterCounts(config)).toEqual({ total, transformer, head: diffloss });
      const extra = [...stateDictShapes(config).keys()].filter((key) => !parameterShapes(config).has(key));
      expect(extra).toEqual(golden.state_dict_extra);
      expect(config.encoderHeads).toBe(golden.num_heads);
      expect(config.encoderWidth / config.encoderHeads).toBe(golden.head_dim);
      expect(config.vaeStride).toBe(golden.vae_stride);
      expect(sequenceLength(config)).toBe(golden.seq_len);
      expect(tokenDim(config)).toBe(golden.token_embed_dim);
    });
  }
  test('every model of the file is a preset, and every preset stands in the file', () => {
    const names = Object.keys(models).map((name) => presetName(preset(name)));
    expect(names.sort()).toEqual(Object.keys(presets).sort());
  });
});

/** Golden files with a whole model: its constructor arguments and its state dict. */
const withModel = goldenFiles('*.safetensors')
  .map(loadGolden)
  .filter((golden) => golden.metaKeys().includes('config') && golden.has('param.fake_latent'));

describe('golden models', () => {
  if (withModel.length === 0) test.skip(`absent: no file with a model in ${goldenFolder()}`, () => {});
  for (const golden of withModel) {
    test(`${golden.file}: names, order and shapes of the state dict`, () => {
      const config = configFromArgs(golden.meta('config'));
      const shapes = golden.names('param.').map((name) => [name.slice('param.'.length), golden.shape(name)]);
      expect(shapes).toEqual([...stateDictShapes(config)]);
      expect(parameterShapes(config).has('mask_token')).toBe(!config.maskGuidance);
    });
  }
});

describe('configuration', () => {
  const base = presets['b-256'];

  test('sizes that follow from it', () => {
    const pixel = { imageSize: 32, vaeStride: 1, patchSize: 4, channels: 3 };
    expect([latentSize(pixel), gridSize(pixel), sequenceLength(pixel), tokenDim(pixel)]).toEqual([32, 8, 64, 48]);
  });

  test('presets by any of their names', () => {
    for (const name of ['b-256', 'emigm-b-256', 'base_256', 'emigm_base_256', 'EMIGM-B-256']) {
      expect(preset(name), name).toEqual(base);
    }
    for (const name of ['h-512', 'b-128', 'b', 'z-256', 'constructor-256', 'b-256-1']) {
      expect(fault(() => preset(name)).message, name).toMatch(/is unknown; choose one of xs-256/);
    }
  });

  test('official arguments: names of models, missing ones by the official defaults', () => {
    const args = { model: 'emigm_small', diffloss_d: 3, diffloss_w: 1024, use_unsup_cfg: true, lr: 1e-4 };
    expect(configFromArgs(args)).toEqual(presets['s-256']);
    expect(configFromArgs({}).maskGuidance).toBe(false);
    expect(configFromArgs({ mae: null, encoder_num_heads: 8 }).encoderHeads).toBe(8);
  });

  test.each([
    [{ encoderHeads: 7 }, 'encoderWidth 768 is no multiple of encoderHeads 7'],
    [{ imageSize: 250 }, 'imageSize 250 is no multiple of vaeStride x patchSize = 16'],
    [{ encoderDepth: 0 }, 'encoderDepth must be a positive integer, not 0'],
    [{ classes: 'ten' }, 'classes must be a positive integer, not "ten"'],
    [{ mae: 'yes' }, 'mae must be true or false, not "yes"'],
    [{ mlpRatio: -1 }, 'mlpRatio must be a positive number, not -1'],
    [{ headWidth: undefined }, 'headWidth is missing'],
    [{ depth: 3 }, '"depth" is no field of a model configuration'],
    [{ decoderWidth: 384 }, 'maskGuidance needs encoderWidth (768) equal to decoderWidth (384)'],
    [{ decoderWidth: 384, maskGuidance: false, mae: false }, 'a single encoder (mae false) needs encoderWidth'],
  ])('refuses %j', (change, message) => {
    const error = fault(() => checkConfig({ ...base, ...change }, 'file.safetensors'));
    expect(error.code).toBe('model');
    expect(error.message).toContain(`file.safetensors: ${message}`);
    expect(error.message).not.toContain('\n');
  });

  test('refuses what is no object', () => {
    for (const value of [null, 3, 'b-256', []]) {
      expect(fault(() => checkConfig(value)).message).toMatch(/is not an object|is missing/);
    }
  });
});
