/** What a sampling run promises: images depend on seed, index and class alone; counts; cancellation; memory. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Emigm } from '../../src/models/emigm.ts';
import { emptyStats, sample, sampleBatches, type SampleRequest } from '../../src/sampling/sample.ts';
import { toyConfig, toySource } from '../helpers/toy.ts';

let device: Device;
let model: Emigm;
beforeAll(async () => {
  device = await Device.open({ nanGuard: true });
  model = await Emigm.load(device, toyConfig, toySource(toyConfig));
});
afterAll(() => {
  model?.dispose();
  device?.dispose();
});

const settings = { steps: 4, headSteps: 4, cfg: 2, cfgInterval: [0, 1] as [number, number], seed: 5 };
const classes = [0, 2, 1, 0, 0, 2, undefined];

const bytes = (latents: Float32Array) => Buffer.from(latents.buffer, latents.byteOffset, latents.byteLength);

async function draw(request: Partial<SampleRequest>) {
  const { images } = await sample(model, { ...settings, classes, ...request });
  return images;
}

describe('the same seed, index and class give the same bytes', () => {
  for (const variation of [
    {},
    { cfg: 1 },
    { headSampler: 'ddpm', headSteps: '5', cfg: 3 },
    { counts: 'expected' },
  ] as const) {
    it(`whatever the batch size: ${JSON.stringify(variation)}`, async () => {
      const together = await draw({ ...variation, batch: 7 });
      for (const batch of [1, 2, 3]) {
        const apart = await draw({ ...variation, batch });
        for (const [i, image] of apart.entries()) {
          expect(bytes(image.latents).equals(bytes(together[i].latents)), `image ${i} at batch ${batch}`).toBe(true);
        }
      }
      expect(bytes(together[0].latents).equals(bytes(together[3].latents))).toBe(false);
    });
  }

  it('whatever the order of generation', async () => {
    const forward = await draw({ batch: 3 });
    const reversed = await draw({
      batch: 2,
      classes: [...classes].reverse(),
      indices: classes.map((_, i) => i).reverse(),
    });
    for (const [i, image] of forward.entries()) {
      const twin = reversed.find(({ index }) => index === i)!;
      expect(twin.classNumber).toBe(image.classNumber);
      expect(bytes(twin.latents).equals(bytes(image.latents)), `image ${i}`).toBe(true);
    }
  });

  it('and another seed gives another image', async () => {
    const [one] = await draw({ classes: [0] });
    const [other] = await draw({ classes: [0], seed: 6 });
    expect(bytes(one.latents).equals(bytes(other.latents))).toBe(false);
  });
});

describe('settings', () => {
  it.each(['linear', 'cosine', 'exp', 'poly-0.5', 'log'])(
    'mask schedule %s reveals every token',
    async (maskSchedule) => {
      const revealed: number[] = [];
      await draw({
        classes: [1],
        maskSchedule,
        onStep: async (progress) => {
          const [mask] = await progress.revealed();
          revealed.push(mask.reduce((a, b) => a + b, 0));
        },
      });
      expect(revealed.at(-1)).toBe(model.sequenceLength);
      for (const [i, count] of revealed.entries()) expect(count).toBeGreaterThan(revealed[i - 1] ?? 0);
    },
  );

  it.each(['random', 'halton', 'checkerboard'] as const)('order %s draws finite images', async (order) => {
    const [image] = await draw({ classes: [1], order });
    expect(image.latents.every(Number.isFinite)).toBe(true);
  });

  it('counts what was run', async () => {
    const stats = emptyStats();
    const request = {
      ...settings,
      classes: [0, 1],
      counts: 'expected' as const,
      cfg: 4,
      cfgInterval: [0, 0.5] as [number, number],
    };
    for await (const _ of sampleBatches(model, request, stats));
    // Times linspace(1, 1e-5, 5): the middle one is 0.500005, so the last two steps alone end within (0, 0.5].
    expect(stats.nfe).toBe(4 + 2);
    expect(stats.images).toBe(2);
    expect(stats.headEvaluations % (2 * settings.headSteps)).toBe(0);
  });

  it('times the drawing, not what is done with the steps', async () => {
    const stats = emptyStats();
    const wait = 1000;
    const onStep: SampleRequest['onStep'] = async ({ latents }) => {
      await latents();
      await new Promise((done) => setTimeout(done, wait));
    };
    for await (const _ of sampleBatches(model, { ...settings, classes: [0], steps: 1, onStep }, stats));
    const { total, parts } = stats.seconds;
    expect(total).toBeGreaterThan(0);
    expect(1000 * total).toBeLessThan(wait);
    for (const part of Object.values(parts)) expect(1000 * part).toBeLessThan(wait);
  });

  it('guidance of exactly 1 is no guidance', async () => {
    const stats = emptyStats();
    for await (const _ of sampleBatches(model, { ...settings, classes: [0], cfg: 1 }, stats));
    expect(stats.nfe).toBe(4);
  });
});

describe('bad requests end in one clear error', () => {
  const cases: [string, Partial<SampleRequest>, RegExp][] = [
    ['no class', { classes: [] }, /empty/],
    ['unknown class', { classes: [3] }, /class 3 does not exist.*0 to 2/],
    ['steps 0', { steps: 0 }, /steps/],
    ['interval reversed', { cfgInterval: [0.5, 0.1] }, /interval/],
    ['unknown schedule', { maskSchedule: 'quadratic' }, /quadratic/],
    ['batch 0', { batch: 0 }, /batch/],
    ['respacing with dpm-solver', { headSteps: 'ddim25' }, /headSteps/],
    ['negative seed', { seed: -1 }, /seed/],
    ['index out of range', { classes: [0], indices: [-1] }, /index/],
  ];
  it.each(cases)('%s', async (_, request, message) => {
    await expect(draw(request)).rejects.toMatchObject({ code: 'input', message: expect.stringMatching(message) });
  });
});

it('stops when it is told to, and works again after', async () => {
  const stop = new AbortController();
  const drawing = draw({ signal: stop.signal, onStep: () => stop.abort() });
  await expect(drawing).rejects.toMatchObject({ code: 'aborted' });
  expect(await draw({ classes: [0] })).toHaveLength(1);
});

it('frees all that it takes: fifty runs', async () => {
  await draw({ classes: [0, 1] });
  const before = device.allocated;
  for (let i = 0; i < 50; i++) await draw({ classes: [0, 1], steps: 2, headSteps: 2 });
  expect(device.allocated).toBe(before);
});

it('the single encoder and separate unconditional class draw too', async () => {
  const config = { ...toyConfig, mae: false, maskGuidance: false };
  const { parameterShapes } = await import('../../src/models/config.ts');
  expect(parameterShapes(config).has('mask_token')).toBe(true);
  const other = await Emigm.load(device, config, toySource(config));
  const { images } = await sample(other, { ...settings, classes: [0, 1, 1], batch: 3 });
  const { images: apart } = await sample(other, { ...settings, classes: [0, 1, 1], batch: 1 });
  for (const [i, image] of images.entries()) expect(bytes(image.latents).equals(bytes(apart[i].latents))).toBe(true);
  other.dispose();
});
