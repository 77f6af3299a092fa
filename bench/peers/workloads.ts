/** The work that is measured: sizes, numbers, and the computation as a function of a peer's operations. */

import { gridSize, type ModelConfig, parameterShapes, presets } from '../../src/models/config.ts';
import { numbers, randomWeights } from '../../src/measurement/random_weights.ts';
import { samplingWork } from './sampling.ts';
import { type Matrices, type Matrix, matrix, type Ops } from './ops.ts';

export interface Workload {
  name: string;
  kind: 'matmul' | 'attention' | 'block' | 'tiny' | 'norms' | 'head' | 'network' | 'sampling';
  /** Sizes, for the tables and for the engine's own recording. */
  sizes: Readonly<Record<string, number>>;
  /** Floating-point operations, a multiply-add counted as two. */
  flops: number;
  /** Left out on CPU drivers unless it is asked for by name. */
  forGpus?: boolean;
  /** Largest error allowed, over the reference's largest value; default 1e-4: sums of f32 in another order. */
  tolerance?: number;
  inputs(): Matrices;
  /** Names and numbers of what stays with the peer. */
  parameters(): Promise<Matrices>;
  build<T>(ops: Ops<T>): T;
}

/** The official eMIGM-B at 256 px, whose block, head and whole are measured. */
export const CONFIG: Readonly<ModelConfig> = presets['b-256'];
const BLOCK = 'encoder_blocks.0';
const HEAD = 'diffloss.net';
const TOKENS = CONFIG.bufferSize + gridSize(CONFIG) ** 2;

/** Uniform numbers of deviation 1, the same for every peer. */
function random(seed: number, rows: number, columns: number): Matrix {
  return matrix(rows, columns, numbers(seed).normal(rows * columns, 1));
}

function transposed(rows: number, columns: number, data: Float32Array): Matrix {
  const out = new Float32Array(data.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = data[i * columns + j];
  return matrix(columns, rows, out);
}

/** Parameters whose official names begin so: matrices as [inputs, outputs], vectors as one row. */
async function officialParameters(wanted: (name: string) => boolean, names: Iterable<string>): Promise<Matrices> {
  const source = randomWeights(CONFIG);
  const found: Record<string, Matrix> = {};
  for (const name of names) {
    if (!wanted(name)) continue;
    const shape = source.shape(name);
    const data = await source.read(name);
    const isLinear = shape.length === 2 && name.endsWith('.weight') && name !== 'class_emb.weight';
    const columns = shape.at(-1)!;
    found[name] = isLinear ? transposed(shape[0], columns, data) : matrix(data.length / columns, columns, data);
  }
  return found;
}

function linear<T>(ops: Ops<T>, x: T, name: string): T {
  return ops.add(ops.matmul(x, ops.parameter(`${name}.weight`)), ops.parameter(`${name}.bias`));
}

function norm<T>(ops: Ops<T>, x: T, name: string): T {
  return ops.layerNorm(x, ops.parameter(`${name}.weight`), ops.parameter(`${name}.bias`));
}

/** The pre-norm transformer block of ViT under timm's names. */
function vitBlock<T>(ops: Ops<T>, x: T, name: string, width: number, heads: number): T {
  const qkv = linear(ops, norm(ops, x, `${name}.norm1`), `${name}.attn.qkv`);
  const part = (i: number) => ops.columns(qkv, i * width, (i + 1) * width);
  const mixed = ops.attention(part(0), part(1), part(2), heads);
  const y = ops.add(x, linear(ops, mixed, `${name}.attn.proj`));
  const hidden = ops.gelu(linear(ops, norm(ops, y, `${name}.norm2`), `${name}.mlp.fc1`));
  return ops.add(y, linear(ops, hidden, `${name}.mlp.fc2`));
}

/** One evaluation of the diffusion head, block by block as the official code has it: [noise | variance]. */
function diffusionHead<T>(ops: Ops<T>, x: T, condition: T, time: T): T {
  const width = CONFIG.headWidth;
  const y = ops.silu(ops.add(condition, time));
  const one = ops.parameter('one');
  const modulate = (h: T, shift: T, scale: T) => ops.add(ops.multiply(h, ops.add(scale, one)), shift);
  const part = (m: T, i: number) => ops.columns(m, i * width, (i + 1) * width);
  let h = linear(ops, x, `${HEAD}.input_proj`);
  for (let i = 0; i < CONFIG.headDepth; i++) {
    const name = `${HEAD}.res_blocks.${i}`;
    const m = linear(ops, y, `${name}.adaLN_modulation.1`);
    const normal = modulate(norm(ops, h, `${name}.in_ln`), part(m, 0), part(m, 1));
    const inner = linear(ops, ops.silu(linear(ops, normal, `${name}.mlp.0`)), `${name}.mlp.2`);
    h = ops.add(h, ops.multiply(part(m, 2), inner));
  }
  const m = linear(ops, y, `${HEAD}.final_layer.adaLN_modulation.1`);
  return linear(ops, modulate(ops.layerNorm(h), part(m, 0), part(m, 1)), `${HEAD}.final_layer.linear`);
}

const blockFlops = (rows: number, width: number) => 24 * rows * width * width + 4 * rows * rows * width;
const headFlops = (rows: number) => {
  const { headDepth: depth, headWidth: width, channels } = CONFIG;
  return 2 * rows * width * ((5 * depth + 2) * width + 3 * channels);
};

export function matmulWork(m: number, k: number, n: number): Workload {
  return {
    name: `matmul ${m} x ${k} x ${n}`,
    kind: 'matmul',
    sizes: { m, k, n },
    flops: 2 * m * k * n,
    inputs: () => ({ x: random(1, m, k) }),
    parameters: async () => ({ w: random(2, k, n) }),
    build: (ops) => ops.matmul(ops.input('x'), ops.parameter('w')),
  };
}

export function attentionWork(rows = TOKENS, width = CONFIG.encoderWidth, heads = CONFIG.encoderHeads): Workload {
  return {
    name: `attention ${rows} tokens`,
    kind: 'attention',
    sizes: { rows, width, heads },
    flops: 4 * rows * rows * width,
    inputs: () => ({ q: random(1, rows, width), k: random(2, rows, width), v: random(3, rows, width) }),
    parameters: async () => ({}),
    build: (ops) => ops.attention(ops.input('q'), ops.input('k'), ops.input('v'), heads),
  };
}

export function blockWork(rows = TOKENS): Workload {
  const { encoderWidth: width, encoderHeads: heads } = CONFIG;
  return {
    name: `ViT block ${rows} x ${width}`,
    kind: 'block',
    sizes: { rows, width, heads },
    flops: blockFlops(rows, width),
    inputs: () => ({ x: random(1, rows, width) }),
    parameters: () => officialParameters((name) => name.startsWith(`${BLOCK}.`), shapeNames()),
    build: (ops) => vitBlock(ops, ops.input('x'), BLOCK, width, heads),
  };
}

export function tinyWork(count = 200, columns = 1024): Workload {
  return {
    name: `${count} tiny ops`,
    kind: 'tiny',
    sizes: { count, columns },
    flops: count * columns,
    tolerance: 1e-3, // errors of the driver's tanh add up, one operation after the other
    inputs: () => ({ x: random(1, 1, columns) }),
    parameters: async () => ({}),
    build: (ops) => {
      let x = ops.input('x');
      for (let i = 0; i < count; i++) x = ops.tanh(x);
      return x;
    },
  };
}

/** Dependent layer norms: small operations that no compiler can make one kernel of, as it can of `tinyWork`. */
export function normsWork(count = 200, columns = 1024): Workload {
  return {
    name: `${count} tiny layer norms`,
    kind: 'norms',
    sizes: { count, columns },
    flops: 8 * count * columns,
    inputs: () => ({ x: random(1, 1, columns) }),
    parameters: async () => ({}),
    build: (ops) => {
      let x = ops.input('x');
      for (let i = 0; i < count; i++) x = ops.layerNorm(x);
      return x;
    },
  };
}

export function headWork(rows = gridSize(CONFIG) ** 2): Workload {
  const { headWidth: width, headDepth: depth, channels } = CONFIG;
  return {
    name: `diffusion head ${rows} rows`,
    kind: 'head',
    sizes: { rows, width, depth },
    flops: headFlops(rows),
    inputs: () => ({
      x: random(1, rows, channels),
      condition: random(2, rows, width),
      time: random(3, 1, width),
    }),
    parameters: async () => ({ ...(await headParameters()), one: matrix(1, 1, Float32Array.of(1)) }),
    build: (ops) => diffusionHead(ops, ops.input('x'), ops.input('condition'), ops.input('time')),
  };
}

/** Every second token is visible: as in the middle of a run. */
export function networkRows(): { visible: number[]; everywhere: number[]; slots: number[] } {
  const grid = gridSize(CONFIG) ** 2;
  const everywhere = Array.from({ length: grid }, (_, i) => i);
  const visible = everywhere.filter((i) => i % 2 === 0);
  const buffer = CONFIG.bufferSize;
  const masked = buffer + visible.length; // the row below the encoder's: the mask token
  const slots = [
    ...Array.from({ length: buffer }, (_, i) => i),
    ...everywhere.map((i) => (i % 2 === 0 ? buffer + i / 2 : masked)),
  ];
  return { visible, everywhere, slots };
}

/** Class of the one image. */
export const CLASS = 207;

/**
 * One evaluation of the whole eMIGM-B: the encoder on the visible half of the tokens, the decoder on all, the head once
 * for every token. The time's embedding comes from outside, as a sampler computes it once a run.
 */
export function networkWork(): Workload {
  const { encoderWidth, decoderWidth, encoderDepth, decoderDepth, encoderHeads, decoderHeads } = CONFIG;
  const { bufferSize: buffer, channels, headWidth } = CONFIG;
  const { visible, everywhere, slots } = networkRows();
  const seen = [...Array.from({ length: buffer }, (_, i) => i), ...visible.map((i) => buffer + i)];
  const flops =
    encoderDepth * blockFlops(seen.length, encoderWidth) +
    decoderDepth * blockFlops(TOKENS, decoderWidth) +
    2 * seen.length * encoderWidth * decoderWidth +
    2 * everywhere.length * decoderWidth * headWidth +
    headFlops(everywhere.length);
  return {
    name: 'eMIGM-B evaluation',
    kind: 'network',
    sizes: { tokens: everywhere.length, visible: visible.length },
    flops,
    inputs: () => ({
      tokens: random(1, everywhere.length, channels),
      time: random(2, 1, headWidth),
      x: random(3, everywhere.length, channels),
    }),
    parameters: async () => ({
      ...(await officialParameters((name) => !name.includes('time_embed'), shapeNames())),
      one: matrix(1, 1, Float32Array.of(1)),
    }),
    build: (ops) => {
      const tokens = linear(ops, ops.gather(ops.input('tokens'), visible), 'z_proj');
      const classes = ops.gather(ops.parameter('class_emb.weight'), new Array<number>(buffer).fill(CLASS));
      const position = ops.gather(ops.parameter('encoder_pos_embed_learned'), seen);
      let h = norm(ops, ops.add(ops.concat([classes, tokens]), position), 'z_proj_ln');
      for (let i = 0; i < encoderDepth; i++) h = vitBlock(ops, h, `encoder_blocks.${i}`, encoderWidth, encoderHeads);
      h = linear(ops, norm(ops, h, 'encoder_norm'), 'decoder_embed');
      h = ops.gather(ops.concat([h, ops.parameter('fake_latent')]), slots);
      h = ops.add(h, ops.parameter('decoder_pos_embed_learned'));
      for (let i = 0; i < decoderDepth; i++) h = vitBlock(ops, h, `decoder_blocks.${i}`, decoderWidth, decoderHeads);
      h = ops.gather(
        norm(ops, h, 'decoder_norm'),
        everywhere.map((i) => buffer + i),
      );
      const z = ops.add(h, ops.parameter('diffusion_pos_embed_learned'));
      return diffusionHead(ops, ops.input('x'), linear(ops, z, `${HEAD}.cond_embed`), ops.input('time'));
    },
  };
}

const shapeNames = () => parameterShapes(CONFIG).keys();
const headParameters = () =>
  officialParameters((name) => name.startsWith(`${HEAD}.`) && !/time_embed|cond_embed/.test(name), shapeNames());

/** Widths of the official models; their blocks multiply by qkv, proj, fc1, fc2. */
const WIDTHS = [448, 768, 1024, 1280];

/** All work, the small matmuls first. */
export function workloads(): Workload[] {
  const pairs = WIDTHS.flatMap((w) => [
    [w, w],
    [w, 3 * w],
    [w, 4 * w],
    [4 * w, w],
  ]);
  return [
    ...[64, 320, 1024].flatMap((m) => pairs.map(([k, n]) => matmulWork(m, k, n))),
    tinyWork(),
    normsWork(),
    attentionWork(),
    blockWork(),
    headWork(),
    networkWork(),
    { ...matmulWork(4096, 4096, 4096), forGpus: true },
    ...[0, 1, 2].flatMap((model) => [1, 8, 64].map((batch) => samplingWork(model, batch))),
  ];
}
