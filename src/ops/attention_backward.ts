/** Backward of attention: probabilities are recomputed from the log-sum-exp that the forward pass kept. */
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { type AttentionShape, attention, attentionOp, problemDropout, type Slice, weightDropout } from './attention.ts';
import type { Dropout } from './dropout.ts';
import type { Gradient, GradientUse, Problem } from './op.ts';
import { backwardRows } from './tile_rows.ts';

export interface AttentionGradients {
  /** Laid out as q, k and v: of a fused qkv both are one tensor, else k and v lie in one. Written. */
  dQ: Tensor;
  dKv: Tensor;
  /** As in the forward pass, the keys unchanged since. */
  dropout?: Dropout;
  variant?: string;
}

function variants(device: Device, headDim: number): string[] {
  const { lanes, isCpu, hasSubgroups } = device;
  const subgroup = headDim % 4 === 0 && headDim <= 256 && hasSubgroups && (lanes === 4 || lanes === 8 || lanes === 16);
  const cpu = !subgroup ? [] : lanes === 4 ? ['quad', 'cpu'] : ['cpu'];
  return isCpu ? [...cpu, 'reference'] : ['reference', ...cpu];
}

/**
 * Gradients of `attention` with regard to q, k and v, from its output, the gradient of it (both
 * [batch, queries, heads * headDim]) and `lse` [batch, heads, queries]. All f32 or all f16.
 */
export function attentionBackward(
  r: Recorder,
  [q, k, v]: readonly [Slice, Slice, Slice],
  forward: { out: Tensor; lse: Tensor },
  dOut: Tensor,
  shape: AttentionShape,
  { dQ, dKv, dropout, variant: wanted }: AttentionGradients,
): void {
  const { batch, heads, headDim, queries, keys } = shape;
  const { lanes } = r.device;
  const odd = [q.stride, q.offset, k.stride, k.offset, v.offset].some((n) => n % 4 !== 0);
  const variant = odd ? 'reference' : (wanted ?? variants(r.device, headDim)[0]);
  const params = {
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
  };
  const half = q.tensor.dtype === 'f16';
  const scalar = { HEAD_DIM: headDim, ...(half && { Elem: 'f16' }) };
  const delta = r.temp([batch, heads, queries], 'f32', 'attention delta');
  r.call({
    op: 'attention backward',
    kernel: { file: 'attention/backward_delta', consts: scalar },
    operands: { out: forward.out, d_out: dOut, delta },
    params,
    grid: [Math.ceil(queries / 64), heads, batch],
    flops: 2 * batch * heads * queries * headDim,
  });
  const rowsFor = (count: number) =>
    variant === 'reference' ? 64 : variant === 'quad' ? 8 : backwardRows(lanes, headDim, count);
  const constsFor = (rows: number) =>
    variant === 'reference'
      ? scalar
      : {
          HEAD_DIM: headDim,
          ...(half && { Elem4: 'vec4<f16>' }),
          ...(variant === 'cpu' && { LANES: lanes, ROWS: rows }),
        };
  const queryRows = rowsFor(queries);
  const keyRows = rowsFor(keys);
  const common = { q: q.tensor, k: k.tensor, v: v.tensor, d_out: dOut, lse: forward.lse, delta, keys: dropout?.keys };
  const drop = weightDropout(dropout, shape);
  const products = 2 * batch * heads * queries * keys * headDim;
  r.call({
    op: 'attention backward',
    kernel: { file: `attention/backward_q_${variant}`, consts: constsFor(queryRows), overrides: drop.overrides },
    operands: { ...common, d_q: dQ },
    params: { ...params, ...drop.params },
    grid: [Math.ceil(queries / queryRows), heads, batch],
    flops: 3 * products,
  });
  r.call({
    op: 'attention backward',
    kernel: { file: `attention/backward_kv_${variant}`, consts: constsFor(keyRows), overrides: drop.overrides },
    operands: { ...common, d_kv: dKv },
    params: { ...params, ...drop.params },
    grid: [Math.ceil(keys / keyRows), heads, batch],
    flops: 4 * products,
  });
}

interface AttentionProblem extends AttentionShape {
  fused?: boolean;
}
const sizes = (p: Problem) => p as unknown as AttentionProblem;

export const attentionGradient: Gradient = {
  problems: [
    { batch: 2, heads: 3, headDim: 12, queries: 7, keys: 7, fused: true },
    { batch: 1, heads: 2, headDim: 20, queries: 17, keys: 9 },
    { batch: 1, heads: 1, headDim: 8, queries: 5, keys: 33 },
    { batch: 1, heads: 2, headDim: 3, queries: 4, keys: 6 },
    { batch: 2, heads: 2, headDim: 36, queries: 1, keys: 1, fused: true },
    { batch: 2, heads: 3, headDim: 4, queries: 19, keys: 19, fused: true, dropout: 0.3 },
    { batch: 1, heads: 2, headDim: 12, queries: 10, keys: 21, dropout: 0.1 },
    { batch: 1, heads: 1, headDim: 8, queries: 37, keys: 5, dropout: 0.5 },
    { batch: 1, heads: 2, headDim: 3, queries: 4, keys: 6, dropout: 0.4 },
  ],
  variants: (device, p) => variants(device, sizes(p).headDim),
  of: (p): Record<string, GradientUse> => (sizes(p).fused ? { qkv: 'written' } : { q: 'written', kv: 'written' }),
  inputs: (p) => attentionOp.inputs(p),
  record(r, t, problem, variant) {
    const { heads, headDim, queries, batch, fused } = sizes(problem);
    const width = heads * headDim;
    const [q, kv] = fused ? [t.qkv, t.qkv] : [t.q, t.kv];
    const slice = (tensor: Tensor, stride: number, offset: number): Slice => ({ tensor, stride, offset });
    const slices = [
      slice(q, fused ? 3 * width : width, 0),
      slice(kv, fused ? 3 * width : 2 * width, fused ? width : 0),
      slice(kv, fused ? 3 * width : 2 * width, fused ? 2 * width : width),
    ] as const;
    const lse = r.temp([batch, heads, queries], 'f32', 'lse');
    const dropout = problemDropout(t, problem);
    const out = attention(r, ...slices, sizes(problem), { lse, dropout });
    const [dQ, dKv] = fused ? [t.d_qkv, t.d_qkv] : [t.d_q, t.d_kv];
    attentionBackward(r, slices, { out, lse }, t.d_out, sizes(problem), { dQ, dKv, dropout, variant });
  },
};
