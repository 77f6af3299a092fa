/** MAR's checkpoints (LTH14/mar) by their own names: loaded, converted, sampled. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { loadModel, modelAxes, sample, settingsFor } from '../../src/index.ts';
import { resolveAxes } from '../../src/masking/axes.ts';
import { openModel, saveModel } from '../../src/models/checkpoint.ts';
import { presets, stateDictShapes } from '../../src/models/config.ts';
import { infoFromArgs } from '../../src/models/info.ts';
import { emigm } from '../helpers/cli.ts';
import { formulaWeight } from '../helpers/formula.ts';
import { MAR_GAINS, marCheckpoint, marStateDict } from '../helpers/mar_checkpoint.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-mar-'));
const at = (name: string) => join(folder, name);
const sizes = { width: 32, depth: 2, headWidth: 32, headDepth: 1, tokens: 16, token: 16, buffer: 4 };
const shapes = marStateDict(sizes);
const args = {
  ...{ model: 'mar_base', img_size: 64, vae_stride: 16, patch_size: 1, vae_embed_dim: 16, class_num: 10 },
  ...{ buffer_size: 4, diffloss_d: 1, diffloss_w: 32, num_sampling_steps: '100', mask_ratio_min: 1 },
};
// mar_base fixes the sizes of the trunk; here they are others, as only flags can tell.
const own = { encoderWidth: 32, encoderDepth: 2, encoderHeads: 2, decoderWidth: 32, decoderDepth: 2, decoderHeads: 2 };

let device: Device;
beforeAll(async () => {
  device = await Device.open();
  writeFileSync(at('mar.pth'), marCheckpoint(shapes, args));
  writeFileSync(at('bare.pth'), marCheckpoint(shapes));
});
afterAll(() => {
  device?.dispose();
  rmSync(folder, { recursive: true, force: true });
});

describe('MAR', () => {
  it('has the names and shapes of a model with a fake class, at every official size', () => {
    const official = { b: [768, 12, 1024, 6], l: [1024, 16, 1280, 8], h: [1280, 20, 1536, 12] } as const;
    for (const [size, [width, depth, headWidth, headDepth]] of Object.entries(official)) {
      const config = { ...presets[`${size}-256`], maskGuidance: false };
      const mar = marStateDict({ width, depth, headWidth, headDepth, tokens: 256, token: 16, buffer: 64 });
      expect([...stateDictShapes(config)].sort()).toEqual([...mar].sort());
      const info = infoFromArgs({}, config);
      expect(info).toMatchObject({ name: `MAR-${size.toUpperCase()}`, preset: 'mar' });
      expect(info.sampling).toMatchObject({ steps: 256, headSampler: 'ddpm', headSteps: 100, cfgSchedule: 'linear' });
      expect(modelAxes(config, info)).toEqual(resolveAxes('mar'));
    }
    expect(infoFromArgs({ model: 'emigm_base' }, { ...presets['b-256'], maskGuidance: false }).preset).toBeUndefined();
  });

  it.each([
    ['the average', {}, 'model_ema'],
    ['the trained weights', { weights: 'model' }, 'model'],
  ] as const)('is opened: %s, every tensor as it is stored', async (_, options, weights) => {
    const file = await openModel(at('mar.pth'), { ...options, config: own });
    expect(file.config).toMatchObject({ ...own, imageSize: 64, classes: 1000, mae: true, maskGuidance: false });
    expect(file.info).toEqual({ preset: 'mar', weights });
    expect(file.guessed).toEqual([]);
    expect(file.maskTokenNote).toMatch(/two parameters/);
    expect(file.names().sort()).toEqual([...shapes.keys()].sort());
    for (const [name, shape] of shapes) {
      expect(file.shape(name), name).toEqual(shape);
      expect(await file.read(name), name).toEqual(formulaWeight(name, shape, MAR_GAINS[weights]));
    }
    await file.close();
  });

  it('samples as MAR does, the same from the checkpoint and from the converted file', async () => {
    const heads = ['--encoder-heads', '2', '--quiet'];
    const converted = await emigm(['convert', at('bare.pth'), at('mar.safetensors'), ...heads, '--preset', 'mar']);
    expect(converted.code, converted.err).toBe(0);
    const request = { classes: [3, 999, undefined], steps: 5, headSteps: 6, cfg: 3, seed: 4 };
    const drawn = [];
    for (const file of ['mar.pth', 'mar.safetensors']) {
      const model = await loadModel(at(file), { device, config: file === 'mar.pth' ? own : undefined });
      expect(modelAxes(model.config, model.info)).toEqual(resolveAxes('mar'));
      expect(settingsFor(model)).toMatchObject({
        ...{ maskSchedule: 'cosine', counts: 'floor', order: 'random', cfgSchedule: 'linear', cfgInterval: [0, 1] },
        ...{ headSampler: 'ddpm', headSteps: 100, steps: 64 },
      });
      const { images, stats } = await sample(model, request);
      expect(stats.nfe).toBe(10); // every step is guided
      drawn.push(images.map(({ latents }) => latents));
      model.dispose();
    }
    expect(drawn[1]).toEqual(drawn[0]);
    expect(drawn[0].flat().every((latents) => latents.every(Number.isFinite))).toBe(true);
    expect(drawn[0][0]).not.toEqual(drawn[0][1]);
  });

  it('conditions on the fake class only where there is no class, and on the mask token everywhere', async () => {
    const draw = async (changed: string | undefined, classNumber: number | undefined) => {
      const twisted = new Map([...shapes].map(([name, shape]) => [name, formulaWeight(name, shape)]));
      if (changed)
        twisted.set(
          changed,
          twisted.get(changed)!.map((x) => -2 * x),
        );
      const { config, close } = await openModel(at('mar.safetensors'));
      await close();
      await saveModel(at('twisted.safetensors'), {
        config,
        info: { preset: 'mar' },
        read: (name) => twisted.get(name)!,
      });
      const model = await loadModel(at('twisted.safetensors'), { device });
      const { images } = await sample(model, { classes: [classNumber], steps: 3, headSteps: 4, cfg: 1 });
      model.dispose();
      return images[0].latents;
    };
    const [withClass, without] = [await draw(undefined, 1), await draw(undefined, undefined)];
    expect(await draw('fake_latent', 1)).toEqual(withClass);
    expect(await draw('fake_latent', undefined)).not.toEqual(without);
    expect(await draw('mask_token', 1)).not.toEqual(withClass);
  });
});
