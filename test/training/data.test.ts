import { copyFileSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { centerCrop, readImage, toFloats } from '../../src/formats/images.ts';
import { writeShard } from '../../src/formats/shard.ts';
import { type DataOptions, openTrainingData } from '../../src/training/data/open.ts';
import { BatchOrder } from '../../src/training/data/order.ts';
import { Prefetcher } from '../../src/training/data/prefetch.ts';
import type { Batch } from '../../src/training/data/types.ts';
import { latentSet, pictureSet } from '../helpers/data_sets.ts';
import { expectClose, random } from '../helpers/golden.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-data-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const place = (name: string) => join(folder, name);

const PIXELS: DataOptions = { batch: 4, seed: 5, channels: 3, size: 8, threads: 2 };

/** The batches of these steps, in this order. */
async function batches(path: string, options: DataOptions, steps: number[]): Promise<Batch[]> {
  const data = await openTrainingData(path, options);
  const found: Batch[] = [];
  for (const step of steps) found.push(await data.batch(step));
  await data.close();
  return found;
}

/** [3, S, S] with each row reversed. */
function mirror(chw: Float32Array, side: number): Float32Array {
  return Float32Array.from(chw, (_, i) => chw[i - (i % side) + side - 1 - (i % side)]);
}

describe('order', () => {
  test('each epoch takes every item once, in an order of its own', () => {
    const order = new BatchOrder(12, 4, 1);
    const epochs = [0, 1, 2].map((epoch) => [0, 1, 2].flatMap((i) => [...order.at(3 * epoch + i).indices]));
    for (const epoch of epochs)
      expect([...epoch].sort((a, b) => a - b)).toEqual(Array.from({ length: 12 }, (_, i) => i));
    expect(new Set(epochs.map(String)).size).toBe(3);
    expect(order.at(7).epoch).toBe(2);
  });

  test('what fills no batch is left out, other items each epoch', () => {
    const order = new BatchOrder(11, 4, 1);
    expect(order.stepsPerEpoch).toBe(2);
    const left = Array.from({ length: 20 }, (_, epoch) => {
      const taken = new Set([...order.at(2 * epoch).indices, ...order.at(2 * epoch + 1).indices]);
      expect(taken.size).toBe(8);
      return Array.from({ length: 11 }, (__, i) => i).filter((i) => !taken.has(i));
    });
    expect(new Set(left.flat()).size).toBe(11);
  });

  test('a step gives the same whatever was asked before', () => {
    const straight = new BatchOrder(30, 7, 9);
    const all = Array.from({ length: 24 }, (_, step) => straight.at(step));
    for (const step of [17, 3, 23, 0, 12]) expect(new BatchOrder(30, 7, 9).at(step)).toEqual(all[step]);
    expect(straight.at(2)).toEqual(all[2]);
    expect(new BatchOrder(30, 7, 10).at(0)).not.toEqual(all[0]);
    const returned = straight.at(5).indices;
    returned.fill(-1); // the caller's own copy
    expect(straight.at(5)).toEqual(all[5]);
  });

  test('half of all items are mirrored, anew in each epoch', () => {
    const order = new BatchOrder(1000, 10, 2);
    const flips = [0, 1].map((epoch) => Array.from({ length: 1000 }, (_, i) => order.flipped(epoch, i)));
    for (const epoch of flips) expect(Math.abs(epoch.filter(Boolean).length - 500)).toBeLessThan(80); // 5 sigma
    const same = flips[0].filter((flip, i) => flip === flips[1][i]).length;
    expect(Math.abs(same - 500)).toBeLessThan(80);
  });

  test('impossible batches and steps', () => {
    expect(() => new BatchOrder(3, 4, 0)).toThrow(/a batch of 4 cannot be made of 3 images/);
    expect(() => new BatchOrder(3, 0, 0)).toThrow(/give 1 to 3/);
    expect(() => new BatchOrder(3, 1, 0).at(-1)).toThrow(/step -1/);
  });
});

describe('prefetching', () => {
  test('coming steps are loaded ahead, once; a jump forgets the others', async () => {
    const asked: number[] = [];
    const ahead = new Prefetcher(async (step) => asked.push(step) && step * step, 2);
    expect(await ahead.at(3)).toBe(9);
    expect(await ahead.at(4)).toBe(16);
    expect(asked).toEqual([3, 4, 5, 6]);
    expect(await ahead.at(100)).toBe(10000);
    expect(asked.slice(4)).toEqual([100, 101, 102]);
    expect(await ahead.at(4)).toBe(16);
    expect(asked.slice(7)).toEqual([4, 5, 6]);
  });

  test('an error ahead is thrown at its own step only', async () => {
    const ahead = new Prefetcher(async (step) => {
      if (step === 2) throw new Error('two');
      return step;
    }, 3);
    expect(await ahead.at(0)).toBe(0);
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(await ahead.at(1)).toBe(1);
    await expect(ahead.at(2)).rejects.toThrow('two');
  });
});

describe('folders of pictures', () => {
  test('cropped, mirrored, scaled; labels by class; in memory or not', async () => {
    const root = place('photos');
    const paths = await pictureSet(root, { b: 5, a: 4, c: 2 }, random());
    const streamed = { ...PIXELS, dataScale: 1.7, memoryBudget: 0 };
    const steps = [0, 1, 2, 3, 4];
    const found = await batches(root, streamed, steps);
    const order = new BatchOrder(11, 4, 5);
    let flips = 0;
    for (const [step, { images, labels, indices }] of found.entries()) {
      const { epoch, indices: expected } = order.at(step);
      expect(indices).toEqual(expected);
      expect(labels).toEqual(Int32Array.from(expected, (i) => (i < 4 ? 0 : i < 9 ? 1 : 2)));
      for (const [b, index] of expected.entries()) {
        const plain = toFloats(centerCrop(await readImage(paths[index]), 8)).map((x) => x * Math.fround(1.7));
        const flipped = order.flipped(epoch, index);
        flips += flipped ? 1 : 0;
        expect(images.subarray(b * 192, (b + 1) * 192)).toEqual(flipped ? mirror(plain, 8) : plain);
      }
    }
    expect(flips).toBeGreaterThan(0);
    expect(flips).toBeLessThan(20);
    expect(await batches(root, { ...streamed, memoryBudget: 1e6 }, steps)).toEqual(found);
    // A resumed run begins anywhere.
    expect(await batches(root, streamed, [3, 4])).toEqual(found.slice(3));
    expect(await batches(root, { ...streamed, threads: 1, prefetch: 0 }, [4, 1])).toEqual([found[4], found[1]]);
    const plain = await batches(root, { ...streamed, flip: false }, [0]);
    expect(plain[0].indices).toEqual(found[0].indices);
    expect(plain[0].images).not.toEqual(found[0].images);
  });

  test('says what it is; progress while it is read', async () => {
    const root = place('described');
    await pictureSet(root, { a: 3, b: 3 }, random());
    writeFileSync(join(root, 'a', 'notes.txt'), '');
    const warnings: string[] = [];
    const seen: number[] = [];
    const data = await openTrainingData(root, {
      ...PIXELS,
      onWarning: (message) => warnings.push(message),
      onProgress: (done, total) => seen.push(done / total),
    });
    expect(data.description).toBe('6 pictures of 2 classes, 3 x 8 x 8, in memory');
    expect([data.size, data.classes, data.shape, data.stepsPerEpoch]).toEqual([
      6,
      ['a', 'b'],
      { channels: 3, height: 8, width: 8 },
      1,
    ]);
    expect(warnings).toEqual([`${root}: 1 files are not of a kind that is read, left out`]);
    expect(seen.at(-1)).toBe(1);
    await data.close();
  });

  test('a scale that gives the pixels unit variance', async () => {
    const root = place('scaled');
    await pictureSet(root, { a: 3, b: 4 }, random());
    const options: DataOptions = { ...PIXELS, batch: 7, dataScale: 'unit-variance' };
    for (const memoryBudget of [0, 1e6]) {
      const data = await openTrainingData(root, { ...options, memoryBudget });
      const { images } = await data.batch(0);
      const mean = images.reduce((a, b) => a + b) / images.length;
      const variance = images.reduce((a, b) => a + (b - mean) ** 2, 0) / images.length;
      expectClose([variance], [1], { relative: 1e-5 });
      await data.close();
      expect(await batches(root, { ...PIXELS, batch: 7, dataScale: data.scale }, [0])).toEqual(
        [await batches(root, options, [0])].flat(),
      );
    }
  });

  describe('a damaged picture', () => {
    test.each([
      ['in memory', 1e6],
      ['streamed', 0],
    ])('%s: named, or skipped', async (_, memoryBudget) => {
      const root = place(`damaged-${memoryBudget}`);
      const paths = await pictureSet(root, { a: 3, b: 3 }, random());
      truncateSync(paths[2], 60);
      const options = { ...PIXELS, batch: 6, memoryBudget };
      await expect(batches(root, options, [0])).rejects.toMatchObject({
        code: 'file',
        message: expect.stringContaining(`${paths[2]}: not a picture`),
      });
      const warnings: string[] = [];
      const skipping = { ...options, skipUnreadable: true, onWarning: (message: string) => warnings.push(message) };
      const [batch, second] = await batches(root, skipping, [0, 1]);
      expect([...batch.indices].sort()).toEqual([0, 1, 3, 3, 4, 5]); // the next item stands in
      expect(batch.labels).toEqual(batch.indices.map((i) => (i < 3 ? 0 : 1)));
      expect(warnings).toEqual([expect.stringMatching(/^skipped: .*002\.png: not a picture/)]);
      const other = { ...skipping, memoryBudget: memoryBudget === 0 ? 1e6 : 0 };
      expect(await batches(root, other, [0, 1])).toEqual([batch, second]);
    });

    test('none that can be read', async () => {
      const root = place('hopeless');
      for (const path of await pictureSet(root, { a: 2 }, random())) writeFileSync(path, '');
      await expect(batches(root, { ...PIXELS, batch: 2, skipUnreadable: true }, [0])).rejects.toThrow(
        /none of the 2 items can be read/,
      );
    });
  });

  test('refusals', async () => {
    const root = place('refused');
    await pictureSet(root, { a: 3 }, random());
    await expect(openTrainingData(root, PIXELS)).rejects.toThrow(/a batch of 4 cannot be made of 3 images/);
    await expect(openTrainingData(root, { ...PIXELS, channels: 16 })).rejects.toThrow(
      /holds pictures, but the network takes latents of 16 channels/,
    );
    const stop = new AbortController();
    stop.abort();
    await expect(openTrainingData(root, { ...PIXELS, batch: 2, signal: stop.signal })).rejects.toMatchObject({
      code: 'aborted',
    });
  });
});

describe('cached latents', () => {
  const LATENTS: DataOptions = { batch: 3, seed: 8, channels: 2, size: 3, threads: 1 };

  test('moments of the item or of its mirror image, drawn anew each epoch', async () => {
    const root = place('latents');
    const items = await latentSet(root, { a: 3, b: 2 }, [2, 3], random());
    const streamed = { ...LATENTS, memoryBudget: 0 };
    const steps = [0, 1, 2, 3];
    const found = await batches(root, streamed, steps);
    const order = new BatchOrder(5, 3, 8);
    const noises: number[] = [];
    for (const [step, { images, indices }] of found.entries()) {
      const { epoch } = order.at(step);
      for (const [b, index] of indices.entries()) {
        const moments = order.flipped(epoch, index) ? items[index].flip : items[index].moments;
        const latent = images.subarray(b * 18, (b + 1) * 18);
        // what the posterior's mean leaves is its deviation times the noise
        for (let i = 0; i < 18; i++) noises.push((latent[i] / 0.2325 - moments[i]) / Math.exp(moments[18 + i] / 2));
      }
    }
    const mean = noises.reduce((a, b) => a + b) / noises.length;
    const variance = noises.reduce((a, b) => a + b * b, 0) / noises.length;
    expect(new Set(noises).size).toBe(noises.length);
    expect(Math.abs(mean)).toBeLessThan(0.35); // 216 standard normals: 5 sigma
    expect(Math.abs(variance - 1)).toBeLessThan(0.5);
    expect(await batches(root, LATENTS, steps)).toEqual(found);
    expect(await batches(root, streamed, [2, 3])).toEqual(found.slice(2));
  });

  test('a shard gives the same, whole or streamed', async () => {
    const root = place('packed');
    const items = await latentSet(root, { a: 3, b: 2 }, [2, 3], random());
    const shard = place('packed.safetensors');
    async function* rows(mirrored: boolean) {
      for (const item of items) yield mirrored ? item.flip : item.moments;
    }
    await writeShard(shard, {
      content: 'moments',
      dtype: 'F32',
      shape: [4, 3, 3],
      classes: ['a', 'b'],
      labels: Int32Array.of(0, 0, 0, 1, 1),
      mirrored: true,
      items: rows,
    });
    const expected = await batches(root, LATENTS, [0, 1, 2]);
    expect(await batches(shard, LATENTS, [0, 1, 2])).toEqual(expected);
    expect(await batches(shard, { ...LATENTS, memoryBudget: 0 }, [0, 1, 2])).toEqual(expected);
    truncateSync(shard, 700);
    await expect(batches(shard, LATENTS, [0])).rejects.toMatchObject({ code: 'file' });
  });

  test('latents without a posterior are scaled only', async () => {
    const shard = place('plain.safetensors');
    const row = random().normal(18);
    await writeShard(shard, {
      content: 'latents',
      dtype: 'F32',
      shape: [2, 3, 3],
      classes: ['a'],
      labels: new Int32Array(1),
      mirrored: false,
      items: async function* () {
        yield row;
      },
    });
    const options = { ...LATENTS, batch: 1, flip: false, latentScale: 0.5 };
    const [{ images }] = await batches(shard, options, [0]);
    expectClose(
      images,
      row.map((x) => x / 2),
      { absolute: 0 },
    );
    await expect(openTrainingData(shard, { ...options, flip: true })).rejects.toThrow(/no mirrored latents.*--no-flip/);
  });

  test('refusals', async () => {
    const root = place('unequal');
    const items = await latentSet(root, { a: 3 }, [2, 3], random());
    await expect(openTrainingData(root, { ...LATENTS, channels: 16 })).rejects.toThrow(
      /moments of shape \[4,3,3\], but the network takes 16 channels of 3 x 3, hence moments of \[32,3,3\]/,
    );
    const [other] = await latentSet(place('other'), { a: 1 }, [2, 4], random());
    copyFileSync(other.path, items[1].path);
    await expect(openTrainingData(root, LATENTS)).rejects.toThrow(
      /1\.npz: moments(_flip)? have shape \[4,4,4\], those of .*0\.npz \[4,3,3\]/,
    );
  });
});
