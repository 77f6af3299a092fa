import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { readImage } from '../../src/formats/images.ts';
import { openShard } from '../../src/formats/shard.ts';
import { type DataOptions, openTrainingData } from '../../src/training/data/open.ts';
import { drawShape, SHAPE_CLASSES } from '../../src/training/data/shapes.ts';
import { emigm } from '../helpers/cli.ts';
import { latentSet, pictureSet } from '../helpers/data_sets.ts';
import { expectClose, random } from '../helpers/golden.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-data-cli-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const place = (name: string) => join(folder, name);

async function done(...argv: string[]): Promise<string> {
  const { code, err, out } = await emigm(['data', ...argv]);
  expect([code, err]).toEqual([0, '']);
  return out;
}

async function refused(code: number, ...argv: string[]): Promise<string> {
  const result = await emigm(['data', ...argv]);
  expect(result.err).toMatch(/^emigm: [^\n]+$/);
  expect(result.code).toBe(code);
  return result.err;
}

describe('shapes', () => {
  test('class folders of pictures that depend on seed and number alone', async () => {
    const out = place('shapes');
    expect(await done('shapes', '--out', out, '--count', '25', '--size', '16', '--seed', '3')).toBe(
      `${join(out, 'train')}: 25 pictures of 10 classes, 16 x 16, seed 3`,
    );
    expect(readdirSync(out)).toEqual(['train']);
    expect(readdirSync(join(out, 'train'))).toEqual(SHAPE_CLASSES);
    for (let i = 0; i < 25; i++) {
      const path = join(out, 'train', SHAPE_CLASSES[i % 10], `${String(i).padStart(6, '0')}.png`);
      const { label, ...drawn } = drawShape(i, 16, 3);
      expect(label).toBe(i % 10);
      expect(await readImage(path)).toEqual(drawn);
    }
    await done('shapes', '--out', place('more'), '--count', '30', '--size', '16', '--seed', '3', '--quiet');
    const file = join('train', 'ring', '000016.png');
    expect(readFileSync(join(place('more'), file))).toEqual(readFileSync(join(out, file)));
    const data = await openTrainingData(out, { batch: 25, seed: 0, channels: 3, size: 16, threads: 1 });
    expect([data.classes, data.size]).toEqual([SHAPE_CLASSES, 25]);
    await data.close();
  });

  test('pictures differ by number and seed, and show the same in any size', () => {
    const bytes = (...args: Parameters<typeof drawShape>) => String(drawShape(...args).rgb);
    expect(new Set([bytes(0, 16, 0), bytes(10, 16, 0), bytes(20, 16, 0), bytes(0, 16, 1)]).size).toBe(4);
    for (const index of SHAPE_CLASSES.keys()) {
      const [small, large] = [drawShape(index, 16, 5), drawShape(index, 64, 5)];
      const means = Float32Array.from(small.rgb, (_, i) => {
        const [x, y, c] = [Math.floor(i / 3) % 16, Math.floor(i / 48), i % 3];
        let sum = 0;
        for (let k = 0; k < 16; k++) sum += large.rgb[3 * ((4 * y + (k >> 2)) * 64 + 4 * x + (k % 4)) + c];
        return sum / 16;
      });
      // An upright border is counted in quarters of a pixel, hence off by an eighth at most; and rounding.
      expectClose(small.rgb, means, { absolute: 255 / 8 + 1 });
    }
  });

  test('every form stands out from its ground, and lies inside', () => {
    for (let i = 0; i < 40; i++) {
      const { rgb } = drawShape(i, 32, 9);
      const at = (x: number, y: number) => rgb.subarray(3 * (y * 32 + x), 3 * (y * 32 + x) + 3);
      const distances = Array.from({ length: 1024 }, (_, k) => {
        const [a, b] = [at(k % 32, k >> 5), at(0, 0)];
        return Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
      });
      const different = distances.filter((distance) => distance > 35).length;
      expect(different, `picture ${i}`).toBeGreaterThan(25);
      expect(different, `picture ${i}`).toBeLessThan(900);
    }
  });

  test('a folder that is not empty is left alone; --force replaces its forms and nothing else', async () => {
    const out = place('full');
    await done('shapes', '--out', out, '--count', '20', '--size', '8', '--quiet');
    mkdirSync(join(out, 'train', 'own'));
    writeFileSync(join(out, 'train', 'own', 'notes.txt'), '');
    expect(await refused(1, 'shapes', '--out', out, '--count', '10')).toMatch(/full is not empty; .* --force/);
    expect(readdirSync(join(out, 'train', 'star'))).toEqual(['000008.png', '000018.png']);
    await done('shapes', '--out', out, '--count', '10', '--size', '8', '--force', '--quiet');
    expect(readdirSync(join(out, 'train', 'star'))).toEqual(['000008.png']);
    expect(readdirSync(join(out, 'train', 'own'))).toEqual(['notes.txt']);
    expect(readdirSync(out)).toEqual(['train']);
  });

  test('stopped: exit code 130, nothing left', async () => {
    const stop = new AbortController();
    stop.abort();
    const out = place('stopped');
    expect((await emigm(['data', 'shapes', '--out', out, '--count', '50'], stop.signal)).code).toBe(130);
    expect(existsSync(out) ? readdirSync(out) : []).toEqual([]);
  });

  test('refusals', async () => {
    expect(await refused(1, 'shapes', '--out', place('tiny'), '--count', '1', '--size', '4')).toMatch(
      /4 pixels; give 8/,
    );
    writeFileSync(place('file'), '');
    expect(await refused(1, 'shapes', '--out', place('file'), '--count', '1')).toMatch(/file: is a file, not a folder/);
    expect(await refused(2, 'shapes', '--out', place('x'))).toMatch(/required option .*--count/);
    expect(await refused(2, 'shapes', '--out', place('x'), '--count', '0')).toMatch(/positive whole number/);
    expect(await refused(2, 'shape')).toMatch(/unknown command 'shape' .*Did you mean shapes/);
    expect((await emigm(['data', 'shapes', '--help'])).out).toMatch(/Examples:[\s\S]*--count 10000/);
  });
});

describe('pack', () => {
  test('pictures: the shard gives the batches that the folder gives', async () => {
    const [root, out] = [place('photos'), place('photos.safetensors')];
    await pictureSet(join(root, 'train'), { a: 5, b: 3 }, random());
    const said = await done('pack', root, '--out', out, '--size', '12', '--threads', '1');
    expect(said).toMatch(/photos\.safetensors: 8 pictures of 2 classes, 12 x 12 x 3, 0\.0 MB/);
    const options: DataOptions = { batch: 3, seed: 1, channels: 3, size: 12, threads: 1 };
    const sources = await Promise.all(
      [root, out].flatMap((path) => [options, { ...options, memoryBudget: 0 }].map((o) => openTrainingData(path, o))),
    );
    for (let step = 0; step < 5; step++) {
      const [first, ...others] = await Promise.all(sources.map((source) => source.batch(step)));
      for (const other of others) expect(other).toEqual(first);
    }
    for (const source of sources) await source.close();
    await expect(openTrainingData(out, { ...options, size: 8 })).rejects.toThrow(
      /images of 12 x 12, but the network takes 8; pack with --size 8/,
    );
  });

  test.each(['f32', 'f16'])('cached latents as %s', async (dtype) => {
    const [root, out] = [place(`cached-${dtype}`), place(`cached-${dtype}.safetensors`)];
    const items = await latentSet(root, { a: 2, b: 1 }, [2, 3], random());
    expect(await done('pack', root, '--out', out, '--dtype', dtype)).toMatch(/3 latents of 2 classes, 4 x 3 x 3/);
    const shard = await openShard(out);
    expect([shard.content, shard.dtype, shard.mirrored, [...shard.labels]]).toEqual([
      'moments',
      dtype.toUpperCase(),
      true,
      [0, 0, 1],
    ]);
    const tolerance = { relative: dtype === 'f16' ? 2 ** -11 : 0 };
    for (const [i, { moments, flip }] of items.entries()) {
      expectClose((await shard.read(i)) as Float32Array, moments, tolerance);
      expectClose((await shard.read(i, true)) as Float32Array, flip, tolerance);
    }
    await shard.close();
  });

  test('a damaged picture: named, or left out', async () => {
    const [root, out] = [place('damaged'), place('damaged.safetensors')];
    const paths = await pictureSet(root, { a: 3, b: 2 }, random());
    truncateSync(paths[1], 50);
    expect(await refused(1, 'pack', root, '--out', out, '--size', '8')).toMatch(/001\.png: not a picture/);
    expect(existsSync(out)).toBe(false);
    const {
      code,
      err,
      out: said,
    } = await emigm(['data', 'pack', root, '--out', out, '--size', '8', '--skip-unreadable']);
    expect([code, err.split('\n').length]).toEqual([0, 1]);
    expect(err).toMatch(/^skipped: .*001\.png: not a picture/);
    expect(said).toContain('4 pictures');
    const shard = await openShard(out);
    expect([...shard.labels]).toEqual([0, 0, 1, 1]);
    await shard.close();
  });

  test('refusals', async () => {
    const root = place('some');
    await pictureSet(root, { a: 1 }, random());
    expect(await refused(1, 'pack', root, '--out', place('s.safetensors'))).toMatch(/holds pictures; .*--size 32/);
    expect(await refused(1, 'pack', root, '--out', place('s.npz'), '--size', '8')).toMatch(/must end in \.safetensors/);
    expect(await refused(1, 'pack', root, '--out', place('no/s.safetensors'), '--size', '8')).toMatch(/does not exist/);
    await done('pack', root, '--out', place('s.safetensors'), '--size', '8', '--quiet');
    expect(await refused(1, 'pack', root, '--out', place('s.safetensors'), '--size', '8')).toMatch(/exists; .*--force/);
    await done('pack', root, '--out', place('s.safetensors'), '--size', '8', '--quiet', '--force');
    mkdirSync(place('empty'));
    expect(await refused(1, 'pack', place('empty'), '--out', place('e.safetensors'), '--size', '8')).toMatch(
      /is empty; put/,
    );
    expect(await refused(2, 'pack', root, '--out', place('e.safetensors'), '--dtype', 'f64')).toMatch(/f32, f16/);
  });

  test('stopped: exit code 130, nothing left', async () => {
    const stop = new AbortController();
    stop.abort();
    const root = place('stop');
    await pictureSet(root, { a: 2 }, random());
    const before = readdirSync(folder);
    const argv = ['data', 'pack', root, '--out', place('stop.safetensors'), '--size', '8'];
    expect((await emigm(argv, stop.signal)).code).toBe(130);
    expect(readdirSync(folder)).toEqual(before);
  });
});
