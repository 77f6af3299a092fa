import { existsSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { toFloat32 } from '../../src/formats/dtype.ts';
import { args, openTorchCheckpoint, stateDict, TorchNamespace, TorchTensor } from '../../src/formats/pytorch.ts';
import { describeGoldenFile, type Golden, goldenPath, loadGolden } from '../helpers/golden.ts';

/** The tensor equals the golden one bit for bit, in the types that the golden file could store. */
async function expectSame(golden: Golden, name: string, tensor: TorchTensor): Promise<void> {
  const { dtype, shape, data } = await tensor.read();
  if (data instanceof BigInt64Array && golden.has(`${name}_lo`)) {
    const [low, high] = [golden.get(`${name}_lo`), golden.get(`${name}_hi`)];
    expect([...data]).toEqual([...high].map((h, i) => (BigInt(h) << 32n) | BigInt.asUintN(32, BigInt(low[i]))));
    expect([...shape]).toEqual(golden.shape(`${name}_lo`));
    return;
  }
  expect([...shape], name).toEqual(golden.shape(name));
  const expected = golden.get(name);
  if (data.constructor === expected.constructor) {
    expect(
      Buffer.from(data.buffer).equals(
        Buffer.from(new Uint8Array(expected.buffer, expected.byteOffset, expected.byteLength)),
      ),
      name,
    ).toBe(true);
  } else {
    expect(Array.from(data as Int8Array, Number), name).toEqual(Array.from(expected as Int32Array, Number));
  }
  expect(await tensor.readFloat32(), name).toEqual(toFloat32(dtype, data));
}

/** The safetensors file with the same tensors, by the naming of the golden folder. */
const parallel = (file: string) => file.replace(/_(zip|legacy)(_\w+)?\.pth$/, '.safetensors');

describeGoldenFile('checkpoints/*_*.pth', (file) => {
  const exists = parallel(file) !== file && existsSync(goldenPath(parallel(file)));
  if (exists)
    test('every tensor equals the parallel safetensors', async () => {
      const golden = loadGolden(parallel(file));
      const checkpoint = await openTorchCheckpoint(goldenPath(file));
      let compared = 0;
      const walk = async (value: unknown, path: string): Promise<void> => {
        if (value instanceof TorchTensor) {
          const name = [path, path.replace(/^[^.]+\./, '')].find((n) => golden.has(n) || golden.has(`${n}_lo`));
          expect(name, `${path} in ${golden.file}`).toBeDefined();
          await expectSame(golden, name!, value);
          compared++;
        } else if (value instanceof Map) {
          for (const [key, item] of value) await walk(item, path ? `${path}.${key}` : String(key));
        }
      };
      await walk(checkpoint.value, '');
      expect(compared).toBe(golden.names().filter((name) => !/_(hi|as_f64)$/.test(name)).length);
      for (const key of ['args', 'epoch'].filter((key) => golden.metaKeys().includes(key))) {
        const value = key === 'args' ? args(checkpoint) : (checkpoint.value as Map<string, unknown>).get(key);
        expect(value).toEqual(golden.meta(key));
      }
      await checkpoint.close();
    });

  test('its tensors can be read, and only they', async () => {
    const checkpoint = await openTorchCheckpoint(goldenPath(file));
    const tensors = stateDict(checkpoint);
    expect(tensors.size).toBeGreaterThan(0);
    for (const tensor of tensors.values()) {
      const { data, shape } = await tensor.read();
      expect(data.length).toBe(shape.reduce((a, b) => a * b, 1));
    }
    expect(() => stateDict(checkpoint, 'plain')).toThrow(/is not a tensor/);
    await checkpoint.close();
  });
});

describeGoldenFile('checkpoints/ckpt_ema_only*.pth', (file) => {
  const loaded = 'checkpoints/ckpt_ema_loaded.safetensors';
  test.runIf(existsSync(goldenPath(loaded)))('the moving average, as the official code loads it', async () => {
    const golden = loadGolden(loaded);
    const checkpoint = await openTorchCheckpoint(goldenPath(file));
    expect(stateDict(checkpoint)).toBe(stateDict(checkpoint, 'model_ema'));
    expect(() => stateDict(checkpoint, 'model')).toThrow(/no state dict "model"; its keys are "model_ema"/);
    const tensors = stateDict(checkpoint, 'model_ema');
    expect([...tensors.keys()].sort()).toEqual(golden.names().sort());
    // Official checkpoints average fake_latent only; mask_token, loaded last, wins for both.
    const quirk = ['fake_latent', 'mask_token'];
    for (const name of golden.names().filter((n) => !quirk.includes(n)))
      await expectSame(golden, name, tensors.get(name)!);
    for (const name of quirk) await expectSame(golden, name, tensors.get('mask_token')!);
    await checkpoint.close();
  });
});

describeGoldenFile('checkpoints/odd*.pth', (file) => {
  test('plain Python values come back as such', async () => {
    const checkpoint = await openTorchCheckpoint(goldenPath(file));
    const meta = (checkpoint.value as Map<string, Map<string, unknown>>).get('meta')!;
    expect(meta).toBeInstanceOf(Map);
    for (const [key, value] of meta) {
      if (key === 's') expect(value).toMatch(/unicod/);
      if (key === 'i') expect(value).toBe(2n ** 70n);
      if (key === 'neg') expect(value).toBe(-5);
      if (key === 'f') expect(value).toBe(1e-300);
      if (/^t\d?$/.test(key)) expect((value as number[])[0]).toBe(1);
      if (key === 'b') expect(value).toEqual(new TextEncoder().encode('bytes\0'));
      if (key === 'n') expect(value).toBeNull();
      if (key === 'l') expect(value).toEqual([[], new Map()]);
    }
    expect(args(checkpoint)).toBeUndefined();
    await checkpoint.close();
  });
});

describe('args', () => {
  const checkpoint = (value: unknown) => ({ path: 'x.pth', value: new Map([['args', value]]), close: async () => {} });

  test('of a Namespace or a dict, nested, without prototypes', () => {
    const namespace = new TorchNamespace();
    namespace.fields = new Map<unknown, unknown>([
      ['img_size', 64],
      ['nested', new Map([['__proto__', [1, null]]])],
    ]);
    const record = args(checkpoint(namespace))!;
    expect(record.img_size).toBe(64);
    expect(Object.getPrototypeOf(record)).toBeNull();
    expect(Object.keys(record.nested as object)).toEqual(['__proto__']);
    expect(args(checkpoint(new Map([['a', 1]])))).toEqual({ a: 1 });
    expect(args(checkpoint(7))).toBeUndefined();
  });

  test('that hold themselves, or double at every level, end in an error', () => {
    const self = new Map<string, unknown>();
    self.set('me', self);
    expect(() => args(checkpoint(self))).toThrow(/nested too deeply/);
    let doubling: unknown = [];
    for (let i = 0; i < 30; i++) doubling = [doubling, doubling];
    expect(() => args(checkpoint(new Map([['x', doubling]])))).toThrow(/too large/);
  });
});
