/** Attention with one wide head, as autoencoders have it in their smallest maps: the scores are stored. */
import { EmigmError } from '../errors.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { attentionOp, type Slice } from './attention.ts';
import { grid1d, type Op, type Problem } from './op.ts';

export interface WideAttentionShape {
  batch: number;
  headDim: number;
  queries: number;
  keys: number;
}

/**
 * out[batch, queries, headDim] = softmax(q k^T / sqrt(headDim)) v. Three dispatches: scores, softmax, values; the
 * scores take batch * queries * keys floats. For heads wider than `attention` has registers for; all operands f32.
 * @throws EmigmError 'shape' when the head, a stride or an offset is no multiple of four
 */
export function wideAttention(
  r: Recorder,
  q: Slice,
  k: Slice,
  v: Slice,
  { batch, headDim, queries, keys }: WideAttentionShape,
  output?: Tensor,
): Tensor {
  if ([headDim, q.stride, q.offset, k.stride, k.offset, v.offset].some((n) => n % 4 !== 0) || k.stride !== v.stride) {
    throw new EmigmError(
      'shape',
      `wide attention: head ${headDim}, strides and offsets are multiples of 4, k and v have the same stride`,
    );
  }
  const quads = Math.ceil(keys / 4);
  const queryQuads = Math.ceil(queries / 4);
  const scores = r.temp([batch, queries, quads * 4], 'f32', 'attention scores');
  const sizes = { batch, q_len: queries, kv_len: keys, head_dim: headDim, kv_stride: k.stride };
  r.call({
    op: 'attention',
    kernel: { file: 'attention/wide_scores' },
    operands: { q: q.tensor, k: k.tensor, scores },
    params: { ...sizes, q_stride: q.stride, q_offset: q.offset, k_offset: k.offset, scale: 1 / Math.sqrt(headDim) },
    grid: grid1d(batch * queryQuads * quads),
    flops: 2 * batch * queries * keys * headDim,
  });
  const rows = batch * queries;
  r.call({
    op: 'attention',
    kernel: { file: 'attention/wide_softmax' },
    operands: { scores },
    params: { rows, length: keys },
    grid: grid1d(64 * rows),
  });
  const out = output ?? r.temp([batch, queries, headDim], 'f32', 'attention out');
  r.call({
    op: 'attention',
    kernel: { file: 'attention/wide_values' },
    operands: { p: scores, v: v.tensor, out },
    params: { ...sizes, v_offset: v.offset },
    grid: grid1d((batch * queryQuads * headDim) / 4),
    flops: 2 * batch * queries * keys * headDim,
  });
  return out;
}

const shapeOf = (p: Problem) => p as unknown as WideAttentionShape;
/** The same problem as `attention` has it: one head, q, k and v fused or apart. */
const asAttention = (p: Problem): Problem => ({ ...p, heads: 1 });

export const wideAttentionOp: Op = {
  name: 'wide attention',
  variants: () => ['wide'],
  problems: {
    test: [
      { batch: 2, headDim: 20, queries: 6, keys: 6, fused: true },
      { batch: 1, headDim: 512, queries: 9, keys: 9, fused: true },
      { batch: 2, headDim: 12, queries: 5, keys: 83 },
      { batch: 1, headDim: 8, queries: 3, keys: 300 },
      { batch: 2, headDim: 64, queries: 1, keys: 1, fused: true },
    ],
    bench: [
      { batch: 1, headDim: 512, queries: 256, keys: 256, fused: true },
      { batch: 1, headDim: 512, queries: 1024, keys: 1024, fused: true },
    ],
  },
  inputs: (p) => attentionOp.inputs(asAttention(p)),
  outputs: (p) => ({ out: [shapeOf(p).batch, shapeOf(p).queries, shapeOf(p).headDim] }),
  record(r, t, problem) {
    const width = shapeOf(problem).headDim;
    const at = (tensor: Tensor, parts: number, i: number) => ({ tensor, stride: parts * width, offset: i * width });
    const [q, k, v] = t.qkv
      ? [at(t.qkv, 3, 0), at(t.qkv, 3, 1), at(t.qkv, 3, 2)]
      : [at(t.q, 1, 0), at(t.kv, 2, 0), at(t.kv, 2, 1)];
    wideAttention(r, q, k, v, shapeOf(problem), t.out);
  },
  oracle: (inputs, p) => attentionOp.oracle(inputs, asAttention(p)),
  flops: (p) => attentionOp.flops(asAttention(p)),
};
