/** Single ops and timm's block against the official numbers: ops, patchify_p2, and the time embedding of diffloss_net. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import type { Recorder } from '../../src/gpu/recorder.ts';
import { Session } from '../../src/gpu/session.ts';
import type { Tensor } from '../../src/gpu/tensor.ts';
import { configFromArgs } from '../../src/models/config.ts';
import { block, loadBlock } from '../../src/nn/block.ts';
import { conditionEmbedding, headNoise, loadHead, timeEmbedding } from '../../src/nn/head.ts';
import { WeightLoader, type WeightSource } from '../../src/nn/weights.ts';
import { attention } from '../../src/ops/attention.ts';
import { sinusoid, sinusoidFrequencies } from '../../src/ops/diffusion.ts';
import { activation } from '../../src/ops/activation.ts';
import { layernorm } from '../../src/ops/layernorm.ts';
import { createLinear, linear } from '../../src/ops/matmul.ts';
import { gatherRows, patchify, unpatchify } from '../../src/ops/tokens.ts';
import { describeGolden, expectClose } from '../helpers/golden.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

const OP = { relative: 5e-6 }; // README: ops and single layers
const NET = { relative: 5e-5 }; // README: networks

/** Records, runs and reads one output of this many numbers; it is poisoned before. */
async function run(size: number, record: (r: Recorder, out: Tensor) => void): Promise<Float32Array> {
  const session = new Session(device);
  const out = device.tensor([size], 'f32', 'out', new Float32Array(size).fill(Number.NaN));
  const program = session.record('golden', (r) => record(r, out));
  await session.prepare();
  session.run(program);
  const values = await device.read(out);
  session.dispose();
  out.destroy();
  return values;
}

describeGolden('ops', (golden) => {
  const input = (name: string) => device.tensor(golden.shape(name), 'f32', name, golden.f32(name));
  const size = (name: string) => golden.shape(name).reduce((a, b) => a * b, 1);
  const names = golden.names().flatMap((name) => /^(\w+)\.out$/.exec(name)?.[1] ?? []);
  const heads = golden.meta('heads') as number | Record<string, number>;
  const headsOf = (name: string) => (typeof heads === 'number' ? heads : heads[name]);

  const source = (prefix: string): WeightSource => ({
    shape: (name) => golden.shape(`${prefix}.param.${name.replace(/^\./, '')}`),
    // A layer without bias has one of zeros.
    read: async (name) => {
      const key = `${prefix}.param.${name.replace(/^\./, '')}`;
      if (golden.has(key)) return golden.f32(key);
      return new Float32Array(golden.shape(key.replace(/bias$/, 'weight'))[0]);
    },
  });

  const checks: [RegExp, (name: string) => Promise<Float32Array>][] = [
    [
      /^linear/,
      (name) => {
        const [outputs, inputs] = golden.shape(`${name}.w`);
        const bias = golden.has(`${name}.b`) ? golden.f32(`${name}.b`) : undefined;
        const layer = createLinear(device, name, [outputs, inputs], golden.f32(`${name}.w`), bias);
        return run(size(`${name}.out`), (r, out) => linear(r, input(`${name}.x`), layer, { out }));
      },
    ],
    [
      /^layernorm/,
      (name) => {
        const affine = golden.has(`${name}.w`) ? { weight: input(`${name}.w`), bias: input(`${name}.b`) } : undefined;
        const width = golden.shape(`${name}.x`).at(-1)!;
        return run(size(`${name}.out`), (r, out) => layernorm(r, input(`${name}.x`), width, { affine, out }));
      },
    ],
    [
      /^(gelu|silu)$/,
      (name) => {
        const x = input(`${name}.x`);
        return run(size(`${name}.out`), (r, out) => activation(r, name as 'gelu' | 'silu', x, x.size, { out }));
      },
    ],
    [
      /^embedding/,
      (name) => {
        const [count, width] = golden.shape(`${name}.out`);
        const index = device.tensor([count], 'u32', 'labels', golden.f32(`${name}.labels`));
        return run(count * width, (r, out) => {
          gatherRows(r, input(`${name}.w`), { tensor: index, offset: 0 }, count, width, { out });
        });
      },
    ],
    [
      /^attention/,
      async (name) => {
        const [batch, length, width] = golden.shape(`${name}.x`);
        const load = new WeightLoader(device, source(name), 'f32');
        const [qkv, proj] = [await load.linear('qkv'), await load.linear('proj')];
        const headDim = width / headsOf(name);
        return run(size(`${name}.out`), (r, out) => {
          const tensor = linear(r, input(`${name}.x`), qkv);
          const part = (i: number) => ({ tensor, stride: 3 * width, offset: i * width });
          const shape = { batch, heads: headsOf(name), headDim, queries: length, keys: length };
          linear(r, attention(r, part(0), part(1), part(2), shape), proj, { out });
        });
      },
    ],
    [
      /^block/,
      async (name) => {
        const [batch, length, width] = golden.shape(`${name}.x`);
        const load = new WeightLoader(device, source(name), 'f32');
        const weights = await loadBlock(load, '', width, headsOf(name));
        const x = input(`${name}.x`);
        const session = new Session(device);
        const program = session.record(name, (r) => block(r, x, weights, batch, length));
        await session.prepare();
        session.run(program);
        return device.read(x);
      },
    ],
  ];

  for (const name of names) {
    const check = checks.find(([pattern]) => pattern.test(name));
    // softmax is a part of attention, modulate of layernorm: neither is a kernel of its own here.
    if (!check) {
      it(`${name}: ${['softmax', 'modulate'].includes(name) ? 'covered within another op' : 'unknown'}`, () => {
        expect(['softmax', 'modulate']).toContain(name);
      });
      continue;
    }
    it(name, async () => {
      const actual = await check[1](name);
      expectClose(actual, golden.f32(`${name}.out`), OP, name);
    });
  }
});

describeGolden('patchify_p2', (golden) => {
  it('patchify and back', async () => {
    const [, channels, height] = golden.shape('imgs');
    const config = golden.meta('config') as Record<string, unknown>;
    const { patchSize: patch } = configFromArgs(config);
    const shape = { channels, side: height / patch, patch };
    const images = device.tensor(golden.shape('imgs'), 'f32', 'images', golden.f32('imgs'));
    const tokens = await run(images.size, (r, out) => patchify(r, images, shape, out));
    expectClose(tokens, golden.f32('tokens'), {}, 'tokens');
    const back = device.tensor([tokens.length], 'f32', 'tokens', tokens);
    expectClose(await run(images.size, (r, out) => unpatchify(r, back, shape, out)), golden.f32('imgs'), {}, 'images');
  });
});

describeGolden('diffloss_net', (golden) => {
  const meta = (key: string) => golden.meta(key) as number;
  const input = (name: string) => device.tensor(golden.shape(name), 'f32', name, golden.f32(name));

  it('time embeddings of every dimension', async () => {
    const t = input('sinus.t');
    for (const name of golden.names('sinus.dim')) {
      const dim = golden.shape(name)[1];
      const values = sinusoidFrequencies(dim);
      const frequency = device.tensor([values.length], 'f32', 'frequencies', values);
      const actual = await run(t.size * dim, (r, out) => sinusoid(r, t, frequency, dim, out));
      expectClose(actual, golden.f32(name), { relative: 5e-5 }, name);
    }
  });

  it('the network, its embeddings, and its noise half alone', async () => {
    const width = meta('width');
    const tokenDim = meta('in_channels');
    const source: WeightSource = {
      shape: (name) => golden.shape(`param.${name}`),
      read: async (name) => golden.f32(`param.${name}`),
    };
    const load = new WeightLoader(device, source, 'f32');
    const head = await loadHead(load, '', { depth: meta('depth'), width, tokenDim });
    const rows = golden.shape('x')[0];
    const [x, t, c] = [input('x'), input('t'), input('c')];
    expectClose(await run(rows * width, (r, out) => timeEmbedding(r, head, t, out)), golden.f32('t_emb'), NET, 't_emb');
    expectClose(
      await run(rows * width, (r, out) => conditionEmbedding(r, head, c, out)),
      golden.f32('c_emb'),
      NET,
      'c_emb',
    );
    for (const noiseOnly of [false, true]) {
      const columns = noiseOnly ? tokenDim : 2 * tokenDim;
      const order = device.tensor(
        [rows],
        'u32',
        'order',
        Array.from({ length: rows }, (_, i) => i),
      );
      const actual: number[] = [];
      // Rows of these tensors have times of their own: each is read from an evaluation at its time.
      for (let row = 0; row < rows; row++) {
        const all = await run(rows * columns, (r, out) => {
          const embeddings = timeEmbedding(r, head, t);
          const net = headNoise(r, head, x, conditionEmbedding(r, head, c), { embeddings, index: row }, noiseOnly);
          gatherRows(r, net, { tensor: order, offset: 0 }, rows, columns, { out });
        });
        actual.push(...all.subarray(row * columns, (row + 1) * columns));
      }
      expectClose(actual, golden.f32(noiseOnly ? 'dpmsolver.out' : 'out'), NET, noiseOnly ? 'noise' : 'out');
    }
  });
});
