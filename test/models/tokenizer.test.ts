/** The tokenizer interface: batches, posterior, tiles, and files that are none. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { Device } from '../../src/gpu/device.ts';
import { preset } from '../../src/models/config.ts';
import { cutTile, TileBlend, tileStarts } from '../../src/models/tiles.ts';
import { checkTokenizer, loadTokenizer, type Tokenizer } from '../../src/models/tokenizer.ts';
import { normalNoise, STREAMS } from '../../src/random.ts';
import { expectClose, random } from '../helpers/numbers.ts';
import { toyKl16, writeToyDcAe, writeToyKl16 } from '../helpers/tokenizer.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-tokenizer-'));
const path = join(folder, 'vae.safetensors');
const size = { height: 8, width: 12 };
const pixels = 3 * size.height * size.width;
const latents = { height: 4, width: 6 };
const places = latents.height * latents.width;
const { channels } = toyKl16;

let device: Device;
beforeAll(async () => {
  await writeToyKl16(path);
  device = await Device.open();
});
afterAll(() => {
  device?.dispose();
  rmSync(folder, { recursive: true, force: true });
});

async function using<T>(batch: number, run: (tokenizer: Tokenizer) => Promise<T>): Promise<T> {
  const tokenizer = await loadTokenizer(path, { device, batch });
  try {
    return await run(tokenizer);
  } finally {
    tokenizer.dispose();
  }
}

async function decoded(tokenizer: Tokenizer, values: Float32Array, scale?: number): Promise<Float32Array[]> {
  const images: Float32Array[] = [];
  for await (const image of tokenizer.decode(values, latents, { scale })) images.push(image);
  return images;
}

describe('loadTokenizer', () => {
  it('tells the kind and its sizes', async () => {
    await using(1, async ({ kind, stride, channels: found, scale, hasPosterior }) => {
      expect({ kind, stride, found, scale, hasPosterior }).toEqual({
        kind: 'KL-16',
        stride: 2,
        found: 3,
        scale: 0.2325,
        hasPosterior: true,
      });
    });
  });

  it('refuses a file of something else, and a model of other latents', async () => {
    const other = join(folder, 'other.safetensors');
    await writeSafetensors(other, [{ name: 'x', dtype: 'F32', shape: [1], data: new Float32Array(1) }], {});
    await expect(loadTokenizer(other, { device })).rejects.toThrow(/other\.safetensors: no tokenizer.*KL-16/);
    await using(1, async (tokenizer) => {
      const model = preset('emigm-xs-256');
      expect(() => checkTokenizer(model, tokenizer, 'a.ckpt')).toThrow(/a\.ckpt.*3 channels for 2 x 2.*16 channels/);
      expect(() => checkTokenizer({ ...model, channels: 3, vaeStride: 2 }, tokenizer, 'a.ckpt')).not.toThrow();
      expect(() => checkTokenizer({ ...model, vaeStride: 1 }, tokenizer, 'a.ckpt')).toThrow(/draws pixels/);
    });
  });
});

describe('passes', () => {
  it('do not depend on how many go at once, and say how many that are', async () => {
    const images = random().uniform(5 * pixels);
    const run = (batch: number) =>
      using(batch, async (tokenizer) => {
        const moments = await tokenizer.encode(images, size);
        const mean = await tokenizer.latents(images, size);
        expect(tokenizer.seconds.encode).toBeGreaterThan(0);
        const back = await decoded(tokenizer, mean);
        expect(back).toHaveLength(5);
        expect(back[0]).toHaveLength(pixels);
        return { moments, mean, back };
      });
    const [one, two] = [await run(1), await run(2)];
    expect(two).toEqual(one);
    await using(4, async (tokenizer) => expect(tokenizer.largestBatch(size)).toBe(4));
  });

  it("latents are the posterior's mean, or a draw by seed and index, times the scale", async () => {
    const images = random().uniform(2 * pixels);
    await using(2, async (tokenizer) => {
      const moments = await tokenizer.encode(images, size);
      const indices = [7, 3];
      const mean = await tokenizer.latents(images, size, { scale: 1 });
      const drawn = await tokenizer.latents(images, size, { draw: { seed: 11, indices } });
      for (const [image, index] of indices.entries()) {
        for (let p = 0; p < places; p++) {
          const noise = normalNoise(11, STREAMS.posterior, 0, index, p, 0, channels);
          for (let c = 0; c < channels; c++) {
            const at = (2 * image * channels + c) * places + p;
            const deviation = Math.exp(Math.min(20, Math.max(-30, moments[at + channels * places])) / 2);
            const own = (image * channels + c) * places + p;
            expect(mean[own]).toBe(moments[at]);
            expect(drawn[own]).toBeCloseTo(0.2325 * (moments[at] + deviation * noise[c]), 4);
          }
        }
      }
      const [a] = await decoded(tokenizer, mean.subarray(0, channels * places), 1);
      const [b] = await decoded(
        tokenizer,
        mean.subarray(0, channels * places).map((x) => x * 0.2325),
      );
      expectClose(a, b, { relative: 1e-5 }, 'decoded at either scale');
    });
  });

  it('of DC-AE give latents at once, with nothing to draw', async () => {
    const images = random().uniform(3 * pixels);
    const dcAe = await writeToyDcAe(join(folder, 'dc_ae.safetensors'));
    const run = async (batch: number) => {
      const tokenizer = await loadTokenizer(dcAe, { device, batch });
      const { kind, stride, channels: found, scale, hasPosterior } = tokenizer;
      expect({ kind, stride, found, scale, hasPosterior }).toEqual({
        kind: 'DC-AE',
        stride: 4,
        found: 4,
        scale: 0.3189,
        hasPosterior: false,
      });
      const cached = await tokenizer.encode(images, size);
      expect(cached).toHaveLength(3 * 4 * 2 * 3);
      const scaled = await tokenizer.latents(images, size, { draw: { seed: 1, indices: [0, 1, 2] } });
      expectClose(
        scaled,
        cached.map((x) => x * 0.3189),
        { relative: 1e-6 },
      );
      const back: Float32Array[] = [];
      for await (const image of tokenizer.decode(cached, { height: 2, width: 3 }, { scale: 1 })) back.push(image);
      tokenizer.dispose();
      return { cached, back };
    };
    expect(await run(2)).toEqual(await run(1));
  });

  it('refuse sizes that do not fit, and stop', async () => {
    await using(1, async (tokenizer) => {
      await expect(tokenizer.encode(new Float32Array(3 * 35), { height: 5, width: 7 })).rejects.toThrow(
        /multiples of 2, not 7 x 5/,
      );
      await expect(tokenizer.encode(new Float32Array(pixels + 1), size)).rejects.toThrow(/no items of \[3, 8, 12\]/);
      await expect(tokenizer.encode(new Float32Array(pixels), size, AbortSignal.abort())).rejects.toThrow(/stopped/);
    });
  });
});

describe('tiles', () => {
  it.each([
    [16, 16, 4],
    [32, 16, 4],
    [33, 8, 2],
    [20, 16, 4],
  ])('cover %i by %i with %i in common', (length, tile, overlap) => {
    const starts = tileStarts(length, tile, overlap);
    expect(starts[0]).toBe(0);
    expect(starts.at(-1)).toBe(length - tile);
    for (const [i, start] of starts.slice(1).entries()) expect(start - starts[i]).toBeLessThanOrEqual(tile - overlap);
  });

  it('give back what was cut, wherever they agree', () => {
    const map = { height: 13, width: 9 };
    const planes = random().normal(2 * map.height * map.width);
    const blend = new TileBlend({ channels: 2, ...map }, 2);
    for (const top of tileStarts(13, 6, 2)) {
      for (const left of tileStarts(9, 6, 2)) {
        const at = { top, left, rows: 6, columns: 6 };
        blend.add(cutTile(planes, map, at), at);
      }
    }
    expectClose(blend.result(), planes, { relative: 1e-6 });
  });

  it('decode what is too large for the memory, near to the whole', async () => {
    const map = { height: 32, width: 32 };
    const values = random().normal(channels * 32 * 32, 0.2);
    const whole = await using(1, async (tokenizer) => (await tokenizer.decode(values, map).next()).value!);
    // The passes at the full size want more than at half the side.
    const small = await Device.open({ memory: 6e6 });
    try {
      const tokenizer = await loadTokenizer(path, { device: small });
      const tiled = (await tokenizer.decode(values, map).next()).value!;
      expect(tiled).toHaveLength(whole.length);
      expectNear(tiled, whole);
      tokenizer.dispose();
    } finally {
      small.dispose();
    }
  });

  it('encode what is too large for the memory, near to the whole, and draw from it by the same noise', async () => {
    const pictures = { height: 48, width: 64 };
    const images = random().uniform(3 * 48 * 64);
    const draw = { seed: 5, indices: [3] };
    const run = async (tokenizer: Tokenizer) => [
      await tokenizer.encode(images, pictures),
      await tokenizer.latents(images, pictures, { draw }),
    ];
    const whole = await using(1, run);
    const small = await Device.open({ memory: 5e6 });
    try {
      const tokenizer = await loadTokenizer(path, { device: small });
      const tiled = await run(tokenizer);
      for (const [i, one] of tiled.entries()) expectNear(one, whole[i]);
      tokenizer.dispose();
    } finally {
      small.dispose();
    }
  });

  it('are refused where not even the smallest fits', async () => {
    const before = device.allocated;
    const weights = await using(1, async () => device.allocated - before);
    const small = await Device.open({ memory: weights + 8192 });
    try {
      const tokenizer = await loadTokenizer(path, { device: small });
      const images = random().uniform(3 * 256 * 256);
      await expect(tokenizer.encode(images, { height: 256, width: 256 })).rejects.toThrow(
        /^KL-16 cannot encode tiles of 8 latents of a side in the memory that is left$/,
      );
      tokenizer.dispose();
    } finally {
      small.dispose();
    }
  });

  /** Near, not equal: norms see a tile at a time. */
  function expectNear(tiled: Float32Array, whole: Float32Array): void {
    expect(tiled).toHaveLength(whole.length);
    const error = Math.sqrt(tiled.reduce((sum, x, i) => sum + (x - whole[i]) ** 2, 0));
    const power = Math.sqrt(whole.reduce((sum, x) => sum + x ** 2, 0));
    expect(error).toBeGreaterThan(0);
    expect(error).toBeLessThan(0.3 * power);
  }
});
