/** Inception-v3 beyond what the official numbers cover: spatial features, single features, files that are none. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { parameterShapes } from '../../src/models/inception/architecture.ts';
import {
  FEATURE_SIZES,
  Inception,
  type InceptionFeature,
  loadInception,
} from '../../src/models/inception/inception.ts';
import { imageWords } from '../../src/ops/resize.ts';
import { expectClose, formulaWeight } from '../helpers/golden.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-inception-'));
let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => {
  device?.dispose();
  rmSync(folder, { recursive: true, force: true });
});

const shapes = parameterShapes();
const shape = (name: string) => shapes.get(name);

async function features<F extends InceptionFeature>(network: Inception, wanted: readonly F[]) {
  const image = Uint8Array.from({ length: 40 * 30 * 3 }, (_, i) => (Math.imul(i + 1, 0x9e3779b9) >>> 24) & 255);
  const words = imageWords([image]);
  const tensor = device.tensor([words.length], 'u32', 'image', words);
  const out = Object.fromEntries(wanted.map((name) => [name, device.tensor([1, FEATURE_SIZES[name]], 'f32', name)]));
  const session = new Session(device);
  const program = session.record('inception', (r) => network.record(r, tensor, [1, 40, 30], out));
  await session.prepare();
  session.run(program);
  const values = await Promise.all(wanted.map((name) => device.read(out[name])));
  session.dispose();
  for (const each of [tensor, ...Object.values(out)]) each.destroy();
  return { values, dispatches: program.dispatches.length };
}

describe('Inception', () => {
  it('spatial features are the first channels of Mixed_6d.branch1x1, pixel by pixel', async () => {
    // Mixed_6e.branch1x1 made to hand its input on: the channel means after it are those of the spatial features.
    const network = await Inception.load(device, {
      shape,
      read: async (name) => {
        const size = shapes.get(name)!.reduce((a, b) => a * b, 1);
        if (name === 'Mixed_6e.branch1x1.conv.weight') {
          return Float32Array.from({ length: size }, (_, i) => (i % 768 === Math.floor(i / 768) ? 1 : 0));
        }
        const identity = { weight: Math.sqrt(1.001), bias: 0, running_mean: 0, running_var: 1 };
        const part = /^Mixed_6e\.branch1x1\.bn\.(\w+)$/.exec(name)?.[1] as keyof typeof identity | undefined;
        return part ? new Float32Array(size).fill(identity[part]) : formulaWeight(name, shapes.get(name)!, 1.5);
      },
    });
    const both = await features(network, ['spatial', '768']);
    const means = new Float64Array(7);
    for (const [i, value] of both.values[0].entries()) means[i % 7] += value / 289;
    expectClose(means, both.values[1].slice(0, 7), { relative: 1e-5 }, 'means of spatial features');
    expect(means.filter((mean) => mean > 0).length).toBeGreaterThan(3);
    // What is not asked for is not computed.
    const early = await features(network, ['64']);
    expect(early.dispatches).toBeLessThan(8);
    network.dispose();
  });

  it('refuses other files, naming the parameter', async () => {
    const path = join(folder, 'other.safetensors');
    await writeSafetensors(path, [{ name: 'fc.weight', dtype: 'F32', shape: [2], data: new Float32Array(2) }]);
    await expect(loadInception(device, path)).rejects.toThrow(
      /other\.safetensors: these are no Inception weights of 2015-12-05: Conv2d_1a_3x3\.conv\.weight is missing/,
    );
    const bad = {
      shape: (name: string) => (name === 'fc.bias' ? [1000] : shape(name)),
      read: async () => new Float32Array(),
    };
    await expect(Inception.load(device, bad)).rejects.toThrow(/fc\.bias is \[1000\], not \[1008\]/);
  });
});
