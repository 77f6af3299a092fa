import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zipSync } from 'fflate';
import { afterAll, describe, expect, test } from 'vitest';
import { EmigmError } from '../../src/errors.ts';
import { encodeNpy, parseNpy, readNpy, readNpz, writeNpy, writeNpz } from '../../src/formats/npz.ts';
import type { Tensor } from '../../src/formats/safetensors.ts';
import { describeGolden, goldenFiles, goldenPath, random } from '../helpers/golden.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-npz-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A .npy file with this header text and data. */
function npy(header: string, data: Uint8Array, version = 1): Uint8Array {
  const length = Buffer.alloc(version === 1 ? 2 : 4);
  length.writeUIntLE(header.length, 0, length.length);
  return Buffer.concat([Buffer.from('\x93NUMPY', 'latin1'), Buffer.of(version, 0), length, Buffer.from(header), data]);
}

const dict = (descr: string, shape: string, fortran = 'False') =>
  `{'descr': '${descr}', 'fortran_order': ${fortran}, 'shape': ${shape}, }\n`;

describeGolden('npz_examples', (golden) => {
  // Several files may hold an array of one name; the golden file says each once, mu in float32 as mu_f32.
  for (const file of goldenFiles('*_example*.npz')) {
    test(`${file} holds what the golden file says`, async () => {
      const arrays = await readNpz(goldenPath(file));
      expect(arrays.size).toBeGreaterThan(0);
      let compared = 0;
      for (const [name, { dtype, shape, data }] of arrays) {
        const key = dtype === 'F32' && golden.has(`${name}_f32`) ? `${name}_f32` : name;
        if (!golden.has(key)) continue;
        expect([...shape]).toEqual(golden.shape(key));
        expect(data).toEqual(golden.get(key));
        compared++;
      }
      expect(compared).toBeGreaterThan(0);
    });
  }
});

describe('arrays', () => {
  const every: Record<string, Tensor> = {
    f8: { dtype: 'F64', shape: [2, 2], data: new Float64Array([1, -0, Number.NaN, 1e300]) },
    f4: { dtype: 'F32', shape: [3], data: new Float32Array([1, 2, 3]) },
    f2: { dtype: 'F16', shape: [1], data: new Uint16Array([0x3c00]) },
    i8: { dtype: 'I64', shape: [1], data: new BigInt64Array([-(2n ** 60n)]) },
    i4: { dtype: 'I32', shape: [], data: new Int32Array([-7]) },
    i2: { dtype: 'I16', shape: [1, 1], data: new Int16Array([-300]) },
    i1: { dtype: 'I8', shape: [2], data: new Int8Array([-1, 1]) },
    u1: { dtype: 'U8', shape: [0, 3], data: new Uint8Array(0) },
    b1: { dtype: 'BOOL', shape: [2], data: new Uint8Array([0, 1]) },
  };

  test.each([false, true])('every type comes back (compress %s), the same bytes each time', async (compress) => {
    const path = join(folder, `every-${compress}.npz`);
    await writeNpz(path, every, { compress });
    const first = readFileSync(path);
    await writeNpz(path, every, { compress });
    expect(readFileSync(path).equals(first)).toBe(true);
    expect(Object.fromEntries(await readNpz(path))).toEqual(every);
  });

  test('one array', async () => {
    const path = join(folder, 'one.npy');
    await writeNpy(path, every.f4);
    expect(await readNpy(path)).toEqual(every.f4);
    const text = readFileSync(path).subarray(0, 128).toString('latin1');
    expect(text).toBe(
      `\x93NUMPY\x01\0\x76\0${`{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }`.padEnd(117)}\n`,
    );
  });

  test('Fortran order, all versions, keys in any order', () => {
    const data = new Uint8Array(new Float32Array([0, 3, 1, 4, 2, 5]).buffer);
    for (const version of [1, 2, 3]) {
      const tensor = parseNpy(npy(dict('<f4', '(2, 3)', 'True'), data, version), 'x');
      expect(tensor).toEqual({ dtype: 'F32', shape: [2, 3], data: new Float32Array([0, 1, 2, 3, 4, 5]) });
    }
    const other = "{'shape': (2, 3), 'fortran_order': False, 'descr': '<f4'}";
    expect(parseNpy(npy(other, data), 'x').data).toEqual(new Float32Array([0, 3, 1, 4, 2, 5]));
    const cube = parseNpy(npy(dict('|u1', '(2, 2, 2)', 'True'), Buffer.of(0, 4, 2, 6, 1, 5, 3, 7)), 'x');
    expect([...cube.data]).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  test('what cannot be written', () => {
    expect(() => encodeNpy({ dtype: 'BF16', shape: [1], data: new Uint16Array(1) })).toThrow(/cannot hold BF16/);
    expect(() => encodeNpy({ dtype: 'F32', shape: [2], data: new Float32Array(1) })).toThrow(/does not fill/);
  });
});

describe('bad files', () => {
  test.each<[string, Uint8Array, RegExp]>([
    ['empty', new Uint8Array(0), /not a .npy array/],
    ['another magic', Buffer.alloc(100), /not a .npy array/],
    ['version 9', npy(dict('<f4', '(1,)'), Buffer.alloc(4), 9), /version 9/],
    ['header beyond the end', npy(dict('<f4', '(1,)'), Buffer.alloc(4)).slice(0, 40), /longer than the array/],
    ['objects', npy(dict('|O', '(1,)'), Buffer.alloc(8)), /type "\|O"/],
    ['big-endian', npy(dict('>f4', '(1,)'), Buffer.alloc(4)), /type ">f4"/],
    ['truncated', npy(dict('<f4', '(2,)'), Buffer.alloc(4)), /does not fill its 4 bytes/],
    ['too long', npy(dict('<f4', '(1,)'), Buffer.alloc(8)), /does not fill its 8 bytes/],
    ['huge', npy(dict('<f4', '(9007199254740993, 9007199254740993)'), Buffer.alloc(8)), /does not fill/],
    ['negative', npy(dict('<f4', '(-1,)'), Buffer.alloc(4)), /not understood/],
    ['code', npy('__import__("os")', Buffer.alloc(4)), /not understood/],
  ])('.npy: %s', (_, bytes, message) => {
    expect(() => parseNpy(bytes, 'x.npy')).toThrow(message);
    expect(() => parseNpy(bytes, 'x.npy')).toThrow(EmigmError);
  });

  test('.npz: missing, no zip, a flipped byte, a claim of more than deflate can hold', async () => {
    const path = join(folder, 'bad.npz');
    await expect(readNpz(join(folder, 'absent.npz'))).rejects.toThrow(/absent.npz: no such file/);
    writeFileSync(path, 'hello');
    await expect(readNpz(path)).rejects.toThrow(/no end of directory/);
    for (const level of [0, 9] as const) {
      const array = encodeNpy({ dtype: 'F32', shape: [50], data: random(1).normal(50) });
      const zip = zipSync({ 'a.npy': array }, { level });
      const damaged = zip.slice();
      damaged[zip.length >> 1] ^= 1;
      writeFileSync(path, damaged);
      await expect(readNpz(path)).rejects.toThrow(/array "a.npy" (does not match its checksum|cannot be inflated)/);
      if (level === 0) continue;
      const bomb = Buffer.from(zip);
      const entry = bomb.indexOf('PK\x01\x02', 0, 'latin1');
      bomb.writeUInt32LE(0x7fffffff, entry + 24);
      writeFileSync(path, bomb);
      await expect(readNpz(path)).rejects.toThrow(/claims 2147483647 bytes/);
    }
  });

  test('bytes flipped at random end in EmigmError or in a read', async () => {
    const path = join(folder, 'flipped.npz');
    await writeNpz(path, { a: { dtype: 'F32', shape: [9], data: random(2).normal(9) } }, { compress: true });
    const whole = readFileSync(path);
    const { integer } = random();
    const until = performance.now() + 700;
    let refused = 0;
    while (performance.now() < until) {
      const damaged = Buffer.from(whole.subarray(0, integer(0, 3) ? whole.length : integer(0, whole.length)));
      for (let n = integer(1, 4); n > 0; n--) damaged[integer(0, damaged.length)] = integer(0, 255);
      writeFileSync(path, damaged);
      await readNpz(path).catch((reason) => {
        refused++;
        if (!(reason instanceof EmigmError)) throw reason;
      });
    }
    expect(refused).toBeGreaterThan(0);
  });
});
