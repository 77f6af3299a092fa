/** DC-AE against the official code's numbers: dcae_* at other widths and depths, and the official names and shapes. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { DC_AE_F32C32_CONFIG, dcAeShapes } from '../../src/models/dc_ae/config.ts';
import { DC_AE_LATENT_SCALE, DcAe } from '../../src/models/dc_ae/dc_ae.ts';
import { inferDcAe } from '../../src/models/dc_ae/infer.ts';
import type { Observer } from '../../src/models/observer.ts';
import type { WeightSource } from '../../src/nn/weights.ts';
import { imageLayout } from '../../src/ops/image.ts';
import { runPass } from '../helpers/autoencoder.ts';
import { describeGolden, describeGoldenFile, expectClose, formulaWeight, goldenPath } from '../helpers/golden.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

/** Gain of the formula weights of these files. */
const GAIN = 1.2;
const FORWARD = { relative: 5e-5 };

const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

describeGolden('dcae_*', (golden) => {
  const shapes = new Map(Object.entries(golden.meta('state_dict_shapes') as Record<string, number[]>));
  const source: WeightSource = {
    shape: (name) => shapes.get(name)!,
    read: async (name) => formulaWeight(name, shapes.get(name)!, GAIN),
  };
  let model: DcAe;
  beforeAll(async () => {
    model = await DcAe.load(device, inferDcAe(shapes, golden.file), source, { stored: 'f32' });
  });
  afterAll(() => model?.dispose());

  it('sizes are told by the shapes', () => {
    const { encoder, decoder, channels } = inferDcAe(shapes, golden.file);
    const widths = golden.meta('width_list') as number[];
    for (const [half, key] of [[encoder, 'encoder_depth_list'] as const, [decoder, 'decoder_depth_list'] as const]) {
      expect(half.map(({ depth }) => depth)).toEqual(golden.meta(key));
      half.forEach(({ width, depth }, i) => {
        if (depth > 0) expect(width).toBe(widths[i]);
      });
    }
    expect(channels).toBe(golden.meta('latent_channels'));
    expect(DC_AE_LATENT_SCALE).toBe(golden.meta('latent_scale'));
    // The official count is of parameters: running statistics are none.
    const parameters = [...shapes].filter(([name]) => !/running_|num_batches/.test(name));
    expect(parameters.reduce((sum, [, shape]) => sum + product(shape), 0)).toBe(golden.meta('params_total'));
  });

  const cases = golden.names().flatMap((name) => /^(case\w+)\.image$/.exec(name)?.[1] ?? []);
  it.each(cases)('%s', async (name) => {
    const prefix = `${name}.act.`;
    const modules = golden.names(prefix).map((key) => key.slice(prefix.length));
    expect(modules.length).toBeGreaterThan(0);
    const actual = await runPass(device, (r, input, keep) => {
      const observe: Observer = (module, output) => {
        if (modules.includes(module)) keep(module, output);
      };
      const images = input(golden.f32(`${name}.image`), golden.shape(`${name}.image`));
      const latents = model.encode(r, images, { observe });
      keep('latent', latents);
      keep('decoded', model.decode(r, latents, { scale: 1, observe }), 'planes');
      const scaled = model.encode(r, images, { scale: DC_AE_LATENT_SCALE });
      keep('decoded from scaled', model.decode(r, scaled), 'planes');
    });
    for (const module of modules) {
      expect(actual.has(module), module).toBe(true);
      expectClose(actual.get(module)!, golden.f32(prefix + module), FORWARD, module);
    }
    for (const key of ['latent', 'decoded']) expectClose(actual.get(key)!, golden.f32(`${name}.${key}`), FORWARD, key);
    expectClose(actual.get('decoded from scaled')!, golden.f32(`${name}.decoded`), FORWARD, 'decoded from scaled');
  });

  it.each(cases)('%s: decoding its latent', async (name) => {
    const actual = await runPass(device, (r, input, keep) => {
      const latent = input(golden.f32(`${name}.latent`), golden.shape(`${name}.latent`));
      keep('decoded', model.decode(r, imageLayout(r, latent, 'planes', 'last'), { scale: 1 }), 'planes');
    });
    expectClose(actual.get('decoded')!, golden.f32(`${name}.decoded`), FORWARD, 'decoded');
  });

  it('an image is the same in any batch', async () => {
    const smallest = cases.reduce((a, b) =>
      golden.f32(`${a}.image`).length < golden.f32(`${b}.image`).length ? a : b,
    );
    const [shape, images] = [golden.shape(`${smallest}.image`), golden.f32(`${smallest}.image`)];
    const size = images.length / shape[0];
    const pass = (data: Float32Array, batch: number) =>
      runPass(device, (r, input, keep) => {
        const latents = model.encode(r, input(data, [batch, ...shape.slice(1)]));
        keep('latents', latents);
        keep('decoded', model.decode(r, latents, { scale: 1 }), 'planes');
      });
    const last = images.subarray(images.length - size);
    const other = images.subarray(0, size).map((v) => -v);
    const alone = await pass(last, 1);
    const together = await pass(Float32Array.from([...other, ...other, ...last]), 3);
    for (const [key, value] of alone) expect(together.get(key)!.slice(-value.length), key).toEqual(value);
  });
});

describeGoldenFile('dcae_f32c32_in_shapes.json', (file) => {
  it('names, shapes and number of the official state dict', () => {
    const { total, state_dict: entries } = JSON.parse(readFileSync(goldenPath(file), 'utf8')) as {
      total: number;
      state_dict: Record<string, number[]>;
    };
    const shapes = dcAeShapes(DC_AE_F32C32_CONFIG);
    expect(Object.fromEntries(shapes)).toEqual(entries);
    const parameters = [...shapes].filter(([name]) => !/running_|num_batches/.test(name));
    expect(parameters.reduce((sum, [, shape]) => sum + product(shape), 0)).toBe(total);
    expect(inferDcAe(new Map(Object.entries(entries)), file)).toEqual(DC_AE_F32C32_CONFIG);
  });
});
