/** The network against the official code's numbers: transformer_* (toy sizes, all variants) and full_* (official sizes). */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import type { Tensor } from '../../src/gpu/tensor.ts';
import { configFromArgs, type ModelConfig, parameterShapes } from '../../src/models/config.ts';
import { Emigm } from '../../src/models/emigm.ts';
import { conditionEmbedding, headNoise, timeEmbedding } from '../../src/nn/head.ts';
import { gatherRows } from '../../src/ops/tokens.ts';
import { addTrunk, IndexList, trunkIndices } from '../../src/sampling/indices.ts';
import { describeGolden, expectClose, formulaWeight, type Golden } from '../helpers/golden.ts';
import { goldenSource } from '../helpers/model.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

/** Encoder output and z of all tokens for one batch of masks; `classRows` are rows of the model's class inputs. */
async function evaluate(model: Emigm, tokens: Float32Array, mask: Float32Array, classRows: number[]) {
  const n = model.sequenceLength;
  const list = new IndexList();
  const everything = Array.from({ length: n }, (_, i) => i);
  const rows = classRows.map((classRow, image) => ({
    classRow,
    image,
    visible: everything.filter((i) => mask[image * n + i] === 0),
    asked: everything,
  }));
  const { shape, offsets } = addTrunk(list, model.config, rows);
  const session = new Session(device);
  const index = device.tensor([list.values.length], 'u32', 'indices', list.values);
  const state = device.tensor([classRows.length * n, model.tokenDim], 'f32', 'tokens', tokens);
  const { bufferSize, encoderWidth, decoderWidth, mae } = model.config;
  const length = bufferSize + (mae ? shape.visible : n);
  const poison = (size: number) => new Float32Array(size).fill(Number.NaN);
  const encoderOut = device.tensor(
    [classRows.length, length, encoderWidth],
    'f32',
    'encoder out',
    poison(classRows.length * length * encoderWidth),
  );
  const z = device.tensor(
    [classRows.length * n, decoderWidth],
    'f32',
    'z',
    poison(classRows.length * n * decoderWidth),
  );
  const rowNumbers = (count: number): Tensor =>
    device.tensor(
      [count],
      'u32',
      'rows',
      Array.from({ length: count }, (_, i) => i),
    );
  const copies = [rowNumbers(classRows.length * length), rowNumbers(classRows.length * n)];
  const program = session.record('trunk', (r) => {
    const at = trunkIndices(index, offsets);
    const encoded = model.encode(r, state, at, shape);
    gatherRows(r, encoded, { tensor: copies[0], offset: 0 }, copies[0].size, encoderWidth, { out: encoderOut });
    const decoded = model.decode(r, encoded, at, shape);
    gatherRows(r, decoded, { tensor: copies[1], offset: 0 }, copies[1].size, decoderWidth, { out: z });
  });
  await session.prepare();
  session.run(program);
  const result = { encoderOut: await device.read(encoderOut), z: await device.read(z) };
  session.dispose();
  for (const tensor of [index, state, encoderOut, z, ...copies]) tensor.destroy();
  return result;
}

/**
 * Tolerances by how weights are stored, over the largest value. f32: the golden README's. f16: rounding changes a
 * weight by 2^-11 of itself at most, and the sum that a linear layer takes by no more than that share (the errors'
 * signs are random, so by less); the changes of the layers between input and output are independent and add as
 * squares: 2^-11 times the root of their number.
 */
function tolerance(stored: 'f32' | 'f16', { encoderDepth, decoderDepth }: ModelConfig): number {
  return stored === 'f32' ? 5e-5 : 2 ** -11 * Math.sqrt(4 * (encoderDepth + decoderDepth) + 2);
}

describeGolden('transformer_*', (golden) => {
  const models = {} as Record<'f32' | 'f16', Emigm>;
  beforeAll(async () => {
    const config = configFromArgs(golden.meta('config') as Record<string, unknown>);
    for (const stored of ['f32', 'f16'] as const) {
      models[stored] = await Emigm.load(device, config, goldenSource(golden), { stored });
    }
  });
  afterAll(() => {
    models.f32?.dispose();
    models.f16?.dispose();
  });

  const cases = golden.names().flatMap((name) => /^case\.(\w+)\.tokens$/.exec(name)?.[1] ?? []);
  const kinds = cases.flatMap((name) => [[name, 'f32'] as const, [name, 'f16'] as const]);
  it.each(kinds)('case %s, weights in %s', async (name, stored) => {
    const model = models[stored];
    const relative = tolerance(stored, model.config);
    const at = (key: string) => `case.${name}.${key}`;
    const batch = golden.shape(at('tokens'))[0];
    const labels = golden.has(at('labels'))
      ? [...golden.f32(at('labels'))]
      : new Array<number>(batch).fill(model.unconditional);
    // The recorded class embedding is the row that the label names.
    const width = model.config.encoderWidth;
    const table = await device.read(model.classInputs);
    labels.forEach((label, b) => {
      const row = golden.f32(at('class_embedding')).subarray(b * width, (b + 1) * width);
      expectClose(table.subarray(label * width, (label + 1) * width), row, {}, `class embedding ${b}`);
    });
    const { encoderOut, z } = await evaluate(model, golden.f32(at('tokens')), golden.f32(at('mask')), labels);
    expectClose(encoderOut, golden.f32(at('encoder_out')), { relative }, 'encoder_out');
    expectClose(z, golden.f32(at('decoder_out')), { relative }, 'decoder_out');
  });
});

describeGolden('full_*', (golden) => {
  it.each(['f32', 'f16'] as const)(
    'encoder, decoder and head at the official size, weights in %s',
    async (stored) => {
      const config = fullConfig(golden);
      const relative = tolerance(stored, config);
      const shapes = parameterShapes(config);
      const source = {
        shape: (name: string) => shapes.get(name)!,
        read: async (name: string) => formulaWeight(name, shapes.get(name)!, 1),
      };
      const model = await Emigm.load(device, config, source, { stored });
      const labels = [...golden.f32('labels')];
      const conditional = await evaluate(model, golden.f32('tokens'), golden.f32('mask'), labels);
      expectClose(conditional.encoderOut, golden.f32('encoder_out'), { relative }, 'encoder_out');
      expectClose(conditional.z, golden.f32('z'), { relative }, 'z');
      const unconditional = await evaluate(
        model,
        golden.f32('tokens'),
        golden.f32('mask'),
        labels.map(() => model.unconditional),
      );
      expectClose(unconditional.z, golden.f32('z_uncond'), { relative }, 'z_uncond');

      const rows = [...golden.f32('head.rows')];
      const z = golden.f32('z');
      const width = config.decoderWidth;
      const condition = Float32Array.from(rows.flatMap((row) => [...z.subarray(row * width, (row + 1) * width)]));
      const x = golden.f32('head.x');
      const t = golden.f32('head.t');
      const expected = golden.f32('head.out');
      // Each row has a time of its own: one evaluation for all rows a time, of which one row is looked at.
      const session = new Session(device);
      const tensors = {
        z: device.tensor([rows.length, width], 'f32', 'z', condition),
        x: device.tensor([rows.length, model.tokenDim], 'f32', 'x', x),
        t: device.tensor([t.length], 'f32', 't', t),
      };
      const out = t.length * 2 * model.tokenDim;
      const outs = [...t].map((_, i) =>
        device.tensor(
          [rows.length, 2 * model.tokenDim],
          'f32',
          `out ${i}`,
          new Float32Array(out).fill(Number.NaN).subarray(0, rows.length * 2 * model.tokenDim),
        ),
      );
      const order = device.tensor(
        [rows.length],
        'u32',
        'order',
        rows.map((_, i) => i),
      );
      const program = session.record('head', (r) => {
        const embeddings = timeEmbedding(r, model.head, tensors.t);
        const c = conditionEmbedding(r, model.head, tensors.z);
        outs.forEach((target, index) => {
          const noise = headNoise(r, model.head, tensors.x, c, { embeddings, index }, false);
          gatherRows(r, noise, { tensor: order, offset: 0 }, rows.length, 2 * model.tokenDim, { out: target });
        });
      });
      await session.prepare();
      session.run(program);
      const actual: number[] = [];
      for (let i = 0; i < t.length; i++) {
        actual.push(...(await device.read(outs[i])).subarray(i * 2 * model.tokenDim, (i + 1) * 2 * model.tokenDim));
      }
      expectClose(actual, expected, { relative }, 'head.out');
      session.dispose();
      model.dispose();
      expect(actual.length).toBeGreaterThan(0);
    },
    600_000,
  );
});

/** These files name the trunk's fields once for encoder and decoder. */
function fullConfig(golden: Golden): ModelConfig {
  const meta = golden.meta('config') as Record<string, number | boolean>;
  const { width, heads, encoder_depth, decoder_depth, token_dim, seq, img_size, vae_stride, buffer } = meta;
  const patch = Number(img_size) / Number(vae_stride) / Math.sqrt(Number(seq));
  return configFromArgs({
    ...meta,
    patch_size: patch,
    vae_embed_dim: Number(token_dim) / patch ** 2,
    buffer_size: buffer,
    encoder_embed_dim: width,
    decoder_embed_dim: width,
    encoder_num_heads: heads,
    decoder_num_heads: heads,
    encoder_depth,
    decoder_depth,
  });
}
