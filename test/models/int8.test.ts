/** What int8 does to the shipped model's output, and which of its layers are in it. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shippedModel } from '../../src/cli/open.ts';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { loadModel } from '../../src/models/load.ts';
import type { Emigm } from '../../src/models/emigm.ts';
import { conditionEmbedding, headNoise, timeEmbedding } from '../../src/nn/head.ts';
import type { Stored } from '../../src/ops/matmul_kernels.ts';
import { gatherRows } from '../../src/ops/tokens.ts';
import { addTrunk, IndexList, trunkIndices } from '../../src/sampling/indices.ts';
import { random } from '../helpers/golden.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

/** The head's noise for the masked half of two images' tokens, at the middle of time. */
async function noiseOf(model: Emigm, tokens: Float32Array, start: Float32Array): Promise<Float32Array> {
  const n = model.sequenceLength;
  const all = Array.from({ length: n }, (_, i) => i);
  const list = new IndexList();
  const { shape, offsets } = addTrunk(
    list,
    model.config,
    [0, 1].map((image) => ({
      classRow: 3 * image,
      image,
      visible: all.filter((i) => (i + image) % 2 === 0),
      asked: all.filter((i) => (i + image) % 2 === 1),
    })),
  );
  const rows = n; // half of two images
  const width = 2 * model.tokenDim;
  const index = device.tensor([list.values.length], 'u32', 'indices', list.values);
  const state = device.tensor([2 * n, model.tokenDim], 'f32', 'tokens', tokens);
  const x = device.tensor([rows, model.tokenDim], 'f32', 'x', start);
  const t = device.tensor([1], 'f32', 't', [500]);
  const order = device.tensor([rows], 'u32', 'order', all);
  const out = device.tensor([rows, width], 'f32', 'noise', new Float32Array(rows * width).fill(Number.NaN));
  const session = new Session(device);
  const program = session.record('network', (r) => {
    const at = trunkIndices(index, offsets);
    const condition = conditionEmbedding(r, model.head, model.decode(r, model.encode(r, state, at, shape), at, shape));
    const time = { embeddings: timeEmbedding(r, model.head, t), index: 0 };
    const noise = headNoise(r, model.head, x, condition, time, false);
    gatherRows(r, noise, { tensor: order, offset: 0 }, rows, width, { out });
  });
  await session.prepare();
  session.run(program);
  const result = await device.read(out);
  session.dispose();
  for (const tensor of [index, state, x, t, order, out]) tensor.destroy();
  return result;
}

/** Root of the mean squared difference over that of the values. */
function difference(actual: Float32Array, expected: Float32Array): number {
  let [error, size] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    error += (actual[i] - expected[i]) ** 2;
    size += expected[i] ** 2;
  }
  return Math.sqrt(error / size);
}

describe('the shipped model in int8', () => {
  it('gives nearly the same noise, from a third of the bytes', async () => {
    const rng = random(1);
    let inputs: [Float32Array, Float32Array] | undefined;
    const results = {} as Record<Stored, { noise: Float32Array; bytes: number; stored: Stored }>;
    for (const stored of ['f32', 'f16', 'int8'] as const) {
      const before = device.allocated;
      const { network, dispose } = await loadModel(shippedModel(), { device, stored });
      const bytes = device.allocated - before;
      const size = network.sequenceLength * network.tokenDim;
      inputs ??= [rng.normal(2 * size), rng.normal(size)];
      results[stored] = { noise: await noiseOf(network, ...inputs), bytes, stored: network.stored };
      if (stored === 'int8') {
        expect(network.head.blocks[0].fc1.stored).toBe('int8');
        expect([network.head.input, network.head.final, ...network.head.time].map((l) => l.stored)).not.toContain(
          'int8',
        );
      }
      dispose();
    }
    const { f32, f16, int8 } = results;
    expect(int8.stored).toBe('int8');
    // The file is in f16.
    expect(difference(f16.noise, f32.noise)).toBeLessThan(device.isCpu ? 1e-6 : 1e-3);
    const error = difference(int8.noise, f32.noise);
    expect(error).toBeGreaterThan(1e-4);
    expect(error).toBeLessThan(0.01);
    expect(int8.bytes).toBeLessThan(0.4 * f32.bytes);
  });
});
