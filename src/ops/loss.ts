/** The diffusion head's loss: noisy tokens to train on, the loss of every row, and its gradient. */
import type { Recorder } from '../gpu/recorder.ts';
import { describeTensor, type Tensor } from '../gpu/tensor.ts';
import { EmigmError } from '../errors.ts';
import { STREAMS, normalNoise, streamKey } from '../random.ts';
import { type Arrays, type Gradient, grid1d, type Op, type Problem } from './op.ts';
import type { Index } from './tokens.ts';

/** The diffusion process on the device: `headLossTable`. */
export interface ProcessTable {
  /** [steps, 4] f32. */
  tensor: Tensor;
  halfBin: number;
}

/** Rows of the head's batch: `repeats` times the same tokens, repeat after repeat. */
export interface HeadBatch {
  /** Rows in all, all repeats together. */
  rows: number;
  repeats: number;
  channels: number;
}

/**
 * Key of a micro-batch's diffusion noise, for a u32 [2] tensor that `qSample` reads: the stream of the times that
 * `drawMicroBatch` draws. The noise of a token in repeat r is `normalNoise(seed, STREAMS.trainNoise, microBatch, token,
 * r, 0, channels)`.
 */
export function diffusionNoiseKey(seed: number | bigint, microBatch: number): Uint32Array<ArrayBuffer> {
  return Uint32Array.from(streamKey(seed, STREAMS.trainNoise, microBatch));
}

/**
 * x_t[rows, channels] = alpha_t x0 + sigma_t noise for the tokens x0[index[row]] at times t[row] (u32), and the noise:
 * drawn under `key` (u32 [2], `diffusionNoiseKey`), or as given.
 * @throws EmigmError 'shape' when the rows are no whole number of repeats
 */
export function qSample(
  r: Recorder,
  x0: Tensor,
  index: Index,
  t: Tensor,
  table: ProcessTable,
  { rows, repeats, channels }: HeadBatch,
  source: { key: Tensor } | { noise: Tensor },
  out: { xT?: Tensor; noise?: Tensor } = {},
): { xT: Tensor; noise: Tensor } {
  if (!Number.isInteger(rows / repeats)) {
    throw new EmigmError('shape', `q_sample: ${rows} rows are no ${repeats} repeats of the same tokens`);
  }
  const draw = 'key' in source;
  const noise = draw ? (out.noise ?? r.temp([rows, channels], 'f32', 'noise')) : source.noise;
  const xT = out.xT ?? r.temp([rows, channels], 'f32', 'x_t');
  const pairs = Math.ceil(channels / 2);
  r.call({
    op: 'q_sample',
    kernel: { file: 'loss/q_sample', overrides: { DRAW: draw } },
    operands: { x0, index: index.tensor, t, table: table.tensor, key: draw ? source.key : undefined, noise, x_t: xT },
    params: { rows, channels, rows_per_repeat: rows / repeats, index_offset: index.offset },
    grid: grid1d(rows * pairs),
    flops: (draw ? 100 : 3) * rows * channels,
  });
  return { xT, noise };
}

/** What the head was given and answered, `rows` rows each. */
export interface HeadRowsLoss {
  /** [rows, 2 * channels] = [eps | v]. */
  net: Tensor;
  /** [rows, channels], both from `qSample`. */
  xT: Tensor;
  noise: Tensor;
  /** u32 [>= rows] */
  t: Tensor;
  /** f32 [>= rows]: weight of each row's loss in the total. */
  weights: Tensor;
}

export interface HeadLossOptions {
  /** Also the gradient of `net`. Default true. */
  backward?: boolean;
  terms?: Tensor;
  dNet?: Tensor;
  /** f32 [1] for the total; `accumulate` adds to what it holds (another micro-batch of the step). */
  total?: Tensor;
  accumulate?: boolean;
}

/**
 * The loss of every row, terms[rows, 2] = mean over the channels of (mse, variational term in bits), their total
 * sum(weights * (mse + vb)), and the gradient of the total by `net`: through mse for eps, through vb for v alone.
 * Nichol and Dhariwal, arXiv 2102.09672, section 3.1, neither term rescaled (SPEC sections 3 and 8).
 */
export function headLoss(
  r: Recorder,
  { net, xT, noise, t, weights }: HeadRowsLoss,
  table: ProcessTable,
  { rows, channels }: HeadBatch,
  options: HeadLossOptions = {},
): { terms: Tensor; total: Tensor; dNet: Tensor | undefined } {
  const { backward = true } = options;
  if (net.size !== 2 * rows * channels) {
    throw new EmigmError(
      'shape',
      `head loss: net is ${describeTensor(net)}, noise and variance of ${rows} rows of ${channels} wanted`,
    );
  }
  const terms = options.terms ?? r.temp([rows, 2], 'f32', 'loss terms');
  const dNet = backward ? (options.dNet ?? r.temp(net.shape, 'f32', `d ${net.label}`)) : undefined;
  r.call({
    op: 'head_loss',
    kernel: { file: 'loss/head_loss', overrides: { BACKWARD: backward } },
    operands: { net, noise, x_t: xT, t, table: table.tensor, weights, terms, d_net: dNet },
    params: { rows, channels, half_bin: table.halfBin },
    grid: grid1d(rows),
    flops: 20 * rows * channels,
  });
  return { terms, total: totalLoss(r, terms, weights, rows, options), dNet };
}

/** total[1] = sum over the rows of weights * (sum of the row's terms), in one order. */
export function totalLoss(
  r: Recorder,
  terms: Tensor,
  weights: Tensor,
  rows: number,
  options: { total?: Tensor; accumulate?: boolean } = {},
): Tensor {
  const total = options.total ?? r.temp([1], 'f32', 'loss');
  r.call({
    op: 'total_loss',
    kernel: { file: 'loss/total', overrides: { ACCUMULATE: options.accumulate ?? false } },
    operands: { terms, weights, loss: total },
    params: { rows, columns: terms.size / rows },
    grid: [1],
    flops: 2 * terms.size,
  });
  return total;
}

interface LossProblem {
  tokens: number;
  repeats: number;
  channels: number;
  /** Draw the noise. */
  draw?: boolean;
}
const sizes = (p: Problem) => p as unknown as LossProblem;
const batchOf = (p: Problem): HeadBatch => {
  const { tokens, repeats, channels } = sizes(p);
  return { rows: tokens * repeats, repeats, channels };
};

/** Times 0, 1, ..., STEPS - 1 in turn, of a short process whose numbers are like those of the real one. */
const STEPS = 4;
const HALF_BIN = 0.8;
const times = (size: number) => Array.from({ length: size }, (_, i) => i % STEPS);
const processTable = () => [0.99, 0.14, 1.4, 0.7, 0.9, 0.43, 0.8, 0.5, 0.6, 0.8, 0.1, 0.01, 0.01, 0.9999, 2, 2e-4];
const tableInput = { shape: [STEPS, 4], fill: { values: processTable } };
const tableOf = (tensor: Tensor): ProcessTable => ({ tensor, halfBin: HALF_BIN });
const SEED = 2 ** 35 + 11;

export const qSampleOp: Op = {
  name: 'q_sample',
  variants: () => ['q_sample'],
  problems: {
    test: [
      { tokens: 5, repeats: 1, channels: 7 },
      { tokens: 3, repeats: 4, channels: 16, draw: true },
      { tokens: 7, repeats: 2, channels: 3, draw: true },
    ],
    bench: [{ tokens: 4096, repeats: 4, channels: 16, draw: true }],
  },
  inputs: (p) => {
    const { tokens, channels, draw } = sizes(p);
    const { rows } = batchOf(p);
    return {
      x0: { shape: [tokens + 1, channels] },
      index: {
        shape: [rows + 2],
        dtype: 'u32',
        fill: { values: (n) => Array.from({ length: n }, (_, i) => (i + 1) % tokens) },
      },
      t: { shape: [rows], dtype: 'u32', fill: { values: times } },
      table: tableInput,
      ...(draw
        ? { key: { shape: [2], dtype: 'u32', fill: { values: () => diffusionNoiseKey(SEED, 3) } } }
        : { noise: { shape: [rows, channels] } }),
    };
  },
  outputs: (p) => {
    const { rows, channels } = batchOf(p);
    return { xT: [rows, channels], ...(sizes(p).draw && { drawn: [rows, channels] }) };
  },
  record: (r, t, p) => {
    const source = sizes(p).draw ? { key: t.key } : { noise: t.noise };
    const index = { tensor: t.index, offset: 2 };
    qSample(r, t.x0, index, t.t, tableOf(t.table), batchOf(p), source, { xT: t.xT, noise: t.drawn });
  },
  oracle: ({ x0, index, t, table, noise }, p) => {
    const { rows, channels } = batchOf(p);
    const { tokens, draw } = sizes(p);
    const drawn = new Float64Array(rows * channels);
    for (let row = 0; row < rows; row++) {
      const repeat = Math.floor(row / tokens);
      const of = draw
        ? normalNoise(SEED, STREAMS.trainNoise, 3, index[2 + row], repeat, 0, channels)
        : noise.subarray(row * channels, (row + 1) * channels);
      drawn.set(of, row * channels);
    }
    const xT = drawn.map((value, i) => {
      const row = Math.floor(i / channels);
      const token = index[2 + row];
      return table[4 * t[row]] * x0[token * channels + (i % channels)] + table[4 * t[row] + 1] * value;
    });
    return { xT, ...(draw && { drawn }) };
  },
  flops: (p) => (sizes(p).draw ? 100 : 3) * batchOf(p).rows * sizes(p).channels,
};

/** 0.5 (1 + tanh(u)), small values with all their digits. */
const cdf = (x: number) => 1 / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

/**
 * mse and vb of one channel in float64, from the table's row [alpha, sigma, shift, span]; eps enters the variational
 * term only as `detached`.
 */
function channelTerms(
  [eps, v, detached, noise, xT]: readonly number[],
  [alpha, sigma, shift, span]: Float64Array,
  first: boolean,
): [number, number] {
  const delta = ((v + 1) / 2) * span;
  const error = shift * (detached - noise);
  const mse = (eps - noise) ** 2;
  if (!first) return [mse, (0.5 * (delta - 1 + Math.exp(-delta) + error ** 2 * Math.exp(-delta))) / Math.LN2];
  const x0 = (xT - sigma * noise) / alpha;
  const shrink = Math.exp(-0.5 * delta);
  const [high, low] = [shrink * (error + HALF_BIN), shrink * (error - HALF_BIN)];
  const between = error > 0 ? cdf(-low) - cdf(-high) : cdf(high) - cdf(low);
  const probability = x0 < -0.999 ? cdf(high) : x0 > 0.999 ? cdf(-low) : between;
  return [mse, -Math.log2(Math.max(probability, 1e-12))];
}

function headTerms({ net, noise, xT, t, table }: Arrays, p: Problem, detached = net): Float64Array {
  const { rows, channels } = batchOf(p);
  const terms = new Float64Array(2 * rows);
  for (let i = 0; i < rows * channels; i++) {
    const row = Math.floor(i / channels);
    const at = row * 2 * channels + (i % channels);
    const values = [net[at], net[at + channels], detached[at], noise[i], xT[i]];
    const [mse, vb] = channelTerms(values, table.subarray(4 * t[row], 4 * t[row] + 4), t[row] === 0);
    terms[2 * row] += mse / channels;
    terms[2 * row + 1] += vb / channels;
  }
  return terms;
}

const weighted = (terms: Float64Array, weights: Float64Array, columns: number) =>
  terms.reduce((sum, value, i) => sum + weights[Math.floor(i / columns)] * value, 0);

const headGradient: Gradient = {
  problems: [
    { tokens: 9, repeats: 1, channels: 5 },
    { tokens: 4, repeats: 2, channels: 4 },
  ],
  variants: () => ['head_loss'],
  of: () => ({ net: 'written' }),
  record: (r, t, p) => {
    const rows = { net: t.net, noise: t.noise, xT: t.xT, t: t.t, weights: t.weights };
    headLoss(r, rows, tableOf(t.table), batchOf(p), { dNet: t.d_net });
  },
  loss: (inputs, p, point) => weighted(headTerms(inputs, p, point.net), inputs.weights, 2),
};

export const headLossOp: Op = {
  name: 'head_loss',
  variants: () => ['head_loss'],
  problems: {
    test: [
      { tokens: 5, repeats: 1, channels: 7 },
      { tokens: 70, repeats: 4, channels: 16 },
    ],
    bench: [{ tokens: 4096, repeats: 4, channels: 16 }],
  },
  inputs: (p) => {
    const { rows, channels } = batchOf(p);
    return {
      net: { shape: [rows, 2 * channels] },
      noise: { shape: [rows, channels] },
      // At t = 0 tokens on both sides of +-1, where the likelihood takes its other forms.
      xT: { shape: [rows, channels] },
      t: { shape: [rows], dtype: 'u32', fill: { values: times } },
      table: tableInput,
      weights: { shape: [rows], fill: { values: (n) => Array.from({ length: n }, (_, i) => ((i % 5) + 1) / (3 * n)) } },
    };
  },
  outputs: (p) => ({ terms: [batchOf(p).rows, 2], total: [1] }),
  record: (r, t, p) => {
    const rows = { net: t.net, noise: t.noise, xT: t.xT, t: t.t, weights: t.weights };
    headLoss(r, rows, tableOf(t.table), batchOf(p), { backward: false, terms: t.terms, total: t.total });
  },
  oracle: (inputs, p) => {
    const terms = headTerms(inputs, p);
    return { terms, total: Float64Array.of(weighted(terms, inputs.weights, 2)) };
  },
  flops: (p) => 20 * batchOf(p).rows * sizes(p).channels,
  gradient: headGradient,
};
