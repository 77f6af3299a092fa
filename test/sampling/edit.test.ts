/** Editing: what is kept stays to the byte, what is drawn depends on it, and a full mask is sampling. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RgbImage } from '../../src/formats/rgb.ts';
import { Device } from '../../src/gpu/device.ts';
import { revealPlan } from '../../src/masking/reveal.ts';
import type { ModelConfig } from '../../src/models/config.ts';
import { Emigm } from '../../src/models/emigm.ts';
import type { LoadedModel } from '../../src/models/load.ts';
import { loadTokenizer, type Tokenizer } from '../../src/models/tokenizer.ts';
import { sampleStream } from '../../src/index.ts';
import { gatherRows } from '../../src/ops/tokens.ts';
import { type BatchInput, BatchSampler } from '../../src/sampling/batch.ts';
import { HeadSampler, type NoiseSource } from '../../src/sampling/head_sampler.ts';
import { blendWeights, dilateMask, type EditRequest, edit, tokenMask } from '../../src/sampling/edit.ts';
import { random } from '../helpers/numbers.ts';
import { writeToyKl16 } from '../helpers/tokenizer.ts';
import { toyConfig, toySource } from '../helpers/toy.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-edit-'));
const settings = { steps: 3, headSteps: 3, cfg: 2, seed: 5 };
let device: Device;
const models: LoadedModel[] = [];
let tokenizer: Tokenizer;

async function open(config: ModelConfig, dataScale?: number): Promise<LoadedModel> {
  const network = await Emigm.load(device, config, toySource(config));
  const model = { device, network, config, info: { dataScale }, dispose: () => network.dispose() };
  models.push(model);
  return model;
}

beforeAll(async () => {
  device = await Device.open();
  tokenizer = await loadTokenizer(await writeToyKl16(join(folder, 'vae.safetensors')), { device });
});
afterAll(() => {
  for (const model of models) model.dispose();
  tokenizer?.dispose();
  device?.dispose();
  rmSync(folder, { recursive: true, force: true });
});

const latentConfig = { ...toyConfig, vaeStride: 2, imageSize: 16 };

function picture(size: number): RgbImage {
  const draw = random();
  return { width: size, height: size, rgb: Uint8Array.from({ length: 3 * size * size }, () => draw.integer(0, 255)) };
}

/** White where `inside` says so. */
function maskOf(size: number, inside: (x: number, y: number) => boolean): RgbImage {
  const rgb = Uint8Array.from({ length: 3 * size * size }, (_, i) => {
    const at = Math.floor(i / 3);
    return inside(at % size, Math.floor(at / size)) ? 255 : 0;
  });
  return { width: size, height: size, rgb };
}

/** Bytes of the pixels of cells that are (or are not) in the mask. */
function bytesWhere({ width, rgb }: RgbImage, masked: Uint8Array, wanted: 0 | 1): number[] {
  const grid = Math.sqrt(masked.length);
  const cell = width / grid;
  return Array.from(rgb).filter((_, i) => {
    const at = Math.floor(i / 3);
    return masked[Math.floor(Math.floor(at / width) / cell) * grid + Math.floor((at % width) / cell)] === wanted;
  });
}

describe.each([
  ['pixels with a class encoder', { ...toyConfig }, 2],
  ['pixels, one encoder', { ...toyConfig, mae: false }, undefined],
  ['latents', latentConfig, undefined],
] as const)('edit: %s', (name, config, dataScale) => {
  const needs = () => (name === 'latents' ? tokenizer : undefined);
  const size = config.imageSize;
  const corner = maskOf(size, (x, y) => x < size / 8 && y < size / 8);

  it('keeps the rest to the byte and draws what is masked, the same in any batch', async () => {
    const model = await open(config, dataScale);
    const image = picture(size);
    const seen: number[] = [];
    const base = { image, mask: corner, class: 1, tokenizer: needs(), ...settings };
    const result = await edit(model, {
      ...base,
      indices: [0, 1, 2],
      batch: 2,
      onStep: async ({ revealed }) => void seen.push((await revealed())[0].filter((one) => one === 1).length),
    });
    // One token of the four by four, and the three beside it.
    expect(Array.from(result.masked)).toEqual([1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    expect(seen[0]).toBeGreaterThan(12);
    expect(seen.at(-1)).toBe(16);
    expect(result.images.map(({ index }) => index)).toEqual([0, 1, 2]);
    for (const one of result.images) {
      expect(bytesWhere(one.image, result.masked, 0)).toEqual(bytesWhere(image, result.masked, 0));
      expect(bytesWhere(one.image, result.masked, 1)).not.toEqual(bytesWhere(image, result.masked, 1));
    }
    expect(result.images[0].image.rgb).not.toEqual(result.images[1].image.rgb);
    const alone = await edit(model, { ...base, indices: [1] });
    expect(alone.images[0].generated.rgb).toEqual(result.images[1].generated.rgb);
    // Other surroundings, another drawing.
    const last: Float32Array[] = [];
    for (const photo of [image, picture(size)]) {
      const onStep: EditRequest['onStep'] = async ({ step, steps, latents }) => {
        if (step === steps) last.push(await latents());
      };
      await edit(model, { ...base, image: photo, onStep });
    }
    expect(last).toHaveLength(2);
    expect(last[0][0]).not.toBe(last[1][0]); // in the first token, which is masked
    const undilated = await edit(model, { ...base, dilate: 0 });
    expect(undilated.masked.filter((one) => one === 1)).toHaveLength(1);
    expect(bytesWhere(undilated.images[0].image, undilated.masked, 0)).toEqual(bytesWhere(image, undilated.masked, 0));
  });

  it('with everything masked is sampling', async () => {
    const model = await open(config, dataScale);
    const white = maskOf(size, () => true);
    const { images } = await edit(model, {
      image: picture(size),
      mask: white,
      class: 2,
      tokenizer: needs(),
      indices: [4],
      ...settings,
    });
    const { value } = await sampleStream(model, { classes: [2], indices: [4], ...settings }).next();
    const [drawn] = value as { image?: RgbImage; latents: Float32Array }[];
    if (drawn.image) expect(images[0].image.rgb).toEqual(drawn.image.rgb);
    else {
      const decoded = await tokenizer.decode(drawn.latents, { height: 8, width: 8 }).next();
      const bytes = images[0].generated.rgb;
      for (const [i, byte] of bytes.entries()) {
        const at = Math.floor(i / 3);
        const value = ((decoded.value![(i % 3) * 256 + at] + 1) / 2) * 255;
        expect(Math.abs(byte - Math.min(255, Math.max(0, value)))).toBeLessThanOrEqual(0.51);
      }
      expect(images[0].image.rgb).toEqual(bytes);
    }
  });
});

describe.each([true, false])('kept tokens, encoder of visible ones alone: %s', (mae) => {
  it('go on as the drawing that they come from, to the bit', async () => {
    const { network } = await open({ ...toyConfig, mae });
    const draw = random();
    const n = network.sequenceLength;
    const dim = network.tokenDim;
    const order = Array.from({ length: n }, (_, i) => ({ i, key: draw.next() })).sort((a, b) => a.key - b.key);
    const guidance = [undefined, 1.5, 2, undefined];
    let next = 0;
    const steps = [3, 5, 4, 4].map((count, i) => ({
      positions: [
        order
          .slice(next, (next += count))
          .map(({ i: token }) => token)
          .sort((a, b) => a - b),
      ],
      guidance: guidance[i],
    }));
    // Noise by position alone, whatever the step.
    const table = device.tensor([n, dim], 'f32', 'noise', draw.normal(n * dim));
    const run = async (input: BatchInput): Promise<Float32Array> => {
      const rows: number[] = [];
      const rowTensor = device.tensor([8 * n], 'u32', 'noise order');
      const noise: NoiseSource = (r, out, { step, first, count, copy }) => {
        const own = Array.from(input.steps[step].positions[0]).slice(first, first + count);
        const offset = rows.length;
        rows.push(...own, ...(copy ? own : []));
        gatherRows(r, table, { tensor: rowTensor, offset }, copy ? 2 * count : count, dim, { out });
      };
      const head = new HeadSampler({ headSampler: 'dpm-solver', headSteps: 3, temperature: 1 });
      const sampler = new BatchSampler(network, input, { seed: 0, head, noise });
      device.write(rowTensor, rows);
      await sampler.prepare();
      sampler.load(input);
      sampler.begin();
      for (let step = 0; step < sampler.stepCount; step++) sampler.step(step);
      const images = await sampler.images();
      sampler.dispose();
      rowTensor.destroy();
      return images;
    };
    const whole = await run({ classRows: [1], imageIndices: [0], steps });
    for (const from of [1, 2, 3]) {
      const masked = new Uint8Array(n);
      for (const { positions } of steps.slice(from)) for (const p of positions[0]) masked[p] = 1;
      const kept = { masked, latents: whole };
      expect(await run({ classRows: [1], imageIndices: [0], steps: steps.slice(from), kept })).toEqual(whole);
    }
    table.destroy();
  });
});

describe('one line for', () => {
  it('what cannot be edited', async () => {
    const model = await open({ ...toyConfig });
    const latent = await open(latentConfig);
    const image = picture(8);
    const black = maskOf(8, () => false);
    const white = maskOf(8, () => true);
    await expect(edit(model, { image, mask: black })).rejects.toThrow(/no bright pixel/);
    await expect(edit(model, { image, mask: maskOf(9, () => true) })).rejects.toThrow(
      /9 x 9 pixels, the picture 8 x 8/,
    );
    await expect(edit(model, { image, mask: white, dilate: -1 })).rejects.toThrow(/dilate/);
    await expect(edit(model, { image, mask: white, class: 'sofa' })).rejects.toThrow(/class sofa does not exist/);
    await expect(edit(model, { image, mask: white, tokenizer })).rejects.toThrow(/draws pixels and needs no tokenizer/);
    await expect(edit(latent, { image, mask: white })).rejects.toThrow(/needs its tokenizer/);
    await expect(edit(model, { image, mask: white, signal: AbortSignal.abort() })).rejects.toThrow(/stopped/);
  });
});

describe('masks', () => {
  it('of tokens have every cell with a bright pixel', () => {
    const mask = maskOf(8, (x, y) => (x === 3 && y === 0) || (x === 7 && y === 7));
    mask.rgb.set([127, 127, 127], 3 * 8 * 4); // not bright enough
    expect(Array.from(tokenMask(mask, 4))).toEqual([0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
  });

  it('grow by rows and columns, within the grid', () => {
    const one = Uint8Array.from({ length: 16 }, (_, i) => (i === 4 ? 1 : 0));
    expect(Array.from(dilateMask(one, 4, 0))).toEqual(Array.from(one));
    expect(Array.from(dilateMask(one, 4, 1))).toEqual([1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]);
    expect(dilateMask(one, 4, 3).every((x) => x === 1)).toBe(true);
  });

  it('fade in over the feather, never outside', () => {
    const masked = Uint8Array.from([0, 0, 0, 1]);
    const hard = blendWeights(masked, 2, 2, 0);
    expect(Array.from(hard)).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1]);
    const soft = blendWeights(masked, 2, 2, 1);
    expect(Array.from(soft)).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.5, 0.5, 0, 0, 0.5, 1]);
  });

  it('plans reveal what is masked, in the order of a whole drawing', () => {
    const draw = random();
    const masked = Uint8Array.from({ length: 16 }, (_, i) => (i === 3 ? 1 : draw.integer(0, 1)));
    const options = { seed: 3, seqLen: 16, gridWidth: 4, steps: 4, schedule: 'exp', imageIndices: [2, 9] };
    const part = revealPlan({ ...options, masked });
    for (const image of [0, 1]) {
      const revealed = part.steps.flatMap(({ positions }) => Array.from(positions[image]));
      expect(revealed.sort((a, b) => a - b)).toEqual([...masked.keys()].filter((i) => masked[i] === 1));
    }
    expect(part.steps.at(-1)!.revealedAfter).toBe(16);
    const all = revealPlan({ ...options, masked: new Uint8Array(16).fill(1) });
    expect(all).toEqual(revealPlan(options));
    expect(() => revealPlan({ ...options, masked: new Uint8Array(16) })).toThrow(/0 of 16 tokens/);
  });
});
