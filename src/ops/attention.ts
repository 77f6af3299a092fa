/** Multi-head attention over fused or separate q, k, v. */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { DType, Tensor } from '../gpu/tensor.ts';
import { preferredFirst, preferredTile, shapeKey } from '../gpu/tuning.ts';
import { type Dropout, dropoutKeys, dropoutLevel, headKey, randomBits } from './dropout.ts';
import { matrixShape } from './matmul_kernels.ts';
import type { Input, Op, Problem } from './op.ts';
import { attentionRows, builtInFirst } from './tile_rows.ts';

/** Where q, k or v lies: rows of `stride` elements, from column `offset` on. */
export interface Slice {
  tensor: Tensor;
  stride: number;
  offset: number;
}

export interface AttentionShape {
  batch: number;
  heads: number;
  headDim: number;
  queries: number;
  keys: number;
}

export interface AttentionOptions {
  out?: Tensor;
  dtype?: DType;
  /** Written with the log of the softmax denominators, [batch, heads, queries], for the backward pass. */
  lse?: Tensor;
  /** Drops weights after the softmax, for training; queries and keys are at most 65536 then. */
  dropout?: Dropout;
  variant?: string;
  /** Queries that a workgroup takes on, of those that the implementation has; else those that suit. */
  tile?: number;
}

/** What decides which kernels can serve: `plain` keeps no log-sum-exp and drops no weight. */
interface Uses {
  headDim: number;
  dtype: DType;
  plain: boolean;
}

const variants = (device: Device, uses: Uses) =>
  preferredFirst(device, shapeKey.attention(uses.headDim, uses.dtype), usable(device, uses));

function usable(device: Device, { headDim, dtype, plain }: Uses): string[] {
  const flash = headDim % 4 === 0 && headDim <= 256;
  const matrix = flash && plain && dtype === 'f16' && matrixTiles(device, headDim).length > 0;
  const subgroup = flash && device.hasSubgroups && (device.lanes === 4 || device.lanes === 8 || device.lanes === 16);
  const cpu = !subgroup ? [] : device.lanes === 4 ? ['cpu_quad', 'cpu'] : ['cpu'];
  if (device.isCpu) return [...cpu, 'reference', ...(flash ? ['flash'] : [])];
  return [...(matrix ? ['flash_matrix'] : []), ...(flash ? ['flash'] : []), 'reference', ...cpu];
}

/** Keys at a time in `flash_matrix.wgsl`. */
const MATRIX_KEYS = 32;

/** Queries of a workgroup of `flash_matrix.wgsl` that its memory has room for, the most first. */
function matrixTiles(device: Device, headDim: number): number[] {
  if (!matrixShape(device)) return [];
  const [keys, padded] = [MATRIX_KEYS, Math.ceil(headDim / 16) * 16];
  const bytes = (queries: number) =>
    2 * (queries + keys) * (padded + 8) + 2 * queries * (keys + 8) + 4 * queries * (Math.max(keys, padded) + 8);
  return [64, 32].filter((rows) => bytes(rows) <= device.workgroupMemory);
}

/** Queries that a workgroup can take on, the built-in choice first; none where there is no choice. */
function attentionTiles(device: Device, variant: string, headDim: number, queries: number): number[] {
  if (variant === 'flash_matrix') return matrixTiles(device, headDim);
  if (variant !== 'cpu') return [];
  return builtInFirst(attentionRows(device.lanes, headDim, queries), [device.lanes, 2 * device.lanes]);
}

/** What the kernels want to know of dropout; zeros without it. @throws EmigmError 'shape' when a length is too great. */
export function weightDropout(dropout: Dropout | undefined, { queries, keys }: AttentionShape) {
  if (dropout && Math.max(queries, keys) > 65536) {
    throw new EmigmError('shape', `attention: ${queries} queries and ${keys} keys, 65536 is the limit with dropout`);
  }
  const { threshold, scale } = dropoutLevel(dropout?.probability ?? 0);
  return {
    overrides: { DROPOUT: dropout !== undefined },
    params: { dropout_row: dropout?.row ?? 0, threshold, kept_scale: scale },
  };
}

/**
 * out[batch, queries, heads * headDim] = softmax(q k^T / sqrt(headDim)) v for each head.
 * q, k, v and out are stored alike, f32 or f16.
 */
export function attention(
  r: Recorder,
  q: Slice,
  k: Slice,
  v: Slice,
  shape: AttentionShape,
  options: AttentionOptions = {},
): Tensor {
  const { batch, heads, headDim, queries, keys } = shape;
  const { lse, dropout, dtype = q.tensor.dtype } = options;
  if (k.stride !== v.stride) throw new EmigmError('shape', 'attention: k and v have the same row stride');
  const half = q.tensor.dtype === 'f16';
  const plain = lse === undefined && dropout === undefined;
  let variant = options.variant ?? variants(r.device, { headDim, dtype: q.tensor.dtype, plain })[0];
  const odd = [q.stride, q.offset, k.stride, k.offset, v.offset].some((n) => n % 4 !== 0);
  if (odd) variant = 'reference';
  const out = options.out ?? r.temp([batch, queries, heads * headDim], dtype, 'attention out');
  const lanes = r.device.lanes;
  const consts: Record<string, string | number> = { HEAD_DIM: headDim };
  const layer = { shape: shapeKey.attention(headDim, q.tensor.dtype), variant, rows: queries };
  const tiles = attentionTiles(r.device, variant, headDim, queries);
  let rows = options.tile ?? preferredTile(r.device, layer, tiles) ?? 64;
  if (variant === 'cpu_quad') rows = 8;
  if (variant === 'flash') rows = 32;
  if (variant === 'cpu') Object.assign(consts, { LANES: lanes, ROWS: rows });
  if (half) {
    Object.assign(consts, variant === 'reference' ? { Elem: 'f16' } : { Elem4: 'vec4<f16>' });
  }
  const matrix = variant === 'flash_matrix' ? matrixShape(r.device) : undefined;
  if (matrix) {
    const { m, n, k } = matrix;
    Object.assign(consts, { QUERIES: rows, KEYS: MATRIX_KEYS, MATRIX_M: m, MATRIX_N: n, MATRIX_K: k, LANES: lanes });
  }
  const drop = weightDropout(dropout, shape);
  r.call({
    op: 'attention',
    kernel: {
      file: `attention/${variant}`,
      consts,
      overrides: matrix ? {} : { STORE_LSE: lse !== undefined, ...drop.overrides },
    },
    operands: { q: q.tensor, k: k.tensor, v: v.tensor, out, ...(!matrix && { lse, keys: dropout?.keys }) },
    params: {
      batch,
      heads,
      q_len: queries,
      kv_len: keys,
      q_stride: q.stride,
      q_offset: q.offset,
      kv_stride: k.stride,
      k_offset: k.offset,
      v_offset: v.offset,
      scale: 1 / Math.sqrt(headDim),
      ...(!matrix && drop.params),
    },
    grid: [Math.ceil(queries / rows), heads, batch],
    flops: 4 * batch * heads * queries * keys * headDim,
  });
  return out;
}

interface AttentionProblem extends AttentionShape {
  fused?: boolean;
  stored?: DType;
  /** Probability that a weight is dropped. */
  dropout?: number;
}
const sizes = (p: Problem) => p as unknown as AttentionProblem;

/** Rows of dropout keys in the problems, and the one that they use. */
const KEY_ROWS = 3;
const KEY_ROW = 1;

/** The problem's dropout, its keys in the tensor `keys`. */
export function problemDropout(t: Readonly<Record<string, Tensor>>, problem: Problem): Dropout | undefined {
  const probability = sizes(problem).dropout;
  return probability === undefined ? undefined : { keys: t.keys, row: KEY_ROW, probability };
}

/** What dropout multiplies the weight of query i and key j by, in head number `head` of all the batch's. */
function keptWeight(keys: Float64Array, probability: number, head: number): (i: number, j: number) => number {
  const { threshold, scale } = dropoutLevel(probability);
  const key = headKey([keys[2 * KEY_ROW], keys[2 * KEY_ROW + 1]], head);
  return (i, j) => (randomBits(key, i * 65536 + j) >= threshold ? scale : 0);
}

function slices(t: Readonly<Record<string, Tensor>>, p: AttentionProblem): [Slice, Slice, Slice] {
  const width = p.heads * p.headDim;
  if (p.fused) {
    const at = (i: number): Slice => ({ tensor: t.qkv, stride: 3 * width, offset: i * width });
    return [at(0), at(1), at(2)];
  }
  return [
    { tensor: t.q, stride: width, offset: 0 },
    { tensor: t.kv, stride: 2 * width, offset: 0 },
    { tensor: t.kv, stride: 2 * width, offset: width },
  ];
}

export const attentionOp: Op = {
  name: 'attention',
  variants: (device, p) => {
    const { headDim, stored = 'f32', dropout } = sizes(p);
    return variants(device, { headDim, dtype: stored, plain: dropout === undefined });
  },
  // There the softmax's numerators are rounded to f16, and the output as it is stored.
  tolerance: (_, variant) => (variant === 'flash_matrix' ? 2 ** -10 : undefined),
  problems: {
    test: [
      { batch: 2, heads: 3, headDim: 12, queries: 7, keys: 7, fused: true },
      { batch: 1, heads: 2, headDim: 32, queries: 17, keys: 17, fused: true },
      { batch: 2, heads: 1, headDim: 56, queries: 5, keys: 33 },
      { batch: 1, heads: 2, headDim: 80, queries: 40, keys: 19 },
      { batch: 1, heads: 1, headDim: 128, queries: 1, keys: 9 },
      { batch: 1, heads: 2, headDim: 3, queries: 4, keys: 6 },
      { batch: 2, heads: 2, headDim: 64, queries: 1, keys: 1, fused: true },
      { batch: 2, heads: 2, headDim: 56, queries: 19, keys: 19, fused: true, stored: 'f16' },
      { batch: 1, heads: 1, headDim: 6, queries: 5, keys: 9, stored: 'f16' },
      { batch: 2, heads: 3, headDim: 12, queries: 41, keys: 41, fused: true, dropout: 0.1 },
      { batch: 2, heads: 2, headDim: 20, queries: 9, keys: 70, dropout: 0.4 },
      { batch: 1, heads: 2, headDim: 3, queries: 7, keys: 6, dropout: 0.5 },
      { batch: 2, heads: 2, headDim: 56, queries: 19, keys: 19, fused: true, stored: 'f16', dropout: 0.25 },
    ],
    bench: [
      { batch: 1, heads: 4, headDim: 32, queries: 72, keys: 72, fused: true },
      { batch: 1, heads: 8, headDim: 56, queries: 320, keys: 320, fused: true },
      { batch: 1, heads: 12, headDim: 64, queries: 320, keys: 320, fused: true },
      { batch: 1, heads: 16, headDim: 80, queries: 320, keys: 320, fused: true },
      { batch: 1, heads: 12, headDim: 64, queries: 16, keys: 320 },
      { batch: 1, heads: 12, headDim: 64, queries: 320, keys: 320, fused: true, dropout: 0.1 },
    ],
  },
  inputs(problem): Record<string, Input> {
    const p = sizes(problem);
    const width = p.heads * p.headDim;
    const dtype = p.stored;
    const values = () => dropoutKeys(3, p.queries, KEY_ROWS);
    const keys: Record<string, Input> =
      p.dropout === undefined ? {} : { keys: { shape: [KEY_ROWS, 2], dtype: 'u32', fill: { values } } };
    if (p.fused) return { qkv: { shape: [p.batch, p.queries, 3 * width], dtype }, ...keys };
    return {
      q: { shape: [p.batch, p.queries, width], dtype },
      kv: { shape: [p.batch, p.keys, 2 * width], dtype },
      ...keys,
    };
  },
  outputs: (p) => ({ out: [sizes(p).batch, sizes(p).queries, sizes(p).heads * sizes(p).headDim] }),
  outputType: (p) => sizes(p).stored ?? 'f32',
  record(r, t, problem, variant, tile) {
    const [q, k, v] = slices(t, sizes(problem));
    attention(r, q, k, v, sizes(problem), { out: t.out, dropout: problemDropout(t, problem), variant, tile });
  },
  tiles: {
    of: (device, problem, variant) => attentionTiles(device, variant, sizes(problem).headDim, sizes(problem).queries),
    rows: (problem) => sizes(problem).queries,
  },
  oracle(inputs, problem) {
    const p = sizes(problem);
    const { batch, heads, headDim, queries, keys } = p;
    const width = heads * headDim;
    const [q, kv] = p.fused ? [inputs.qkv, inputs.qkv] : [inputs.q, inputs.kv];
    const [qStride, kvStride, k0] = p.fused ? [3 * width, 3 * width, width] : [width, 2 * width, 0];
    const out = new Float64Array(batch * queries * width);
    for (let b = 0; b < batch; b++) {
      for (let h = 0; h < heads; h++) {
        const kept = p.dropout === undefined ? () => 1 : keptWeight(inputs.keys, p.dropout, b * heads + h);
        for (let i = 0; i < queries; i++) {
          const qAt = (b * queries + i) * qStride + h * headDim;
          const row = (j: number) => (b * keys + j) * kvStride + k0 + h * headDim;
          const scores = Array.from({ length: keys }, (_, j) => {
            let sum = 0;
            for (let c = 0; c < headDim; c++) sum += q[qAt + c] * kv[row(j) + c];
            return sum / Math.sqrt(headDim);
          });
          const top = Math.max(...scores);
          const weights = scores.map((s) => Math.exp(s - top));
          const total = weights.reduce((a, s) => a + s, 0);
          for (let c = 0; c < headDim; c++) {
            let sum = 0;
            for (let j = 0; j < keys; j++) sum += weights[j] * kept(i, j) * kv[row(j) + width + c];
            out[(b * queries + i) * width + h * headDim + c] = sum / total;
          }
        }
      }
    }
    return { out };
  },
  flops: (p) => 4 * sizes(p).batch * sizes(p).heads * sizes(p).queries * sizes(p).keys * sizes(p).headDim,
};
