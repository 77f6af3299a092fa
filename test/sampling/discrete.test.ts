/** Sampling from a model of codes: the loop on the device against float64, step by step. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { annealedTemperature } from '../../src/masking/axes.ts';
import type { DiscreteConfig } from '../../src/models/discrete/config.ts';
import { DiscreteNetwork } from '../../src/models/discrete/network.ts';
import { MASKED, scatterRows } from '../../src/ops/tokens.ts';
import { gumbelNoise, STREAMS } from '../../src/random.ts';
import { presetSettings } from '../../src/sampling/axes.ts';
import { DiscreteSampler } from '../../src/sampling/discrete/batch.ts';
import { planDiscrete } from '../../src/sampling/discrete/plan.ts';
import { type DiscreteRequest, sampleDiscreteBatches } from '../../src/sampling/discrete/sample.ts';
import { emptyStats, type SampledImage } from '../../src/sampling/sample.ts';
import { resolveSettings, type SampleSettings } from '../../src/sampling/settings.ts';
import { decodeCodes, patchImages } from '../../src/training/quantise.ts';
import { toyCodebook, toyDiscrete, toyDiscreteSource } from '../helpers/discrete.ts';

let device: Device;
const models: Record<'single' | 'mae', DiscreteNetwork> = {} as never;
const TOKENS = 16;
const CODES = toyDiscrete.codes;

beforeAll(async () => {
  device = await Device.open();
  const load = (config: DiscreteConfig) =>
    DiscreteNetwork.load(device, config, toyCodebook, toyDiscreteSource(config), { stored: 'f32' });
  models.single = await load(toyDiscrete);
  models.mae = await load({ ...toyDiscrete, mae: true, maskGuidance: true });
});
afterAll(() => {
  for (const model of Object.values(models)) model.dispose();
  device?.dispose();
});

/** Logits of the masked positions, one image at a time, from lists that the host makes. */
async function logitsOf(model: DiscreteNetwork, codes: Uint32Array, classRow: number): Promise<Float64Array[]> {
  const { bufferSize: buffer, mae } = model.config;
  const everywhere = Array.from({ length: TOKENS }, (_, i) => i);
  const visible = everywhere.filter((i) => codes[i] !== MASKED);
  const masked = everywhere.filter((i) => codes[i] === MASKED);
  const lists = {
    classes: [classRow],
    tokenRows: mae ? visible : everywhere,
    visible: mae ? visible : everywhere,
    slot: everywhere.map((i) => (codes[i] === MASKED ? MASKED : buffer + (mae ? visible.indexOf(i) : i))),
    identity: everywhere.map((i) => buffer + i),
    queryRows: masked.map((i) => buffer + i),
  };
  const session = new Session(device);
  const tensors = Object.entries(lists).map(
    ([name, list]) => [name, device.tensor([Math.max(1, list.length)], 'u32', name)] as const,
  );
  const state = device.tensor([TOKENS], 'u32', 'codes', codes);
  const out = device.tensor([masked.length, CODES], 'f32', 'logits');
  const rows = device.tensor([masked.length], 'u32', 'rows', Uint32Array.from(masked.keys()));
  try {
    for (const [name, tensor] of tensors) {
      const list = lists[name as keyof typeof lists];
      device.write(tensor, list.length > 0 ? list : [0]);
    }
    const at = Object.fromEntries(tensors.map(([name, tensor]) => [name, { tensor, offset: 0 }])) as never;
    const shape = { batch: 1, visible: visible.length, queries: masked.length };
    const program = session.record('logits', (r) => {
      const logits = model.logits(r, model.conditions(r, state, at, shape));
      scatterRows(r, logits, { tensor: rows, offset: 0 }, masked.length, CODES, out);
    });
    await session.prepare();
    session.run(program);
    const values = await device.read(out);
    return masked.map((_, i) => Float64Array.from(values.subarray(i * CODES, (i + 1) * CODES)));
  } finally {
    session.dispose();
    for (const [, tensor] of tensors) tensor.destroy();
    state.destroy();
    out.destroy();
    rows.destroy();
  }
}

const logSum = (x: Float64Array) => {
  const most = Math.max(...x);
  return most + Math.log(x.reduce((sum, value) => sum + Math.exp(value - most), 0));
};

interface Expected {
  codes: Uint32Array;
  /** How much closer the choice could have been: below rounding it says nothing. */
  margin: number;
}

/** What a step makes of an image, in float64 from the network's logits. */
async function expectedStep(
  model: DiscreteNetwork,
  settings: SampleSettings,
  before: Uint32Array,
  image: { classRow: number; index: number },
  step: ReturnType<typeof planDiscrete>['steps'][number],
  i: number,
): Promise<Expected> {
  const { temperature, seed, choiceTemperature = 0, steps } = settings;
  const conditional = await logitsOf(model, before, image.classRow);
  const free = step.guidance === undefined ? undefined : await logitsOf(model, before, model.unconditional);
  const masked = Array.from({ length: TOKENS }, (_, p) => p).filter((p) => before[p] === MASKED);
  let margin = Number.POSITIVE_INFINITY;
  const drawn = masked.map((position, row) => {
    const x = conditional[row].map((value, k) =>
      free ? free[row][k] + step.guidance! * (value - free[row][k]) : value,
    );
    const noise = gumbelNoise(seed, STREAMS.codes, i, image.index, position, 0, CODES);
    const scores = x.map((value, k) => value + temperature * noise[k]);
    const sorted = Float64Array.from(scores).sort().reverse();
    margin = Math.min(margin, sorted[0] - sorted[1]);
    const code = scores.indexOf(sorted[0]);
    const [choice] = gumbelNoise(seed, STREAMS.codes, i, image.index, position, 1, 1);
    const tau = choiceTemperature * (1 - (i + 1) / steps);
    return { position, code, confidence: x[code] - logSum(x) + Math.max(0, tau) * choice };
  });
  drawn.sort((a, b) => b.confidence - a.confidence);
  if (step.count < drawn.length) {
    margin = Math.min(margin, drawn[step.count - 1].confidence - drawn[step.count].confidence);
  }
  const codes = before.slice();
  for (const { position, code } of drawn.slice(0, step.count)) codes[position] = code;
  return { codes, margin };
}

async function draw(model: DiscreteNetwork, request: DiscreteRequest) {
  const stats = emptyStats();
  const images: SampledImage[] = [];
  for await (const batch of sampleDiscreteBatches(model, request, stats)) images.push(...batch);
  return { images, stats };
}

const maskgit = { ...presetSettings('maskgit'), steps: 4, cfg: 2.5, seed: 11 };

describe('the confidence order', () => {
  it.each(['single', 'mae'] as const)('with guidance does what float64 says, %s', async (kind) => {
    const model = models[kind];
    const settings = resolveSettings(maskgit);
    const input = planDiscrete(model, settings, [0, 2, undefined], [4, 0, 9]);
    expect(input.steps.every(({ guidance }) => guidance !== undefined)).toBe(true);
    const sampler = new DiscreteSampler(model, input, settings);
    let compared = 0;
    try {
      await sampler.prepare();
      sampler.load(input);
      let before = await sampler.codes();
      expect(before.every((code) => code === MASKED)).toBe(true);
      for (const [i, step] of input.steps.entries()) {
        sampler.step(i);
        const after = await sampler.codes();
        for (const [image, classRow] of input.classRows.entries()) {
          const part = (codes: Uint32Array) => codes.slice(image * TOKENS, (image + 1) * TOKENS);
          const of = { classRow, index: input.imageIndices[image] };
          const { codes, margin } = await expectedStep(model, settings, part(before), of, step, i);
          if (margin < 1e-4) continue;
          expect(Array.from(part(after)), `image ${image}, step ${i}`).toEqual(Array.from(codes));
          compared++;
        }
        before = after;
      }
      expect(before.every((code) => code < CODES)).toBe(true);
    } finally {
      sampler.dispose();
    }
    expect(compared).toBeGreaterThan(9);
  });

  it('has its noise annealed to none in the last step', () => {
    const { steps } = planDiscrete(models.single, resolveSettings(maskgit), [0], [0]);
    expect(steps.map(({ choiceTemperature }) => choiceTemperature)).toEqual(
      [0, 1, 2, 3].map((step) => annealedTemperature(4.5, step, 4)),
    );
    expect(steps.at(-1)!.choiceTemperature).toBe(0);
    const planned = planDiscrete(models.single, resolveSettings({ ...maskgit, order: 'halton' }), [0], [0]);
    expect(planned.steps.every(({ choiceTemperature }) => choiceTemperature === 0)).toBe(true);
  });
});

describe('every token', () => {
  it.each([
    ['maskgit', 'single', {}],
    ['mdm', 'single', { steps: 6 }],
    ['maskgit', 'mae', { order: 'halton', topK: 5, topP: 0.9 }],
    ['mdm', 'mae', { order: 'checkerboard', counts: 'floor', maskSchedule: 'cosine' }],
  ] as const)('is revealed once, %s, %s, %j', async (preset, kind, own) => {
    const model = models[kind];
    const { steps: _, ...given } = presetSettings(preset);
    const settings = resolveSettings({ ...given, steps: 5, cfg: 2, cfgInterval: [0, 0.5], seed: 3, ...own });
    const input = planDiscrete(model, settings, [1, 1], [0, 1]);
    expect(input.steps.reduce((sum, { count }) => sum + count, 0)).toBe(TOKENS);
    const sampler = new DiscreteSampler(model, input, settings);
    try {
      await sampler.prepare();
      sampler.load(input);
      let before = await sampler.codes();
      for (const [i, { count, positions }] of input.steps.entries()) {
        sampler.step(i);
        const after = await sampler.codes();
        for (const image of [0, 1]) {
          const changed = Array.from({ length: TOKENS }, (_, p) => p).filter(
            (p) => after[image * TOKENS + p] !== before[image * TOKENS + p],
          );
          expect(changed.length).toBe(count);
          expect(changed.every((p) => before[image * TOKENS + p] === MASKED)).toBe(true);
          if (positions) expect(changed).toEqual(Array.from(positions[image]));
        }
        before = after;
      }
      expect(before.every((code) => code < CODES)).toBe(true);
      const images = await sampler.images();
      const shape = { channels: 3, side: 4, patch: 2 };
      expect(Array.from(images)).toEqual(Array.from(patchImages(decodeCodes(toyCodebook, before), shape)));
    } finally {
      sampler.dispose();
    }
  });
});

describe('an image', () => {
  it('is the same in whatever batch it is made, and through however few rows of logits at once', async () => {
    const classes = [0, 1, 2, undefined];
    const all = await draw(models.single, { ...maskgit, classes, batch: 4 });
    const pairs = await draw(models.single, { ...maskgit, classes, batch: 3 });
    expect(pairs.images).toEqual(all.images);
    expect(all.stats).toMatchObject({ images: 4, nfe: 8 });
    const settings = resolveSettings(maskgit);
    const input = planDiscrete(models.single, settings, classes, [0, 1, 2, 3]);
    const chunked = new DiscreteSampler(models.single, input, { ...settings, mostLogits: 10 * CODES });
    try {
      await chunked.prepare();
      chunked.load(input);
      for (let i = 0; i < chunked.stepCount; i++) chunked.step(i);
      const images = await chunked.images();
      expect(Array.from(images)).toEqual(all.images.flatMap(({ latents }) => Array.from(latents)));
    } finally {
      chunked.dispose();
    }
  });

  it('depends on the scale of guidance, and without guidance costs half', async () => {
    const request = { ...maskgit, classes: [0, 1], batch: 2 };
    const guided = await draw(models.single, request);
    const plain = await draw(models.single, { ...request, cfg: 1 });
    expect(plain.stats.nfe).toBe(4);
    expect(plain.images).not.toEqual(guided.images);
  });

  it('tells what is revealed while it is drawn', async () => {
    const seen: number[] = [];
    await draw(models.mae, {
      ...{ ...maskgit, cfg: 1, classes: [2] },
      onStep: async ({ revealed, latents }) => {
        const [mask] = await revealed();
        seen.push(mask.reduce((a, b) => a + b, 0));
        const now = await latents();
        const dark = Array.from({ length: TOKENS }, (_, p) => now[Math.floor(p / 4) * 16 + 2 * (p % 4)] === 0);
        expect(dark).toEqual(Array.from(mask, (one) => one === 0));
      },
    });
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    expect(seen.at(-1)).toBe(TOKENS);
  });

  it('is refused with settings that cannot be', async () => {
    const bad = draw(models.single, { ...maskgit, classes: [0], batch: 1, steps: 0 });
    await expect(bad).rejects.toThrow(/steps/);
    await expect(draw(models.single, { ...maskgit, classes: [7] })).rejects.toThrow(/class 7 does not exist/);
  });

  it('is refused in batches whose lists alone would fill the process', async () => {
    const classes = new Array<number>(1_000_000).fill(0);
    await expect(draw(models.single, { ...maskgit, classes, batch: classes.length })).rejects.toMatchObject({
      code: 'memory',
      message: expect.stringMatching(
        /^a batch of 1000000 needs \S+ GiB of this process's own memory .*; try --batch \d+$/,
      ),
    });
  });
});
