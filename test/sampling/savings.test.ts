/** Cheaper sampling: what each saving does, that it counts what it runs, and that without it nothing changes. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import type { RevealStep } from '../../src/masking/reveal.ts';
import { Emigm } from '../../src/models/emigm.ts';
import { type Block, block, loadBlock } from '../../src/nn/block.ts';
import { WeightLoader } from '../../src/nn/weights.ts';
import { type SampleRequest, sample } from '../../src/sampling/sample.ts';
import { headStepsAt, reusingSteps, shareEvaluations } from '../../src/sampling/savings.ts';
import { resolveSettings } from '../../src/sampling/settings.ts';
import { toyConfig, toySource } from '../helpers/toy.ts';

const config = { ...toyConfig, encoderDepth: 2 };
/** Networks in which no token sees another in the encoder, or in the decoder. */
const separate = (part: string) => {
  const source = toySource(config);
  const isMixing = (name: string) => name.startsWith(part) && name.includes('.attn.proj.');
  return {
    ...source,
    read: async (name: string) => {
      const values = await source.read(name);
      return isMixing(name) ? new Float32Array(values.length) : values;
    },
  };
};

let device: Device;
let model: Emigm;
let separateEncoder: Emigm;
let separateDecoder: Emigm;
beforeAll(async () => {
  device = await Device.open({ nanGuard: true });
  model = await Emigm.load(device, config, toySource(config));
  separateEncoder = await Emigm.load(device, config, separate('encoder_blocks'));
  separateDecoder = await Emigm.load(device, config, separate('decoder_blocks'));
});
afterAll(() => {
  for (const network of [model, separateEncoder, separateDecoder]) network?.dispose();
  device?.dispose();
});

const settings = { steps: 6, headSteps: 4, counts: 'expected', cfg: 2, cfgInterval: [0, 1], seed: 5 } as const;
const classes = [0, 2, undefined];

async function draw(network: Emigm, request: Partial<SampleRequest>) {
  const base = { ...settings, cfgInterval: [...settings.cfgInterval] as [number, number], classes, batch: 3 };
  const { images, stats } = await sample(network, { ...base, ...request });
  return { latents: images.map(({ latents }) => latents), stats };
}

/** The largest difference of two sets of images. */
const apart = (a: { latents: Float32Array[] }, b: { latents: Float32Array[] }) =>
  Math.max(...a.latents.flatMap((values, i) => Array.from(values, (x, j) => Math.abs(x - b.latents[i][j]))));

it('neutral values change no byte', async () => {
  const exact = await draw(model, {});
  const same = await draw(model, { headStepsLast: 4, shareEarly: 1, reuseEncoder: 1 });
  expect(apart(exact, same)).toBe(0);
  for (const what of ['nfe', 'headEvaluations', 'dispatches'] as const) {
    expect(same.stats[what], what).toBe(exact.stats[what]);
  }
});

it.each([
  { headStepsLast: 1 },
  { shareEarly: 3 },
  { reuseEncoder: 9 },
  { headStepsLast: 1, shareEarly: 3, reuseEncoder: 3, cfgInterval: [0.1, 0.5] },
] as Partial<SampleRequest>[])('%j: another image, the same one in each batch', async (saving) => {
  const together = await draw(model, saving);
  expect(apart(await draw(model, { ...saving, batch: 2 }), together)).toBe(0);
  expect(apart(await draw(model, { cfgInterval: saving.cfgInterval }), together)).toBeGreaterThan(0);
});

describe('head steps that fall', () => {
  it('in equal parts to the last step', () => {
    const steps = (headSteps: number, headStepsLast: number | undefined, count: number) =>
      Array.from({ length: count }, (_, i) => headStepsAt({ headSteps, headStepsLast }, i, count));
    expect(steps(8, 2, 4)).toEqual([8, 6, 4, 2]);
    expect(steps(4, 2, 4)).toEqual([4, 3, 3, 2]);
    expect(steps(8, undefined, 3)).toEqual([8, 8, 8]);
    expect(steps(8, 2, 1)).toEqual([8]);
  });

  it.each(['dpm-solver', 'ddpm'] as const)('draw the tokens of each step with its number: %s', async (headSampler) => {
    const request = { steps: 3, classes: [1], headSampler };
    const masks: Uint8Array[] = [];
    const onStep: SampleRequest['onStep'] = async ({ revealed }) => void masks.push((await revealed())[0].slice());
    const falling = await draw(separateDecoder, { ...request, headStepsLast: 2, onStep });
    const counts: number[] = [];
    for (const [step, headSteps] of [4, 3, 2].entries()) {
      const whole = await draw(separateDecoder, { ...request, headSteps });
      const own = masks[step].map((known, p) => (known && !masks[step - 1]?.[p] ? 1 : 0));
      counts.push(own.filter(Boolean).length);
      const { patchSize: patch, imageSize: side, channels } = config;
      for (let at = 0; at < channels * side * side; at++) {
        const token =
          Math.floor((Math.floor(at / side) % side) / patch) * (side / patch) + Math.floor((at % side) / patch);
        if (own[token]) expect(falling.latents[0][at]).toBe(whole.latents[0][at]);
      }
    }
    expect(falling.stats.headEvaluations).toBe(2 * (4 * counts[0] + 3 * counts[1] + 2 * counts[2]));
  });
});

describe('shared evaluations', () => {
  const step = (count: number, s: number): RevealStep => {
    const positions = [Int32Array.from({ length: count }, (_, i) => 10 * s + i)];
    return { t: s + 1, s, count, positions, revealedAfter: s, revealedForGuidance: s };
  };

  it('of steps that together reveal no more than asked', () => {
    const plan = [1, 1, 2, 1, 5, 1].map(step);
    const groups = shareEvaluations(plan, 3).map(({ parts }) => parts.map((part) => part.step));
    expect(groups).toEqual([[0, 1], [2, 3], [4], [5]]);
    const [, second] = shareEvaluations(plan, 3);
    expect(Array.from(second.positions[0])).toEqual([20, 21, 30]);
    expect(second).toMatchObject({ s: 3, revealedAfter: 3, revealedForGuidance: 3 });
    expect(shareEvaluations(plan, 1)).toHaveLength(plan.length);
  });

  it.each([{}, { batch: 2 }, { headSampler: 'ddpm' }, { cfg: 1 }] as Partial<SampleRequest>[])(
    'each token keeps its noise: nothing changes where tokens do not see each other, %j',
    async (request) => {
      const exact = await draw(separateDecoder, request);
      for (const shareEarly of [3, 7]) {
        const shared = await draw(separateDecoder, { ...request, shareEarly });
        expect(apart(exact, shared)).toBe(0);
        expect(shared.stats.nfe).toBeLessThan(exact.stats.nfe);
        expect(shared.stats.headEvaluations).toBe(exact.stats.headEvaluations);
      }
    },
  );
});

describe('a reused encoder', () => {
  it('runs anew in every n-th step, and where guidance sets in', () => {
    const never = new Array<boolean>(7).fill(false);
    const text = (reuse: boolean[]) => reuse.map((is) => (is ? 'r' : 'a')).join('');
    expect(text(reusingSteps(never, 3, false))).toBe('aarrarr');
    expect(text(reusingSteps(never, 3, true))).toBe('arrarra');
    expect(text(reusingSteps(never, 1, false))).toBe('aaaaaaa');
    // The unconditional half is there after a guided step, not after an unguided one.
    const guided = [false, false, true, true, false, false, true];
    expect(text(reusingSteps(guided, 9, false))).toBe('aaarrra');
  });

  it.each([{ batch: 2 }, { cfgInterval: [0.1, 0.6] }, { cfg: 1 }] as Partial<SampleRequest>[])(
    'is exact where tokens do not see each other in it, %j',
    async (request) => {
      const exact = await draw(separateEncoder, request);
      for (const reuseEncoder of [2, 9]) {
        expect(apart(exact, await draw(separateEncoder, { ...request, reuseEncoder }))).toBe(0);
      }
    },
  );

  it('goes with tokens that are kept', async () => {
    const masked = Uint8Array.from({ length: 16 }, (_, p) => (p % 3 === 0 ? 0 : 1));
    const latents = Float32Array.from({ length: 3 * 8 * 8 }, (_, i) => Math.sin(i));
    const kept = { masked, latents };
    const exact = await draw(separateEncoder, { kept });
    expect(apart(exact, await draw(separateEncoder, { kept, reuseEncoder: 9 }))).toBe(0);
  });

  it('frees what it keeps', async () => {
    await draw(model, { reuseEncoder: 2 });
    const before = device.allocated;
    await draw(model, { reuseEncoder: 2 });
    expect(device.allocated).toBe(before);
  });

  it('attends to what it keeps: new rows of a block as in a run over all rows', async () => {
    const [batch, old, fresh, width, heads] = [2, 5, 3, 32, 2];
    const length = old + fresh;
    const loader = new WeightLoader(device, toySource(config), 'f32');
    const weights: Block = await loadBlock(loader, 'encoder_blocks.0', width, heads);
    const values = Float32Array.from({ length: batch * length * width }, (_, i) => Math.sin(0.37 * i));
    const part = (from: number, rows: number) =>
      Float32Array.from({ length: batch * rows * width }, (_, i) => {
        const b = Math.floor(i / (rows * width));
        return values[b * length * width + from * width + (i % (rows * width))];
      });
    const tensor = (rows: number, data: Float32Array) => device.tensor([batch * rows, width], 'f32', 'x', data);
    const [all, first, second] = [tensor(length, values), tensor(old, part(0, old)), tensor(fresh, part(old, fresh))];
    const list: number[] = [];
    const add = (numbers: number[]) => list.push(...numbers) - numbers.length;
    const rows = (from: number, count: number) =>
      Array.from({ length: batch * count }, (_, i) => Math.floor(i / count) * length + from + (i % count));
    const pairs = (count: number) => Array.from({ length: batch * count }, (_, i) => [3 * i + 1, 3 * i + 2]).flat();
    const offsets = [
      add(rows(0, old)),
      add(pairs(old)),
      add(rows(old, fresh)),
      add(pairs(fresh)),
      add(rows(0, length)),
    ];
    const index = device.tensor([list.length], 'u32', 'index', list);
    const [own, keysValues, ownFresh, pairsFresh, attended] = offsets.map((offset) => ({ tensor: index, offset }));
    const cache = device.tensor([batch * length, 2 * width], 'f32', 'kept');
    const session = new Session(device);
    const program = session.record('blocks', (r) => {
      block(r, all, weights, batch, length);
      block(r, first, weights, batch, old, { tensor: cache, own, keysValues });
      const reads = { rows: attended, keys: length };
      block(r, second, weights, batch, fresh, {
        tensor: cache,
        own: ownFresh,
        keysValues: pairsFresh,
        attended: reads,
      });
    });
    await session.prepare();
    session.run(program);
    const [whole, news, olds] = [await device.read(all), await device.read(second), await device.read(first)];
    let differs = false;
    for (let b = 0; b < batch; b++) {
      for (let i = 0; i < fresh * width; i++) {
        expect(news[b * fresh * width + i]).toBe(whole[(b * length + old) * width + i]);
      }
      for (let i = 0; i < old * width; i++) differs ||= olds[b * old * width + i] !== whole[b * length * width + i];
    }
    expect(differs).toBe(true); // the old rows would have seen the new ones
    session.dispose();
    loader.destroy();
    for (const one of [all, first, second, index, cache]) one.destroy();
  });
});

describe('savings that cannot be', () => {
  it.each([
    [{ headStepsLast: 9 }, /9 is more than 8/],
    [{ headStepsLast: 0 }, /headStepsLast/],
    [{ headSampler: 'ddpm', headSteps: 'ddim25', headStepsLast: 2 }, /number to fall from, not ddim25/],
    [{ shareEarly: 0 }, /shareEarly/],
    [{ reuseEncoder: 1.5 }, /reuseEncoder/],
  ] as const)('%j', (asked, message) => {
    expect(() => resolveSettings(asked)).toThrow(message);
  });

  it('a reused encoder that sees mask tokens', async () => {
    const single = { ...toyConfig, mae: false };
    const network = await Emigm.load(device, single, toySource(single));
    await expect(draw(network, { reuseEncoder: 2 })).rejects.toMatchObject({ code: 'input', message: /MAE/ });
    network.dispose();
  });
});
