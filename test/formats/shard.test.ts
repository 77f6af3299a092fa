import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { fromFloat32, toFloat32 } from '../../src/formats/dtype.ts';
import { openSafetensors, type TensorToWrite, writeSafetensors } from '../../src/formats/safetensors.ts';
import { openShard, type ShardToWrite, writeShard } from '../../src/formats/shard.ts';
import { random } from '../helpers/golden.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-shard-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const file = (name: string) => join(folder, `${name}.safetensors`);

async function* each<T>(rows: readonly T[]): AsyncGenerator<T> {
  yield* rows;
}

function pictures(count: number, [height, width]: [number, number]): { shard: ShardToWrite; rows: Uint8Array[] } {
  const draw = random();
  const rows = Array.from({ length: count }, () =>
    Uint8Array.from({ length: height * width * 3 }, () => draw.integer(0, 255)),
  );
  const shard: ShardToWrite = {
    content: 'images',
    dtype: 'U8',
    shape: [height, width, 3],
    classes: ['hat', 'T-shirt "x"', 'größe'],
    labels: Int32Array.from(rows, (_, i) => i % 3),
    mirrored: false,
    items: () => each(rows),
  };
  return { shard, rows };
}

test('pictures come back one by one', async () => {
  const { shard, rows } = pictures(7, [5, 3]);
  await writeShard(file('pictures'), shard);
  const read = await openShard(file('pictures'));
  expect(read).toMatchObject({
    content: 'images',
    dtype: 'U8',
    shape: [5, 3, 3],
    classes: shard.classes,
    mirrored: false,
  });
  expect(read.labels).toEqual(shard.labels);
  for (const i of [6, 0, 3]) expect(await read.read(i)).toEqual(rows[i]);
  await expect(read.read(7)).rejects.toThrow(/no item 7 of 7/);
  await expect(read.read(0, true)).rejects.toThrow(/no mirrored item/);
  await read.close();
});

test('any safetensors reader can read it', async () => {
  const { shard, rows } = pictures(4, [2, 2]);
  await writeShard(file('plain'), shard);
  const plain = await openSafetensors(file('plain'));
  expect((await plain.read('images')).data).toEqual(Uint8Array.from(rows.flatMap((row) => [...row])));
  expect((await plain.read('labels')).data).toEqual(shard.labels);
  await plain.close();
});

test.each(['F16', 'F32'] as const)('moments of %s, mirrored too', async (dtype) => {
  const draw = random();
  const make = () =>
    Array.from({ length: 3 }, () => fromFloat32(dtype, draw.normal(4 * 2 * 3)) as Uint16Array<ArrayBuffer>);
  const [rows, flipped] = [make(), make()];
  await writeShard(file('moments'), {
    content: 'moments',
    dtype,
    shape: [4, 2, 3],
    classes: ['a'],
    labels: new Int32Array(3),
    mirrored: true,
    items: (mirrored) => each(mirrored ? flipped : rows),
  });
  const read = await openShard(file('moments'));
  for (let i = 0; i < 3; i++) {
    expect(await read.read(i)).toEqual(toFloat32(dtype, rows[i]));
    expect(await read.read(i, true)).toEqual(toFloat32(dtype, flipped[i]));
  }
  await read.close();
});

describe('writing', () => {
  test.each([
    ['too few items', (s: ShardToWrite, rows: Uint8Array[]) => ({ ...s, items: () => each(rows.slice(1)) })],
    ['too many items', (s: ShardToWrite, rows: Uint8Array[]) => ({ ...s, items: () => each([...rows, rows[0]]) })],
    [
      'an item of another size',
      (s: ShardToWrite, rows: Uint8Array[]) => ({ ...s, items: () => each([rows[0], rows[1].subarray(1)]) }),
    ],
    ['mirrored pictures', (s: ShardToWrite) => ({ ...s, mirrored: true })],
  ])('%s: refused, nothing left behind', async (_, change) => {
    const { shard, rows } = pictures(2, [2, 2]);
    const before = readdirSync(folder);
    await expect(writeShard(file('refused'), change(shard, rows))).rejects.toMatchObject({ code: 'shape' });
    expect(readdirSync(folder)).toEqual(before);
  });
});

describe('damaged shards', () => {
  test.each([3, 100, 300, 340])('cut after %i bytes', async (bytes) => {
    const { shard } = pictures(6, [2, 2]);
    await writeShard(file('cut'), shard);
    expect(readFileSync(file('cut')).length).toBeGreaterThan(340);
    truncateSync(file('cut'), bytes);
    await expect(openShard(file('cut'))).rejects.toMatchObject({
      code: 'file',
      message: expect.stringContaining('cut.safetensors'),
    });
  });

  test('cut while it is open', async () => {
    const { shard } = pictures(6, [2, 2]);
    await writeShard(file('shrinks'), shard);
    const read = await openShard(file('shrinks'));
    truncateSync(file('shrinks'), readFileSync(file('shrinks')).length - 5);
    await expect(read.read(5)).rejects.toThrow(/shrinks\.safetensors: became shorter/);
    await read.close();
  });

  const metadata = { format: 'emigm-wgsl data', version: '1', classes: '["a"]' };
  const labels: TensorToWrite = { name: 'labels', dtype: 'I32', shape: [2], data: new Int32Array(2) };
  const images: TensorToWrite = { name: 'images', dtype: 'U8', shape: [2, 1, 1, 3], data: new Uint8Array(6) };
  test.each<[string, TensorToWrite[], Record<string, string>, RegExp]>([
    ['weights', [labels], {}, /no data shard.*emigm data pack/],
    ['another version', [labels, images], { ...metadata, version: '2' }, /version 2; 1 is read/],
    ['no items', [labels], metadata, /has no images or moments or latents/],
    ['no labels', [images], metadata, /has no labels/],
    ['no class names', [labels, images], { ...metadata, classes: '[]' }, /no list of class names/],
    ['class names that are no JSON', [labels, images], { ...metadata, classes: 'a' }, /no list of class names/],
    [
      'a label without class',
      [{ ...labels, data: Int32Array.of(0, 1) }, images],
      metadata,
      /label 1 of item 1 is none of the 1 classes/,
    ],
    [
      'labels of another number',
      [{ ...labels, shape: [1], data: new Int32Array(1) }, images],
      metadata,
      /labels are I32 \[1\], not I32 \[2\]/,
    ],
    ['grey images', [labels, { ...images, shape: [2, 1, 3, 1] }], metadata, /images have 1 channels/],
    ['flat images', [labels, { ...images, shape: [2, 3] }], metadata, /not four sizes/],
    [
      'images of floats',
      [labels, { ...images, dtype: 'F32', data: new Float32Array(6) }],
      metadata,
      /images are F32; they must be U8/,
    ],
  ])('%s', async (_, tensors, meta, message) => {
    await writeSafetensors(file('wrong'), tensors, meta);
    await expect(openShard(file('wrong'))).rejects.toMatchObject({
      code: 'file',
      message: expect.stringMatching(message),
    });
  });

  test('no safetensors file', async () => {
    writeFileSync(file('text'), 'a text, not tensors');
    await expect(openShard(file('text'))).rejects.toMatchObject({ code: 'file' });
    await expect(openShard(file('absent'))).rejects.toThrow(/absent\.safetensors: no such file/);
  });
});
