/** DC-AE files, and what no golden file has: first stages with blocks, multi-scale tokens, weights in parts. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { DC_AE_F32C32_CONFIG, type DcAeConfig, dcAeShapes } from '../../src/models/dc_ae/config.ts';
import { DcAe } from '../../src/models/dc_ae/dc_ae.ts';
import { openDcAe } from '../../src/models/dc_ae/file.ts';
import { inferDcAe } from '../../src/models/dc_ae/infer.ts';
import type { WeightSource } from '../../src/nn/weights.ts';
import { imageLayout } from '../../src/ops/image.ts';
import { runPass } from '../helpers/autoencoder.ts';
import { dcAeDecodeOracle, dcAeEncodeOracle } from '../helpers/dc_ae_oracle.ts';
import { expectClose, formulaWeight, random } from '../helpers/golden.ts';
import { pickle, tensor, text, zipCheckpoint } from '../helpers/torch_files.ts';

type Shapes = ReadonlyMap<string, readonly number[]>;
const size = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** Both entries halved or not, batch norm, and a mixed number of stages. */
const CONFIG: DcAeConfig = {
  encoder: [
    { width: 0, depth: 0, block: 'residual', norm: 'rms' },
    { width: 8, depth: 1, block: 'residual', norm: 'rms' },
    { width: 32, depth: 1, block: 'attention', norm: 'rms' },
  ],
  decoder: [
    { width: 0, depth: 0, block: 'residual', norm: 'rms' },
    { width: 16, depth: 2, block: 'residual', norm: 'batch' },
    { width: 32, depth: 1, block: 'attention', norm: 'rms' },
  ],
  channels: 4,
  image: 3,
  scales: [],
};
const WITH_FIRST_STAGE: DcAeConfig = {
  encoder: [{ width: 12, depth: 1, block: 'residual', norm: 'batch' }, CONFIG.encoder[1], CONFIG.encoder[2]],
  decoder: [{ width: 8, depth: 1, block: 'residual', norm: 'rms' }, CONFIG.decoder[1], CONFIG.decoder[2]],
  channels: 8,
  image: 3,
  scales: [],
};
const MULTI_SCALE: DcAeConfig = { ...CONFIG, scales: [5, 3] };
const NO_LAST_STAGE: DcAeConfig = {
  ...CONFIG,
  encoder: [...CONFIG.encoder.slice(0, 2), { width: 32, depth: 0, block: 'residual', norm: 'rms' }],
};

const shapes = dcAeShapes(CONFIG);
const sourceOf = (all: Shapes): WeightSource => ({
  shape: (name) => all.get(name)!,
  read: async (name) => formulaWeight(name, all.get(name)!),
});

let folder: string;
let device: Device;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'emigm-dc-ae-'));
  device = await Device.open();
});
afterAll(() => {
  rmSync(folder, { recursive: true });
  device?.dispose();
});

/** A checkpoint {'state_dict': {...}} with one storage a tensor. */
function checkpoint(names: Shapes): Uint8Array {
  const storages: Record<string, Uint8Array> = {};
  const entries = [...names].flatMap(([name, shape], key) => {
    storages[key] = new Uint8Array(formulaWeight(name, shape).buffer);
    const stride = shape.map((_, i) => size(shape.slice(i + 1)));
    return [text(name), tensor([...shape], stride, { key: String(key), length: size(shape) })];
  });
  return zipCheckpoint(pickle('}', text('state_dict'), pickle('}(', ...entries, 'u'), 's'), storages);
}

async function file(kind: string, names: Shapes = shapes): Promise<string> {
  const path = join(folder, `${kind}-${Math.random()}`);
  if (kind === 'checkpoint') {
    writeFileSync(path, checkpoint(names));
    return path;
  }
  const tensors = [...names].map(([name, shape]) =>
    name.endsWith('.num_batches_tracked')
      ? { name, dtype: 'I64' as const, shape, data: new BigInt64Array([7n]) }
      : { name, dtype: 'F32' as const, shape, data: async () => formulaWeight(name, shape) },
  );
  await writeSafetensors(path, tensors, {});
  return path;
}

describe('openDcAe', () => {
  it.each(['safetensors', 'checkpoint'])('reads %s', async (kind) => {
    const opened = await openDcAe(await file(kind));
    expect(opened.config).toEqual(CONFIG);
    expect(opened.names().sort()).toEqual([...shapes.keys()].sort());
    for (const name of opened.names()) {
      if (kind === 'safetensors' && name.endsWith('.num_batches_tracked')) continue; // an integer, which nothing reads
      expect(await opened.read(name), name).toEqual(formulaWeight(name, shapes.get(name)!));
    }
    await opened.close();
  });

  it('needs no count of batches', async () => {
    const opened = await openDcAe(
      await file('safetensors', new Map([...shapes].filter(([name]) => !/num_batches/.test(name)))),
    );
    expect(opened.config).toEqual(CONFIG);
    await opened.close();
  });

  const change = (edit: (s: Map<string, readonly number[]>) => unknown) => edit;
  it.each([
    [
      'a missing tensor',
      change((s) => s.delete('decoder.stages.1.op_list.2.main.conv1.conv.bias')),
      /conv1\.conv\.bias/,
    ],
    ['no statistics', change((s) => s.delete('decoder.stages.1.op_list.1.main.conv2.norm.running_var')), /running_var/],
    ['another shape', change((s) => s.set('encoder.project_in.conv.conv.weight', [2, 3, 5, 5])), /project_in/],
    ['a tensor too many', change((s) => s.set('extra', [2])), /"extra" \[2\] is not part of DC-AE/],
    ['another network', change((s) => s.clear() ?? s.set('x', [1])), /no DC-AE autoencoder/],
    [
      'a gap between stages',
      change((s) => s.set('encoder.stages.5.op_list.0.main.conv2.conv.weight', [8, 8, 3, 3])),
      /stages/,
    ],
  ])('refuses %s', async (_, edit, message) => {
    const changed = new Map(shapes);
    edit(changed);
    await expect(openDcAe(await file('safetensors', changed))).rejects.toThrow(message);
  });
});

describe('DcAe', () => {
  it.each([
    ['halved at the borders', CONFIG],
    ['with blocks at full resolution', WITH_FIRST_STAGE],
    ['multi-scale tokens', MULTI_SCALE],
    ['no blocks in the last stage', NO_LAST_STAGE],
  ])('%s: equals the float64 network', async (_, config) => {
    const all = dcAeShapes(config);
    expect(inferDcAe(all, 'shapes')).toEqual(config);
    const model = await DcAe.load(device, config, sourceOf(all), { stored: 'f32' });
    const weights = (name: string) => Float64Array.from(formulaWeight(name, all.get(name)!));
    const [batch, height, width] = [2, 20, 28];
    const data = random().normal(batch * height * width * 3);
    const actual = await runPass(device, (r, input, keep) => {
      const images = imageLayout(r, input(data, [batch, height, width, 3]), 'last', 'planes');
      const latents = model.encode(r, images);
      keep('latents', imageLayout(r, latents, 'last', 'planes'), 'planes');
      keep('decoded', model.decode(r, latents, { scale: 1 }), 'planes');
    });
    const latents = dcAeEncodeOracle(config, weights, {
      data: Float64Array.from(data),
      batch,
      height,
      width,
      channels: 3,
    });
    const decoded = dcAeDecodeOracle(config, weights, latents);
    for (const [name, map] of Object.entries({ latents, decoded })) {
      const pixels = map.height * map.width;
      const planes = Float64Array.from(map.data, (__, i) => {
        const [image, c, p] = [
          Math.floor(i / pixels / map.channels),
          Math.floor(i / pixels) % map.channels,
          i % pixels,
        ];
        return map.data[(image * pixels + p) * map.channels + c];
      });
      expectClose(actual.get(name)!, planes, { relative: 2e-5 }, name);
    }
    model.dispose();
  });

  it('convolutions in parts give the same numbers, and no buffer is larger than the adapter allows', async () => {
    const whole = await DcAe.load(device, CONFIG, sourceOf(shapes), { stored: 'f32' });
    const upsampling = 64 * 32 * 9 * 4; // decoder.stages.1's, the largest
    const small: Device = Object.create(device, { largestBuffer: { value: upsampling / 2 + 1024 } });
    const parts = await DcAe.load(small, CONFIG, sourceOf(shapes), { stored: 'f32' });
    const latents = random().normal(2 * 3 * 5 * 4);
    const decode = (model: DcAe) =>
      runPass(device, (r, input, keep) => {
        keep('decoded', model.decode(r, input(latents, [2, 3, 5, 4])), 'planes');
      });
    expect((await decode(parts)).get('decoded')).toEqual((await decode(whole)).get('decoded'));
    whole.dispose();
    parts.dispose();
  });

  it('weights in half precision', async () => {
    const half = await DcAe.load(device, CONFIG, sourceOf(shapes), { stored: 'f16' });
    const single = await DcAe.load(device, CONFIG, sourceOf(shapes), { stored: 'f32' });
    const data = random().normal(3 * 24 * 16);
    const pass = (model: DcAe) =>
      runPass(device, (r, input, keep) => {
        const latents = model.encode(r, input(data, [1, 3, 24, 16]));
        keep('latents', latents);
        keep('decoded', model.decode(r, latents, { scale: 1 }), 'planes');
      });
    const [rounded, exact] = [await pass(half), await pass(single)];
    // Each weight is off by half a unit in the last of 11 bits at most, and few layers follow each other.
    for (const [name, value] of exact) expectClose(rounded.get(name)!, value, { relative: 2 ** -8 }, name);
    half.dispose();
    single.dispose();
  });

  it('tells of progress, frees its memory, and refuses other sizes', async () => {
    const before = device.allocated;
    const opened = await openDcAe(await file('checkpoint'));
    const progress: number[] = [];
    const model = await DcAe.load(device, opened.config, opened, { onProgress: (done) => progress.push(done) });
    await opened.close();
    expect(progress.at(-1)).toBeCloseTo(1, 12);
    expect(progress.every((done, i) => done > (progress[i - 1] ?? 0))).toBe(true);

    const session = new Session(device);
    const map = (shape: number[]) => device.tensor(shape, 'f32', 'map');
    const record = (shape: number[], half: 'encode' | 'decode') => {
      const input = map(shape);
      try {
        session.record('vae', (r) => void model[half](r, input));
      } finally {
        input.destroy();
      }
    };
    expect(() => record([1, 3, 6, 8], 'encode')).toThrow(/multiples of 4/);
    expect(() => record([1, 4, 4, 4], 'encode')).toThrow(/DC-AE encodes/);
    expect(() => record([1, 3, 4, 8], 'decode')).toThrow(/DC-AE decodes \[batch, height, width, 4\]/);
    session.dispose();
    model.dispose();
    expect(device.allocated).toBe(before);
  });
});

describe('memory of the official DC-AE', () => {
  it('is known before it is taken, and a 512 px image fits buffers of 128 MiB', async () => {
    const all = dcAeShapes(DC_AE_F32C32_CONFIG);
    const zeros = new Float32Array(Math.max(...[...all.values()].map(size)));
    const source: WeightSource = {
      shape: (name) => all.get(name)!,
      read: async (name) => zeros.subarray(0, size(all.get(name)!)),
    };
    const limit = 2 ** 27;
    const plan = await Device.plan({ isCpu: true, lanes: 8, hasF16: false, hasSubgroups: true, largestBuffer: limit });
    const model = await DcAe.load(plan, DC_AE_F32C32_CONFIG, source, { stored: 'f32' });
    // 323 million numbers of four bytes, and some padding.
    expect(plan.allocated / (323_356_460 * 4)).toBeCloseTo(1, 2);
    const session = new Session(plan);
    const image = plan.tensor([1, 3, 512, 512], 'f32', 'image');
    session.record('vae', (r) => void model.decode(r, model.encode(r, image, { scale: 1 }), { scale: 1 }));
    const buffers = session.plan();
    expect(Math.max(...buffers)).toBeLessThanOrEqual(limit);
    // Four maps of the size of 256 channels at half the side.
    expect(buffers.reduce((a, b) => a + b, 0)).toBeLessThan(5 * 64 * 2 ** 20);
    expect(model.largestBatch(512, 512)).toBe(2);
    expect(model.largestBatch(1024, 1024)).toBe(0);
    await Promise.allSettled([...plan.kernels].map(({ ready }) => ready));
    plan.dispose();
  });
});
