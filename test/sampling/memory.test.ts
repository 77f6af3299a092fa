/** Memory of a sampling run: what is planned without a driver is what a run takes, and what does not fit is refused well. */
import { afterEach, describe, expect, it } from 'vitest';
import { Device, type DeviceOptions } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import type { Tensor } from '../../src/gpu/tensor.ts';
import { type ModelConfig, preset } from '../../src/models/config.ts';
import { Emigm } from '../../src/models/emigm.ts';
import { KL16_CONFIG, kl16Shapes } from '../../src/models/kl16/config.ts';
import { Kl16 } from '../../src/models/kl16/kl16.ts';
import type { Stored } from '../../src/ops/matmul_kernels.ts';
import { BatchSampler } from '../../src/sampling/batch.ts';
import { HeadSampler } from '../../src/sampling/head_sampler.ts';
import { listEntries } from '../../src/sampling/lists.ts';
import { CPU_DRIVER, planModel, samplingMemory } from '../../src/sampling/memory.ts';
import { planBatch } from '../../src/sampling/plan.ts';
import { sample } from '../../src/sampling/sample.ts';
import { resolveSettings, type SampleSettings } from '../../src/sampling/settings.ts';
import { toyConfig, toySource } from '../helpers/toy.ts';

const settings = { steps: 4, headSteps: 4, cfg: 2, cfgInterval: [0, 1] as [number, number], seed: 5 };
const classesOf = (count: number, config: ModelConfig = toyConfig) =>
  Array.from({ length: count }, (_, i) => i % config.classes);

let opened: Device[] = [];
afterEach(() => {
  for (const device of opened) device.dispose();
  opened = [];
});

async function open(options: DeviceOptions = {}, config = toyConfig, stored?: Stored) {
  const device = await Device.open(options);
  opened.push(device);
  return { device, model: await Emigm.load(device, config, toySource(config), { stored }) };
}

describe('the plan is what a run takes', () => {
  const configs: [string, ModelConfig, Stored, number[]][] = [
    ['MAE', toyConfig, 'f32', [1, 7, 32]],
    ['single encoder', { ...toyConfig, mae: false, maskGuidance: false }, 'f32', [1, 7, 32]],
    ['weights in f16', toyConfig, 'f16', [1]],
    ['weights in int8', toyConfig, 'int8', [1]],
  ];
  it.each(configs)('%s', async (_, config, stored, batches) => {
    const { device, model } = await open({}, config, stored);
    for (const batch of batches) {
      const planned = await samplingMemory(config, { batch, settings, stored, device });
      expect(planned.weights).toBe(device.allocated);
      device.peak = 0;
      await sample(model, { ...settings, classes: classesOf(batch, config), batch });
      // Besides the plan: stand-ins for operands that are left out, a few hundred bytes each.
      expect(device.peak - planned.total).toBeGreaterThanOrEqual(0);
      expect(device.peak - planned.total).toBeLessThan(4096);
      expect(planned.largest).toBeLessThan(planned.activations);
      for (const tensor of leftovers(device)) tensor.destroy();
    }
  });

  it('for a CPU driver that this machine need not have', async () => {
    const { device } = await open();
    const here = await samplingMemory(toyConfig, { batch: 16, settings, stored: 'f32', device });
    const there = await samplingMemory(toyConfig, { batch: 16, settings, stored: 'f32', device: CPU_DRIVER });
    expect(Math.abs(there.total / here.total - 1)).toBeLessThan(0.05);
  });

  it('half as much for weights in f16, more for more images', async () => {
    const of = (batch: number, stored: Stored) => samplingMemory(toyConfig, { batch, settings, stored });
    const [one, eight, half] = [await of(1, 'f32'), await of(8, 'f32'), await of(8, 'f16')];
    // On GPUs layers pass half precision on to each other; what blocks add up stays f32.
    expect(half.activations).toBeLessThan(eight.activations);
    expect(half.activations).toBeGreaterThan(0.5 * eight.activations);
    expect(half.weights).toBeLessThan(0.8 * eight.weights); // biases, norms and embeddings stay f32
    expect(eight.activations).toBeGreaterThan(4 * one.activations);
    expect(eight.weights).toBe(one.weights);
    const quarter = await of(8, 'int8');
    expect(quarter.weights).toBeLessThan(half.weights);
    expect(quarter.activations).toBe(half.activations);
  });

  it('eMIGM-H draws an image in f16 within 4 GB, in int8 within 1 GB', async () => {
    const config = preset('h-256');
    const guided = { steps: 16, cfg: 3, cfgInterval: [0, 1] as [number, number] };
    const of = (stored: Stored) => samplingMemory(config, { batch: 1, stored, settings: guided });
    const [f16, int8] = [await of('f16'), await of('int8')];
    expect(f16.total).toBeLessThan(4e9);
    expect(int8.total).toBeLessThan(1e9);
    expect(int8.weights / f16.weights).toBeLessThan(0.52);
  });

  it.each([
    ['a CPU driver', CPU_DRIVER],
    ['a GPU', {}],
  ])('eMIGM-XS draws an image of 256 pixels and KL-16 decodes it within 1 GB of %s', async (_, abilities) => {
    const guided = { steps: 16, cfg: 3, cfgInterval: [0, 1] as [number, number] };
    const drawing = await samplingMemory(preset('xs-256'), {
      batch: 1,
      stored: 'f32',
      settings: guided,
      device: abilities,
    });
    const device = await Device.plan(abilities);
    opened.push(device);
    const shapes = kl16Shapes(KL16_CONFIG);
    const source = {
      shape: (name: string) => shapes.get(name)!,
      read: async (name: string) => new Float32Array(shapes.get(name)!.reduce((a, b) => a * b, 1)),
    };
    const network = await Kl16.load(device, KL16_CONFIG, source, { stored: 'f32' });
    expect(device.allocated).toBeGreaterThan(4 * 66_456_019);
    const session = new Session(device);
    const latents = device.tensor([1, 16, 16, 16], 'f32', 'latents');
    const image = device.tensor([1, 3, 256, 256], 'f32', 'image');
    session.record('decode', (r) => void network.decode(r, latents, { out: image }));
    const decoding = session.plan().reduce((sum, bytes) => sum + bytes, device.allocated);
    await Promise.allSettled([...device.kernels].map(({ ready }) => ready));
    // Both are held at once: the next image may be drawn while one is decoded.
    expect(drawing.total + decoding).toBeLessThan(1e9);
  });
});

/** Stand-ins stay with the device; freed so that the next run is counted from the same start. */
function leftovers(device: Device) {
  const { dummies } = device as unknown as { dummies: { destroy(): void }[] };
  return dummies.splice(0);
}

describe('lists of rows', () => {
  it.each<[string, ModelConfig, Partial<SampleSettings>]>([
    ['MAE', toyConfig, {}],
    ['single encoder', { ...toyConfig, mae: false, maskGuidance: false }, {}],
    ['without guidance', toyConfig, { cfg: 1 }],
    ['savings', toyConfig, { reuseEncoder: 3, steps: 8 }],
  ])('are at most as long as their bound: %s', async (_, config, more) => {
    const { model, dispose } = await planModel(config, 'f32', {});
    const asked = resolveSettings({ ...settings, ...more });
    const input = planBatch(model, asked, new Array(16).fill(0), [...Array(16).keys()]);
    const sampler = new BatchSampler(model, input, { seed: 5, head: new HeadSampler(asked) });
    const { index, noiseRows } = (sampler as unknown as { tensors: Record<string, Tensor> }).tensors;
    const bound = 16 * listEntries(config, model.sequenceLength, input);
    expect(index.size + noiseRows.size).toBeLessThanOrEqual(bound);
    expect(index.size + noiseRows.size).toBeGreaterThan(0.5 * bound);
    sampler.dispose();
    await dispose();
  });
});

describe('more memory than there is', () => {
  const planned = (batch: number, device: Device) =>
    samplingMemory(toyConfig, { batch, settings, stored: 'f32', device });

  it('names a batch size that fits, and it does', async () => {
    const { device: unlimited } = await open();
    const [two, four] = [await planned(2, unlimited), await planned(4, unlimited)];
    const { device, model } = await open({ memory: (two.total + four.total) / 2 });
    const weights = device.allocated;
    const draw = (batch: number) => sample(model, { ...settings, classes: classesOf(9), batch });
    await expect(draw(9)).rejects.toMatchObject({
      code: 'memory',
      message: expect.stringMatching(
        /^a batch of 9 needs \S+ MiB besides the weights: .* MiB, .* that may be used are taken; use --batch 2$/,
      ),
    });
    expect(device.allocated - weights).toBeLessThan(4096);
    await expect(draw(4)).rejects.toThrow(/use --batch 2$/);
    expect((await draw(2)).images).toHaveLength(9);
  });

  it('says when no batch fits', async () => {
    const { device: unlimited } = await open();
    const { weights } = await planned(1, unlimited);
    const { model } = await open({ memory: weights + 2048 });
    await expect(sample(model, { ...settings, classes: [0] })).rejects.toMatchObject({
      code: 'memory',
      message: expect.stringMatching(/too large for this adapter at any batch size$/),
    });
  });

  it('says when the weights alone do not fit', async () => {
    await expect(open({ memory: 10_000 })).rejects.toMatchObject({ code: 'memory' });
  });

  it('tells that of lists in this process before they are built', async () => {
    const { device: unlimited } = await open();
    const [two, four] = [await planned(2, unlimited), await planned(4, unlimited)];
    const { model } = await open({ memory: (two.total + four.total) / 2 });
    const classes = classesOf(500_000);
    await expect(sample(model, { ...settings, classes, batch: classes.length })).rejects.toMatchObject({
      code: 'memory',
      message: expect.stringMatching(
        /^a batch of 500000 needs \S+ GiB of this process's own memory for its lists of rows, .*; use --batch 2$/,
      ),
    });
  });

  it("respects the adapter's largest buffer", async () => {
    const config = { ...toyConfig, imageSize: 64 }; // 1024 tokens an image
    const { device, model } = await open({ adapter: 'null' }, config);
    const run = { ...settings, headSteps: 1, steps: 2 };
    const error = await sample(model, { ...run, classes: classesOf(300, config), batch: 300 }).catch((e) => e);
    expect(error).toMatchObject({ code: 'memory' });
    const [, size] = /needs a buffer of .* allows 128\.0 MiB; use --batch (\d+)$/.exec(error.message)!;
    const largest = async (batch: number) => {
      const plan = await samplingMemory(config, { batch, settings: run, stored: model.head.input.stored, device });
      return plan.largest;
    };
    expect(await largest(Number(size))).toBeLessThanOrEqual(device.largestBuffer);
    expect(await largest(2 * Number(size))).toBeGreaterThan(device.largestBuffer);
  });
});
