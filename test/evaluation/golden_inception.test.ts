/** Inception-v3 against torch-fidelity's numbers with formula weights: inception. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { parameterShapes } from '../../src/models/inception/architecture.ts';
import { FEATURE_SIZES, FEATURES, Inception, type InceptionFeature } from '../../src/models/inception/inception.ts';
import { imageWords, resize } from '../../src/ops/resize.ts';
import { describeGolden, expectClose, formulaWeight, type Golden } from '../helpers/golden.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

const NET = { relative: 5e-5 }; // README: Inception forward
const OP = { relative: 5e-6 };
const SIDE = 299;

/** Bytes of [images, 3, height, width] as [images, height, width, 3]. */
function channelsLast(planes: ArrayLike<number>, [images, channels, height, width]: number[]): Uint8Array {
  const pixels = height * width;
  return Uint8Array.from({ length: images * channels * pixels }, (_, i) => {
    const [b, pixel, c] = [Math.floor(i / pixels / channels), Math.floor(i / channels) % pixels, i % channels];
    return planes[(b * channels + c) * pixels + pixel];
  });
}

function images(golden: Golden, name: string) {
  const shape = golden.shape(`${name}.image`);
  const bytes = channelsLast(golden.get(`${name}.image`) as Uint8Array, shape);
  const words = imageWords([bytes]);
  const from = [shape[0], shape[2], shape[3]] as const;
  return { from, tensor: device.tensor([words.length], 'u32', 'images', words) };
}

describeGolden('inception*', (golden) => {
  const gain: number = golden.meta('gain');
  const shapes: Record<string, number[]> = golden.meta('weights').order_and_shapes;
  const cases = golden
    .names()
    .filter((name) => name.endsWith('.image'))
    .map((name) => name.slice(0, -'.image'.length));
  let network: Inception;
  beforeAll(async () => {
    network = await Inception.load(device, {
      shape: (name) => shapes[name],
      read: async (name) => formulaWeight(name, shapes[name], gain),
    });
  });
  afterAll(() => network?.dispose());

  it('the weights are those of the file', () => {
    expect(Object.fromEntries(parameterShapes())).toEqual(shapes);
    for (const name of golden.names('weight_check.')) {
      const weight = name.slice('weight_check.'.length);
      expectClose(formulaWeight(weight, shapes[weight], gain).slice(0, 16), golden.f32(name), { relative: 1e-7 }, name);
    }
  });

  describe.each(cases)('%s', (name) => {
    it('resized', async () => {
      const { from, tensor } = images(golden, name);
      const session = new Session(device);
      const out = device.tensor([from[0], SIDE, SIDE, 4], 'f32', 'out');
      const program = session.record('resize', (r) => {
        resize(r, tensor, { from, to: [SIDE, SIDE], out });
      });
      await session.prepare();
      session.run(program);
      const resized = await device.read(out);
      const at = (b: number, c: number, row: number, column: number) => ((b * SIDE + row) * SIDE + column) * 4 + c;
      const [, channels, rows, columns] = golden.shape(`${name}.resized_patch`);
      const patch = golden.f32(`${name}.resized_patch`).map((_, i) => {
        const [column, row] = [i % columns, Math.floor(i / columns) % rows];
        const plane = Math.floor(i / columns / rows);
        return resized[at(Math.floor(plane / channels), plane % channels, 100 + row, 140 + column)];
      });
      expectClose(patch, golden.f32(`${name}.resized_patch`), OP, 'resized_patch');
      const values = Float64Array.from(resized).filter((_, i) => i % 4 < 3);
      const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
      const squares = values.reduce((sum, x) => sum + (x - mean) ** 2, 0);
      const expected = golden.f64(`${name}.resized_mean_std`);
      expectClose([mean, Math.sqrt(squares / (values.length - 1))], expected, { relative: 1e-5 }, 'mean, std');
      session.dispose();
      for (const each of [tensor, out]) each.destroy();
    });

    it('features and logits', async () => {
      const { from, tensor } = images(golden, name);
      const session = new Session(device);
      const poison = (size: number) => new Float32Array(size).fill(Number.NaN);
      const out = Object.fromEntries(
        FEATURES.map((feature) => {
          const shape = [from[0], FEATURE_SIZES[feature]];
          return [feature, device.tensor(shape, 'f32', feature, poison(shape[0] * shape[1]))];
        }),
      ) as Record<InceptionFeature, ReturnType<Device['tensor']>>;
      const program = session.record('inception', (r) => network.record(r, tensor, from, out));
      await session.prepare();
      session.run(program);
      for (const feature of FEATURES) {
        const values = await device.read(out[feature]);
        if (feature === 'spatial') continue; // not in the file; inception.test.ts
        expectClose(values, golden.f32(`${name}.${feature}`), NET, feature);
        if (feature !== 'logits_unbiased') continue;
        const logits = values.map((value, i) => value + network.logitBias[i % network.logitBias.length]);
        expectClose(logits, golden.f32(`${name}.logits`), NET, 'logits');
      }
      session.dispose();
      for (const each of [tensor, ...Object.values(out)]) each.destroy();
    });
  });
});
