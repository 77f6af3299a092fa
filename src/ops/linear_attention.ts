/** ReLU linear attention over the pixels of a map (EfficientViT's LiteMLA), in linear or quadratic order of sums. */
import { EmigmError } from '../errors.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { describeTensor, type Tensor } from '../gpu/tensor.ts';
import { grid1d, type Op, type Problem } from './op.ts';

export interface LinearAttentionOptions {
  /** Channels of a head, a multiple of 4; default 32. */
  headDim?: number;
  /** Added to the sum of weights; default 1e-15 as the official code has it. */
  eps?: number;
  /** A tensor of more heads, [batch, pixels, heads, headDim], of which those from `head` on are written. */
  out?: { tensor: Tensor; head: number };
  variant?: 'linear' | 'quadratic';
}

/** Pixels whose sums are taken apart: enough stretches to fill a GPU, each long enough to be worth its sums. */
function stretchesOf(pixels: number): { stretch: number; stretches: number } {
  const stretch = Math.max(32, Math.ceil(pixels / 64));
  return { stretch, stretches: Math.ceil(pixels / stretch) };
}

/**
 * out[batch, pixels, heads headDim]: for each pixel and head the mean of v over all pixels m of the image with weights
 * relu(q) . relu(k[m]). `qkv` is [batch, ..., 3 heads headDim]: q, k and v of a head beside each other. Maps of no
 * more pixels than a head has channels are summed by pairs of pixels, others by sums over all keys (three dispatches).
 * All f32.
 * @throws EmigmError 'shape' when channels are no whole heads, or `out` has no room for them
 */
export function linearAttention(r: Recorder, qkv: Tensor, options: LinearAttentionOptions = {}): Tensor {
  const { headDim = 32, eps = 1e-15 } = options;
  const [batch, channels] = [qkv.shape[0], qkv.shape.at(-1)!];
  const heads = channels / 3 / headDim;
  const pixels = qkv.size / batch / channels;
  const out = options.out?.tensor ?? r.temp([...qkv.shape.slice(0, -1), channels / 3], 'f32', 'linear attention out');
  const firstHead = options.out?.head ?? 0;
  const outHeads = out.size / batch / pixels / headDim;
  if (
    !Number.isInteger(heads) ||
    headDim % 4 !== 0 ||
    headDim > 64 ||
    !Number.isInteger(outHeads) ||
    firstHead + heads > outHeads
  ) {
    throw new EmigmError(
      'shape',
      `linear attention: qkv is ${describeTensor(qkv)} (${qkv.label}), out ${describeTensor(out)}: heads of ` +
        `${headDim} wanted (64 at most), from head ${firstHead} on`,
    );
  }
  const consts = { HEAD_DIM: headDim };
  const params = { batch, pixels, heads, out_heads: outHeads, first_head: firstHead, eps };
  const variant = options.variant ?? (pixels > headDim ? 'linear' : 'quadratic');
  if (variant === 'quadratic') {
    r.call({
      op: 'linear attention',
      kernel: { file: 'attention/linear_attention_quadratic', consts },
      operands: { qkv, out },
      params,
      grid: grid1d((batch * pixels * heads * headDim) / 4),
      flops: 4 * batch * heads * pixels * pixels * headDim,
    });
    return out;
  }
  const { stretch, stretches } = stretchesOf(pixels);
  const size = ((headDim + 1) * headDim) / 4;
  const partial = r.temp([batch, heads, stretches, size * 4], 'f32', 'linear attention partial sums');
  r.call({
    op: 'linear attention',
    kernel: { file: 'attention/linear_attention_sums', consts },
    operands: { qkv, partial },
    params: { pixels, heads, stretch, stretches },
    grid: [stretches, heads, batch],
    flops: 2 * batch * heads * pixels * headDim * (headDim + 1),
  });
  const sums = r.temp([batch, heads, size * 4], 'f32', 'linear attention sums');
  r.call({
    op: 'linear attention',
    kernel: { file: 'attention/linear_attention_combine', consts },
    operands: { partial, sums },
    params: { rows: batch * heads, stretches },
    grid: grid1d(batch * heads * size),
    flops: batch * heads * stretches * size * 4,
  });
  r.call({
    op: 'linear attention',
    kernel: { file: 'attention/linear_attention', consts },
    operands: { qkv, sums, out },
    params,
    grid: grid1d((batch * Math.ceil(pixels / 4) * heads * headDim) / 4),
    flops: 2 * batch * heads * pixels * headDim * (headDim + 1),
  });
  return out;
}

interface LinearAttentionProblem {
  batch: number;
  pixels: number;
  heads: number;
  headDim: number;
  /** All queries of the first head are negative: no key has any weight. */
  silent?: boolean;
}
const sizes = (p: Problem) => p as unknown as LinearAttentionProblem;

export const linearAttentionOp: Op = {
  name: 'linear attention',
  variants: (_, p) => (sizes(p).pixels > sizes(p).headDim ? ['linear', 'quadratic'] : ['quadratic', 'linear']),
  problems: {
    test: [
      { batch: 2, pixels: 35, heads: 3, headDim: 32 },
      { batch: 1, pixels: 1, heads: 2, headDim: 32 },
      { batch: 3, pixels: 6, heads: 4, headDim: 32 },
      { batch: 2, pixels: 77, heads: 1, headDim: 8 },
      { batch: 1, pixels: 530, heads: 1, headDim: 16 },
      { batch: 1, pixels: 40, heads: 2, headDim: 32, silent: true },
    ],
    bench: [
      { batch: 1, pixels: 4096, heads: 16, headDim: 32 },
      { batch: 1, pixels: 1024, heads: 32, headDim: 32 },
      { batch: 1, pixels: 256, heads: 32, headDim: 32 },
    ],
  },
  inputs(problem) {
    const { batch, pixels, heads, headDim, silent } = sizes(problem);
    const values = (size: number) => {
      return Float32Array.from({ length: size }, (_, i) => {
        const isFirstQuery = i % (3 * heads * headDim) < headDim;
        return isFirstQuery ? -1 - (i % 7) : Math.sin(i * i);
      });
    };
    return { qkv: { shape: [batch, pixels, 3 * heads * headDim], ...(silent && { fill: { values } }) } };
  },
  outputs: (p) => ({ out: [sizes(p).batch, sizes(p).pixels, sizes(p).heads * sizes(p).headDim] }),
  record(r, t, problem, variant) {
    const { headDim } = sizes(problem);
    const out = { tensor: t.out, head: 0 };
    linearAttention(r, t.qkv, { headDim, out, variant: variant as 'linear' | 'quadratic' });
  },
  oracle({ qkv }, problem) {
    const { batch, pixels, heads, headDim } = sizes(problem);
    const out = new Float64Array(batch * pixels * heads * headDim);
    const at = (row: number, head: number, part: number) => ((row * heads + head) * 3 + part) * headDim;
    const relu = (v: number) => Math.max(v, 0);
    for (let row = 0; row < batch * pixels; row++) {
      const image = Math.floor(row / pixels) * pixels;
      for (let head = 0; head < heads; head++) {
        let total = 1e-15;
        const sums = new Float64Array(headDim);
        for (let m = image; m < image + pixels; m++) {
          let weight = 0;
          for (let e = 0; e < headDim; e++) weight += relu(qkv[at(row, head, 0) + e]) * relu(qkv[at(m, head, 1) + e]);
          total += weight;
          for (let d = 0; d < headDim; d++) sums[d] += weight * qkv[at(m, head, 2) + d];
        }
        for (let d = 0; d < headDim; d++) out[(row * heads + head) * headDim + d] = sums[d] / total;
      }
    }
    return { out };
  },
  flops(problem) {
    const { batch, pixels, heads, headDim } = sizes(problem);
    return 4 * batch * heads * pixels * headDim * (pixels > headDim ? headDim + 1 : pixels);
  },
};
