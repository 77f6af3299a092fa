/** Half precision between the ops of a block and of the head, as GPUs have it, against the same in f32. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { block, loadBlock } from '../../src/nn/block.ts';
import { headNoise, loadHead } from '../../src/nn/head.ts';
import { WeightLoader } from '../../src/nn/weights.ts';
import { gatherRows } from '../../src/ops/tokens.ts';
import { expectClose, random } from '../helpers/golden.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open({ variants: { matmul: 'tiled_vec4', attention: 'flash', layernorm: 'layernorm' } });
});
afterAll(() => device?.dispose());

const [WIDTH, TOKEN, LENGTH] = [32, 8, 20];
const SHAPES: Record<string, number[]> = {
  'b.norm1.weight': [WIDTH],
  'b.norm2.weight': [WIDTH],
  'b.attn.qkv.weight': [3 * WIDTH, WIDTH],
  'b.attn.proj.weight': [WIDTH, WIDTH],
  'b.mlp.fc1.weight': [4 * WIDTH, WIDTH],
  'b.mlp.fc2.weight': [WIDTH, 4 * WIDTH],
  'time_embed.mlp.0.weight': [WIDTH, 256],
  'time_embed.mlp.2.weight': [WIDTH, WIDTH],
  'cond_embed.weight': [WIDTH, WIDTH],
  'input_proj.weight': [WIDTH, TOKEN],
  'res_blocks.0.in_ln.weight': [WIDTH],
  'res_blocks.0.adaLN_modulation.1.weight': [3 * WIDTH, WIDTH],
  'res_blocks.0.mlp.0.weight': [WIDTH, WIDTH],
  'res_blocks.0.mlp.2.weight': [WIDTH, WIDTH],
  'final_layer.adaLN_modulation.1.weight': [2 * WIDTH, WIDTH],
  'final_layer.linear.weight': [2 * TOKEN, WIDTH],
};

it('blocks and head give the same within the rounding of half precision', async ({ skip }) => {
  skip(!device.hasF16, 'the adapter has no shader-f16');
  const rng = random();
  const numbers = new Map<string, Float32Array>();
  const shape = (name: string) => SHAPES[name] ?? [SHAPES[name.replace(/bias$/, 'weight')][0]];
  const read = async (name: string) => {
    const [rows, columns = 1] = shape(name);
    if (!numbers.has(name)) numbers.set(name, rng.normal(rows * columns, 1 / Math.sqrt(columns)));
    return numbers.get(name)!;
  };
  const start = { x: rng.normal(LENGTH * WIDTH), token: rng.normal(LENGTH * TOKEN), t: rng.normal(WIDTH) };
  const results: Record<'f32' | 'f16', Float32Array[]> = { f32: [], f16: [] };
  for (const stored of ['f32', 'f16'] as const) {
    const load = new WeightLoader(device, { shape, read }, stored);
    const weights = await loadBlock(load, 'b', WIDTH, 2);
    const head = await loadHead(load, '', { depth: 1, width: WIDTH, tokenDim: TOKEN });
    const x = device.tensor([1, LENGTH, WIDTH], 'f32', 'x', start.x);
    const token = device.tensor([LENGTH, TOKEN], 'f32', 'token', start.token);
    const embeddings = device.tensor([1, WIDTH], 'f32', 't', start.t);
    const rows = device.tensor(
      [LENGTH],
      'u32',
      'rows',
      Uint32Array.from({ length: LENGTH }, (_, i) => i),
    );
    const noise = device.tensor([LENGTH, 2 * TOKEN], 'f32', 'noise');
    const session = new Session(device);
    const halves: string[] = [];
    const program = session.record('both', (r) => {
      block(r, x, weights, 1, LENGTH);
      const y = headNoise(r, head, token, x, { embeddings, index: 0 }, false);
      gatherRows(r, y, { tensor: rows, offset: 0 }, LENGTH, 2 * TOKEN, { out: noise });
      for (const { op, tensors } of r.dispatches) if (tensors.some((t) => t?.dtype === 'f16')) halves.push(op);
    });
    await session.prepare();
    session.run(program);
    if (stored === 'f16') expect(halves).toContain('attention');
    else expect(halves).toEqual([]);
    results[stored] = [await device.read(x), await device.read(noise)];
    session.dispose();
    load.destroy();
  }
  for (const i of [0, 1]) {
    expect(results.f16[i]).not.toEqual(results.f32[i]);
    expectClose(results.f16[i], Float64Array.from(results.f32[i]), { relative: 4e-3 }, i === 0 ? 'block' : 'head');
  }
});
