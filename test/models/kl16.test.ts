/** KL-16 files: both kinds give the same weights, and what is no KL-16 says so. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { type Kl16Config, kl16Shapes } from '../../src/models/kl16/config.ts';
import { openKl16 } from '../../src/models/kl16/file.ts';
import { Kl16 } from '../../src/models/kl16/kl16.ts';
import { expectClose, formulaWeight } from '../helpers/golden.ts';
import { pickle, tensor, text, zipCheckpoint } from '../helpers/torch_files.ts';

const CONFIG: Kl16Config = {
  width: 32,
  multipliers: [1, 2],
  blocks: 1,
  attention: [1],
  latent: 3,
  channels: 3,
  image: 3,
};
const shapes = kl16Shapes(CONFIG);
const size = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'emigm-kl16-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** A checkpoint {'model': {...}}, or the state dict alone, with one storage a tensor. */
function checkpoint(names: ReadonlyMap<string, readonly number[]>, wrapped: boolean): Uint8Array {
  const storages: Record<string, Uint8Array> = {};
  const entries = [...names].flatMap(([name, shape], key) => {
    storages[key] = new Uint8Array(formulaWeight(name, shape).buffer);
    const stride = shape.map((_, i) => size(shape.slice(i + 1)));
    return [text(name), tensor([...shape], stride, { key: String(key), length: size(shape) })];
  });
  const dict = pickle('}(', ...entries, 'u');
  return zipCheckpoint(wrapped ? pickle('}', text('model'), dict, 's') : dict, storages);
}

async function file(kind: string, names: ReadonlyMap<string, readonly number[]> = shapes): Promise<string> {
  const path = join(folder, `${kind}-${Math.random()}`);
  if (kind === 'safetensors') {
    const tensors = [...names].map(([name, shape]) => ({
      name,
      dtype: 'F32' as const,
      shape,
      data: async () => formulaWeight(name, shape),
    }));
    await writeSafetensors(path, tensors, {});
  } else {
    writeFileSync(path, checkpoint(names, kind === 'checkpoint'));
  }
  return path;
}

describe('openKl16', () => {
  it.each(['safetensors', 'checkpoint', 'state dict'])('reads %s', async (kind) => {
    const opened = await openKl16(await file(kind));
    expect(opened.config).toEqual(CONFIG);
    expect(opened.names().sort()).toEqual([...shapes.keys()].sort());
    for (const name of opened.names()) {
      expect(await opened.read(name), name).toEqual(formulaWeight(name, shapes.get(name)!));
    }
    await opened.close();
  });

  it('leaves out the loss of a training checkpoint', async () => {
    const opened = await openKl16(await file('checkpoint', new Map([...shapes, ['loss.logvar', [1]]])));
    expect(opened.names()).toEqual([...shapes.keys()]);
    await opened.close();
  });

  it.each([
    [
      'a missing tensor',
      (s: Map<string, readonly number[]>) => s.delete('decoder.mid.attn_1.k.bias'),
      /attn_1\.k\.bias/,
    ],
    ['another shape', (s: Map<string, readonly number[]>) => s.set('quant_conv.weight', [6, 6, 3, 3]), /quant_conv/],
    ['a tensor too many', (s: Map<string, readonly number[]>) => s.set('extra', [2]), /"extra" \[2\] is not part/],
    ['another network', (s: Map<string, readonly number[]>) => s.clear() ?? s.set('x', [1]), /no KL-16 autoencoder/],
  ])('refuses %s', async (_, change, message) => {
    const changed = new Map(shapes);
    change(changed);
    await expect(openKl16(await file('safetensors', changed))).rejects.toThrow(message);
  });
});

describe('Kl16', () => {
  let device: Device;
  let model: Kl16;
  beforeAll(async () => {
    device = await Device.open();
    const opened = await openKl16(await file('checkpoint'));
    const progress: number[] = [];
    model = await Kl16.load(device, opened.config, opened, { onProgress: (done) => progress.push(done) });
    await opened.close();
    expect(progress.at(-1)).toBe(1);
  });
  afterAll(() => {
    model?.dispose();
    device?.dispose();
  });

  it('latents of three channels go through both halves', async () => {
    const session = new Session(device);
    const image = device.tensor([1, 3, 6, 10], 'f32', 'image', new Float32Array(180).fill(0.25));
    const latent = device.tensor([1, 3, 5, 3], 'f32', 'latent', new Float32Array(45).fill(Number.NaN));
    const decoded = [0, 1].map((i) =>
      device.tensor([1, 3, 6, 10], 'f32', `decoded ${i}`, new Float32Array(180).fill(Number.NaN)),
    );
    const program = session.record('vae', (r) => {
      const moments = model.encode(r, image);
      expect(moments.shape).toEqual([1, 3, 5, 6]);
      model.latents(r, moments, { out: latent });
      model.decode(r, latent, { out: decoded[0] });
      model.decode(r, model.latents(r, moments, { scale: 1 }), { scale: 1, out: decoded[1] });
    });
    await session.prepare();
    session.run(program);
    const first = await device.read(decoded[0]);
    expect(first.every(Number.isFinite)).toBe(true);
    expectClose(first, await device.read(decoded[1]), { relative: 1e-5 }, 'decoded at either scale');
    session.dispose();
    for (const t of [image, latent, ...decoded]) t.destroy();
  });

  it('refuses images and latents of other sizes', () => {
    const session = new Session(device);
    const image = (shape: number[]) => device.tensor(shape, 'f32', 'image');
    const record = (shape: number[], half: 'encode' | 'decode') =>
      session.record('vae', (r) => void model[half](r, image(shape)));
    expect(() => record([1, 3, 5, 6], 'encode')).toThrow(/multiples of 2/);
    expect(() => record([1, 4, 4, 4], 'encode')).toThrow(/KL-16 encodes/);
    expect(() => record([1, 3, 4, 4], 'decode')).toThrow(/KL-16 decodes \[batch, height, width, 3\]/);
    session.dispose();
  });

  it('tells how many images fit a pass', () => {
    const most = Math.min(device.limits.maxBufferSize, device.limits.maxStorageBufferBindingSize);
    // The decoder's last upsampling makes 64 channels at the image's size.
    expect(model.largestBatch(64, 64)).toBe(Math.floor(most / (64 * 64 * 64 * 4)));
    expect(model.largestBatch(2 ** 16, 2 ** 16)).toBe(0);
  });
});
