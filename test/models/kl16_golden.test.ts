/** KL-16 against the official code's numbers: vae_kl16* at other widths, and the official names and shapes. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import type { Tensor } from '../../src/gpu/tensor.ts';
import { inferKl16, KL16_CONFIG, kl16Shapes } from '../../src/models/kl16/config.ts';
import { Kl16, KL16_LATENT_SCALE } from '../../src/models/kl16/kl16.ts';
import type { WeightSource } from '../../src/nn/weights.ts';
import { imageLayout, posterior } from '../../src/ops/image.ts';
import { runPass } from '../helpers/autoencoder.ts';
import {
  describeGolden,
  describeGoldenFile,
  expectClose,
  formulaWeight,
  type Golden,
  goldenPath,
} from '../helpers/golden.ts';
import { goldenSource } from '../helpers/model.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

type Shapes = ReadonlyMap<string, readonly number[]>;

/** Gain of the formula weights of these files. */
const GAIN = 1.2;
const FORWARD = { relative: 5e-5 };

function source(golden: Golden, shapes: Shapes): WeightSource {
  if (golden.names('param.').length > 0) return goldenSource(golden);
  return { shape: (name) => shapes.get(name)!, read: async (name) => formulaWeight(name, shapes.get(name)!, GAIN) };
}

/** Mean, clamped log variance and standard deviation of moments [b, 2 c, h, w]. */
function gaussian(moments: Float32Array, [batch]: readonly number[]) {
  const half = moments.length / batch / 2;
  const part = (first: number) =>
    Float64Array.from(
      { length: batch * half },
      (_, i) => moments[Math.floor(i / half) * 2 * half + first + (i % half)],
    );
  const logvar = part(half).map((v) => Math.min(20, Math.max(-30, v)));
  return { mean: part(0), logvar, std: logvar.map((v) => Math.exp(v / 2)) };
}

describeGolden('vae_kl16*', (golden) => {
  const shapes: Shapes = new Map(Object.entries(golden.meta('param_shapes') as Record<string, number[]>));
  let model: Kl16;
  beforeAll(async () => {
    const config = inferKl16(shapes, golden.file);
    model = await Kl16.load(device, config, source(golden, shapes), { stored: 'f32' });
  });
  afterAll(() => model?.dispose());

  it('sizes are told by the shapes', () => {
    const { width, multipliers, blocks, channels } = inferKl16(shapes, golden.file);
    expect([width, multipliers, blocks, channels]).toEqual(
      ['ch', 'ch_mult', 'num_res_blocks', 'embed_dim'].map((key) => golden.meta(key)),
    );
    expect(KL16_LATENT_SCALE).toBe(golden.meta('latent_scale'));
  });

  const cases = golden.names().flatMap((name) => /^(case\w+)\.image$/.exec(name)?.[1] ?? []);
  it.each(cases)('%s', async (name) => {
    const numbers = (key: string) => golden.f32(`${name}.${key}`);
    const shape = (key: string) => golden.shape(`${name}.${key}`);
    const actual = await runPass(device, (r, input, keep) => {
      const given = (key: string) => input(numbers(key), shape(key));
      const moments = model.encode(r, given('image'));
      const noise = imageLayout(r, given('eps'), 'planes', 'last');
      keep('moments', moments);
      keep('mean', model.latents(r, moments, { scale: 1 }));
      keep('z', model.latents(r, moments, { noise, scale: 1 }));
      const latent = model.latents(r, moments, { noise });
      keep('latent', latent);
      keep('decoded', model.decode(r, latent), 'planes');
      const z = imageLayout(r, given('z_in'), 'planes', 'last');
      keep('z_in_decoded', model.decode(r, z, { scale: 1 }), 'planes');
    });
    expect([...actual.keys()]).toHaveLength(6);
    for (const [key, value] of actual) expectClose(value, numbers(key), FORWARD, key);
    const { logvar, std } = gaussian(actual.get('moments')!, shape('moments'));
    expectClose(logvar, numbers('logvar'), FORWARD, 'logvar');
    expectClose(std, numbers('std'), FORWARD, 'std');
  });

  it('outputs of the modules', async () => {
    const modules = golden.names('act.').map((name) => name.slice('act.'.length));
    expect(modules.length).toBeGreaterThan(0);
    const actual = await runPass(device, (r, input, keep) => {
      const observe = (module: string, output: Tensor) => {
        if (modules.includes(module)) keep(module, output);
      };
      const moments = model.encode(r, input(golden.f32('act_in.image'), golden.shape('act_in.image')), observe);
      model.decode(r, model.latents(r, moments, { scale: 1 }), { scale: 1, observe });
    });
    for (const module of modules) {
      const expected = golden.f32(`act.${module}`);
      // Here SiLU is part of the norm before it.
      const silu = module.endsWith('norm_out') ? expected.map((v) => v / (1 + Math.exp(-v))) : expected;
      expectClose(actual.get(module)!, silu, FORWARD, module);
    }
  });

  it('an image is the same in any batch', async () => {
    const [name] = cases;
    const [shape, images] = [golden.shape(`${name}.image`), golden.f32(`${name}.image`)];
    const size = images.length / shape[0];
    const pass = (data: Float32Array, batch: number) =>
      runPass(device, (r, input, keep) => {
        const moments = model.encode(r, input(data, [batch, ...shape.slice(1)]));
        keep('moments', moments);
        keep('decoded', model.decode(r, model.latents(r, moments)), 'planes');
      });
    const last = images.subarray(images.length - size);
    const other = images.subarray(0, size).map((v) => -v);
    const alone = await pass(last, 1);
    const together = await pass(Float32Array.from([...other, ...other, ...last]), 3);
    for (const [key, value] of alone) expect(together.get(key)!.slice(-value.length), key).toEqual(value);
  });
});

describeGoldenFile('vae_kl16_shapes.json', (file) => {
  it('names, shapes and number of the official parameters', () => {
    const { total, params } = JSON.parse(readFileSync(goldenPath(file), 'utf8')) as {
      total: number;
      params: Record<string, number[]>;
    };
    const shapes = kl16Shapes(KL16_CONFIG);
    expect(Object.fromEntries(shapes)).toEqual(params);
    expect([...shapes.values()].reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0)).toBe(total);
    expect(inferKl16(new Map(Object.entries(params)), file)).toEqual(KL16_CONFIG);
  });
});

describeGolden('vae_gaussian', (golden) => {
  describe('posterior', () => {
    it('mean, log variance, deviation and variance', async () => {
      const shape = golden.shape('parameters');
      const parameters = golden.f32('parameters');
      const actual = await runPass(device, (r, input, keep) => {
        const moments = imageLayout(r, input(parameters, shape), 'planes', 'last');
        const count = parameters.length / 2;
        const [batch, channels, height, width] = [shape[0], shape[1] / 2, shape[2], shape[3]];
        const one = input(new Float32Array(count).fill(1), [batch, height, width, channels]);
        keep('mean', posterior(r, moments));
        keep('mean + std', posterior(r, moments, { noise: one }));
      });
      const { mean, logvar, std } = gaussian(parameters, shape);
      const exact = { relative: 5e-6 };
      expectClose(actual.get('mean')!, golden.f32('mean'), {}, 'mean');
      expectClose(
        actual.get('mean + std')!,
        golden.f64('std').map((v, i) => v + mean[i]),
        exact,
        'mean + std',
      );
      expectClose(logvar, golden.f32('logvar'), exact, 'logvar');
      expectClose(std, golden.f32('std'), exact, 'std');
      expectClose(
        std.map((v) => v * v),
        golden.f32('var'),
        exact,
        'var',
      );
    });
  });
});
