import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { EmigmError } from '../../src/errors.ts';
import {
  openSafetensors,
  parseSafetensors,
  type TensorToWrite,
  writeSafetensors,
} from '../../src/formats/safetensors.ts';
import { describeGolden, goldenPath, random } from '../helpers/golden.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-safetensors-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A file with this header (text, or an object turned into JSON) and so many bytes of data. */
function file(header: unknown, dataBytes: number, claimedLength?: number): Uint8Array {
  const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const bytes = Buffer.alloc(8 + text.length + dataBytes);
  bytes.writeBigUInt64LE(BigInt(claimedLength ?? text.length), 0);
  text.copy(bytes, 8);
  return bytes;
}

const f32 = (shape: unknown, begin: number, end: number) => ({ dtype: 'F32', shape, data_offsets: [begin, end] });

async function everyError(bytes: Uint8Array): Promise<string> {
  const path = join(folder, 'bad.safetensors');
  writeFileSync(path, bytes);
  const failures: string[] = [];
  for (const attempt of [() => parseSafetensors(bytes, path), () => openSafetensors(path)]) {
    try {
      await attempt();
      failures.push('no error');
    } catch (error) {
      expect(error).toBeInstanceOf(EmigmError);
      expect((error as EmigmError).code).toBe('file');
      failures.push((error as Error).message);
    }
  }
  expect(failures[0]).toBe(failures[1]);
  expect(failures[0]).toContain('bad.safetensors');
  expect(failures[0]).not.toContain('\n');
  return failures[0];
}

describe('reading bad safetensors files', () => {
  test.each<[string, Uint8Array, RegExp]>([
    ['empty', new Uint8Array(0), /0 bytes are too few/],
    ['five bytes', new Uint8Array(5), /too few/],
    ['header longer than the file', file({}, 0, 4000), /header claims 4000 bytes but the file has 2/],
    ['absurd header length', file({}, 0, 2 ** 53 - 1), /header claims/],
    ['not JSON', file('hello', 0), /not UTF-8 JSON/],
    ['an empty header', file('', 0), /not UTF-8 JSON/],
    ['not UTF-8', Buffer.concat([file('', 0, 4), Buffer.from([0x7b, 0xff, 0xfe, 0x7d])]), /not UTF-8 JSON/],
    ['a list', file([], 0), /not a JSON object/],
    ['null', file('null', 0), /not a JSON object/],
    ['deep nesting', file(`{"a":${'['.repeat(100000)}${']'.repeat(100000)}}`, 0), /"a"|not UTF-8 JSON/],
    ['tensor described by a number', file({ w: 3 }, 0), /tensor "w" is not described/],
    ['unknown dtype', file({ w: { dtype: 'F9', shape: [], data_offsets: [0, 4] } }, 4), /"w" has dtype "F9"/],
    [
      'dtype of the prototype',
      file({ w: { dtype: 'toString', shape: [], data_offsets: [0, 4] } }, 4),
      /dtype "toString"/,
    ],
    ['no shape', file({ w: { dtype: 'F32', data_offsets: [0, 4] } }, 4), /"w" has a shape/],
    ['negative size', file({ w: f32([-1], 0, 4) }, 4), /"w" has a shape/],
    ['fractional size', file({ w: f32([0.5], 0, 4) }, 4), /"w" has a shape/],
    ['sizes that overflow', file({ w: f32([2 ** 40, 2 ** 40], 0, 4) }, 4), /"w" has a shape/],
    ['overflow beside zero', file({ w: f32([0, 2 ** 40, 2 ** 40], 0, 0) }, 0), /"w" has a shape/],
    ['offsets beyond the data', file({ w: f32([2], 0, 8) }, 4), /"w" claims bytes 0 to 8 of a data section of 4/],
    ['offsets reversed', file({ w: f32([1], 4, 0) }, 4), /"w" claims/],
    ['one offset', file({ w: { dtype: 'F32', shape: [1], data_offsets: [0] } }, 4), /"w" has data_offsets/],
    ['negative offset', file({ w: f32([1], -4, 0) }, 4), /"w" has data_offsets/],
    [
      'shape that does not fill its bytes',
      file({ w: f32([3], 0, 8) }, 8),
      /"w" of shape \[3\] F32 needs 12 bytes but has 8/,
    ],
    ['overlap', file({ a: f32([2], 0, 8), b: f32([2], 4, 12) }, 12), /"a" and "b" overlap at byte 4/],
    ['the same bytes twice', file({ a: f32([1], 0, 4), b: f32([1], 0, 4) }, 4), /"a" and "b" overlap/],
    ['a hole', file({ a: f32([1], 0, 4), b: f32([1], 8, 12) }, 12), /bytes 4 to 8 before tensor "b"/],
    ['a rest', file({ a: f32([1], 0, 4) }, 12), /last 8 bytes/],
    ['a key twice', file('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{}}', 0), /key "a" twice/],
    ['dtype twice', file('{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}', 0), /"dtype" twice/],
    ['metadata that is no text', file({ __metadata__: { a: 1 } }, 0), /__metadata__ "a" is not a string/],
    ['metadata that is a list', file({ __metadata__: [] }, 0), /__metadata__ is not an object/],
  ])('%s', async (_, bytes, message) => {
    expect(await everyError(bytes)).toMatch(message);
  });

  test('missing file and folder', async () => {
    await expect(openSafetensors(join(folder, 'absent'))).rejects.toThrow(/absent: no such file/);
    await expect(openSafetensors(folder)).rejects.toThrow(/is a folder/);
  });

  test('a tensor named __proto__ is a tensor', () => {
    const parsed = parseSafetensors(file('{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1));
    expect([...parsed.tensors.keys()]).toEqual(['__proto__']);
    expect(({} as Record<string, unknown>).dtype).toBeUndefined();
  });

  test('an unknown tensor is named', async () => {
    expect(() => parseSafetensors(file({}, 0), 'x').read('w')).toThrow('x: has no tensor "w"');
  });
});

const every: TensorToWrite[] = [
  { name: 'z', dtype: 'F64', shape: [2], data: new Float64Array([Math.PI, -0]) },
  { name: 'i', dtype: 'I64', shape: [1, 2], data: new BigInt64Array([-(2n ** 63n), 2n ** 63n - 1n]) },
  { name: 'y', dtype: 'F32', shape: [], data: new Float32Array([1.5]) },
  { name: 'é', dtype: 'I32', shape: [3], data: new Int32Array([1, -2, 3]) },
  { name: 'h', dtype: 'F16', shape: [3], data: new Uint16Array([0x3c00, 0xbc00, 0x7c00]) },
  { name: 'b', dtype: 'BF16', shape: [1], data: new Uint16Array([0x3f80]) },
  { name: '2', dtype: 'I16', shape: [1], data: () => new Int16Array([-7]) },
  { name: '1', dtype: 'I8', shape: [1], data: async () => new Int8Array([-128]) },
  { name: 'u', dtype: 'U8', shape: [0, 4], data: new Uint8Array(0) },
  { name: 't', dtype: 'BOOL', shape: [3], data: new Uint8Array([1, 0, 1]) },
];

describe('writing', () => {
  test('every dtype comes back, aligned, the same bytes whatever the order', async () => {
    const path = join(folder, 'every.safetensors');
    await writeSafetensors(path, every, { b: 'two', a: 'one' });
    const first = readFileSync(path);
    await writeSafetensors(path, [...every].reverse(), { a: 'one', b: 'two' });
    expect(readFileSync(path).equals(first)).toBe(true);

    const opened = await openSafetensors(path);
    const parsed = parseSafetensors(first);
    expect(opened.metadata).toEqual({ a: 'one', b: 'two' });
    expect(opened.tensors.size).toBe(every.length);
    for (const { name, dtype, shape, data } of every) {
      const values = typeof data === 'function' ? await data() : data;
      expect(await opened.read(name)).toEqual({ dtype, shape, data: values });
      expect(parsed.read(name)).toEqual({ dtype, shape, data: values });
    }
    expect(await opened.readFloat32('h')).toEqual(new Float32Array([1, -1, Number.POSITIVE_INFINITY]));
    expect(await opened.readFloat32('b')).toEqual(new Float32Array([1]));
    expect(await opened.readFloat32('i')).toEqual(new Float32Array([-(2 ** 63), 2 ** 63]));
    expect(await opened.readFloat32('t')).toEqual(new Float32Array([1, 0, 1]));
    expect((8 + Number(first.readBigUInt64LE(0))) % 8).toBe(0);
    for (const { dtype, begin } of opened.tensors.values()) {
      expect(begin % (dtype.endsWith('64') ? 8 : dtype.endsWith('32') ? 4 : dtype.endsWith('16') ? 2 : 1)).toBe(0);
    }
    await opened.close();
  });

  test('data that does not fill its shape leaves nothing behind', async () => {
    const path = join(folder, 'short.safetensors');
    const before = readdirSync(folder);
    const short = [{ name: 'w', dtype: 'F32' as const, shape: [3], data: new Float32Array(2) }];
    await expect(writeSafetensors(path, short)).rejects.toThrow(/"w" is F32 \[3\] but its data is a Float32Array of 2/);
    const broken = () => Promise.reject(new Error('the source broke'));
    const failing = [{ name: 'w', dtype: 'F32' as const, shape: [3], data: broken }];
    await expect(writeSafetensors(path, failing)).rejects.toThrow(/the source broke/);
    expect(existsSync(path)).toBe(false);
    expect(readdirSync(folder)).toEqual(before);
  });

  test('a second tensor of a name, and a folder that is not there', async () => {
    const twice = [every[0], every[0]];
    await expect(writeSafetensors(join(folder, 'twice'), twice)).rejects.toThrow(EmigmError);
    await expect(writeSafetensors(join(folder, 'no', 'such'), every)).rejects.toThrow(/could not be written/);
  });
});

describe('damaged files', () => {
  test('truncation at any byte, and random bytes flipped, end in EmigmError or in a valid read', async () => {
    const path = join(folder, 'whole.safetensors');
    await writeSafetensors(path, every, { note: 'x' });
    const whole = new Uint8Array(readFileSync(path));
    for (let length = 0; length < whole.length; length++) {
      expect(() => parseSafetensors(whole.slice(0, length))).toThrow(EmigmError);
    }
    const { integer } = random();
    const until = performance.now() + 1000;
    let rejected = 0;
    while (performance.now() < until) {
      const damaged = whole.slice();
      for (let n = integer(1, 4); n > 0; n--) damaged[integer(0, whole.length - 1)] = integer(0, 255);
      try {
        const parsed = parseSafetensors(damaged);
        for (const name of parsed.tensors.keys()) parsed.readFloat32(name);
      } catch (error) {
        rejected++;
        expect(error).toBeInstanceOf(EmigmError);
      }
    }
    expect(rejected).toBeGreaterThan(0);
  });
});

describeGolden('*', (golden) => {
  test('read from disk equals read from memory', async () => {
    const opened = await openSafetensors(goldenPath(golden.file));
    expect([...opened.tensors.keys()]).toEqual(golden.names());
    for (const name of golden.names().slice(0, 20)) {
      const [disk, memory] = [(await opened.read(name)).data, golden.get(name)];
      expect(disk.constructor).toBe(memory.constructor);
      expect(Buffer.from(disk.buffer).equals(new Uint8Array(memory.buffer, memory.byteOffset, memory.byteLength))).toBe(
        true,
      );
    }
    await opened.close();
  });
});
