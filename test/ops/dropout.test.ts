/** The bits that dropout is made of: uniform, and independent across elements, places, heads and steps. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { dropout, dropoutKeys, dropoutLevel, headKey, randomBits } from '../../src/ops/dropout.ts';
import type { Words } from '../../src/random.ts';
import { EmigmError } from '../../src/errors.ts';
import { random } from '../helpers/numbers.ts';

/**
 * Standard deviations that a statistic of fair bits may be off: passed by chance in one of 10^7 of a few hundred
 * statistics at 6; a broken generator is off by far more.
 */
const SIGMAS = 6;

const key = (keys: Uint32Array, row: number): Words => [keys[2 * row], keys[2 * row + 1]];
const bitsOf = (of: Words, count: number, stride = 1) =>
  Uint32Array.from({ length: count }, (_, i) => randomBits(of, i * stride));

/** By how many standard deviations the number of differing bits of two lists is off, the worst bit of the 32. */
function worstAgreement(a: Uint32Array, b: Uint32Array): number {
  let worst = 0;
  for (let bit = 0; bit < 32; bit++) {
    let differ = 0;
    for (let i = 0; i < a.length; i++) differ += ((a[i] ^ b[i]) >>> bit) & 1;
    worst = Math.max(worst, Math.abs(differ - a.length / 2) / Math.sqrt(a.length / 4));
  }
  return worst;
}

/** Correlation of two lists of 0 and 1 that are 1 with this probability, in standard deviations. */
function correlation(a: readonly boolean[], b: readonly boolean[], probability: number): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (Number(a[i]) - probability) * (Number(b[i]) - probability);
  return Math.abs(sum) / (probability * (1 - probability) * Math.sqrt(a.length));
}

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

describe('dropout', () => {
  const seed = random().integer(0, 2 ** 31);
  const keys = dropoutKeys(seed, 17, 4);
  const count = 2 ** 16;

  it('draws uniform bits', () => {
    for (const stride of [1, 4, 65536]) {
      const bits = bitsOf(key(keys, 0), count, stride);
      for (const shift of [0, 8, 16, 24]) {
        const bins = new Uint32Array(256);
        for (const word of bits) bins[(word >>> shift) & 255]++;
        const expected = count / 256;
        const chi = bins.reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0);
        expect(Math.abs(chi - 255) / Math.sqrt(2 * 255), `stride ${stride}, bits from ${shift}`).toBeLessThan(SIGMAS);
      }
    }
  });

  it('drops the share that is asked for', () => {
    for (const probability of [0.1, 0.5, 0.9]) {
      const { threshold, scale } = dropoutLevel(probability);
      const dropped = bitsOf(key(keys, 1), count).filter((word) => word < threshold).length;
      const sigma = Math.sqrt(count * probability * (1 - probability));
      expect(Math.abs(dropped - count * probability) / sigma).toBeLessThan(SIGMAS);
      expect(scale * (1 - threshold / 2 ** 32)).toBeCloseTo(1, 14);
    }
  });

  it('is independent across elements', () => {
    const bits = bitsOf(key(keys, 0), count + 4096);
    for (const lag of [1, 2, 3, 4, 8, 64, 320, 768, 1024, 4096]) {
      expect(worstAgreement(bits.subarray(0, count), bits.subarray(lag, lag + count)), `lag ${lag}`).toBeLessThan(
        SIGMAS,
      );
    }
    const { threshold } = dropoutLevel(0.1);
    const dropped = Array.from(bits, (word) => word < threshold);
    for (const lag of [1, 2, 3, 4, 8, 64, 320, 768, 1024, 4096]) {
      const worst = correlation(dropped.slice(0, count), dropped.slice(lag, lag + count), 0.1);
      expect(worst, `lag ${lag}`).toBeLessThan(SIGMAS);
    }
  });

  it('is independent across places, micro-batches, steps and seeds', () => {
    const base = bitsOf(key(keys, 0), count);
    const others = {
      place: key(keys, 1),
      'micro-batch': key(dropoutKeys(seed, 17, 4, 1), 0),
      step: key(dropoutKeys(seed, 18, 4), 0),
      seed: key(dropoutKeys(seed + 1, 17, 4), 0),
      'a key that differs in one bit of its first word': [keys[0] ^ 1, keys[1]] as Words,
      'a key that differs in one bit of its second word': [keys[0], keys[1] ^ 1] as Words,
    };
    for (const [name, other] of Object.entries(others)) {
      expect(worstAgreement(base, bitsOf(other, count)), name).toBeLessThan(SIGMAS);
    }
  });

  it('is independent across heads, queries and keys of attention', () => {
    const weights = (head: number, query: number, at: number) =>
      randomBits(headKey(key(keys, 2), head), query * 65536 + at);
    const list = (of: (query: number, at: number) => number) =>
      Uint32Array.from({ length: count }, (_, i) => of(i >>> 8, i & 255));
    const base = list((query, at) => weights(5, query, at));
    const others = {
      'the next head': list((query, at) => weights(6, query, at)),
      'the next query': list((query, at) => weights(5, query + 1, at)),
      'the next key': list((query, at) => weights(5, query, at + 1)),
      'query and key exchanged': list((query, at) => weights(5, at + 256, query + 256)),
    };
    for (const [name, other] of Object.entries(others)) {
      expect(worstAgreement(base, other), name).toBeLessThan(SIGMAS);
    }
  });

  it('drops other elements when the keys change, in the program recorded before', async () => {
    const size = 1000;
    const tensor = device.tensor([4, 2], 'u32', 'keys', keys);
    const x = device.tensor([size], 'f32', 'x', new Float32Array(size).fill(1));
    const y = device.tensor([size], 'f32', 'y');
    const session = new Session(device);
    const program = session.record('dropout', (r) => {
      dropout(r, x, { keys: tensor, row: 3, probability: 0.5 }, { out: y });
    });
    await session.prepare();
    const at = async (step: number) => {
      device.write(tensor, dropoutKeys(seed, step, 4));
      session.run(program);
      return [...(await device.read(y))];
    };
    const first = await at(17);
    const second = await at(18);
    expect(first.filter((value, i) => value !== second[i]).length).toBeGreaterThan(size / 4);
    expect(await at(17)).toEqual(first);
    session.dispose();
    for (const used of [tensor, x, y]) used.destroy();
  });

  it('gives every place, micro-batch and step its own keys', () => {
    const all = [0, 1, 2].flatMap((step) => [0, 1].flatMap((micro) => [...pairs(dropoutKeys(seed, step, 9, micro))]));
    expect(new Set(all).size).toBe(3 * 2 * 9);
    expect([...dropoutKeys(seed, 17, 2)]).toEqual([...keys.subarray(0, 4)]);
  });

  it('refuses what is no probability', () => {
    for (const wrong of [-0.1, 1, 1.5, Number.NaN]) expect(() => dropoutLevel(wrong)).toThrow(EmigmError);
  });
});

function* pairs(keys: Uint32Array) {
  for (let row = 0; row < keys.length / 2; row++) yield key(keys, row).join(' ');
}
