/** The pre-norm transformer block of ViT: x += proj(attention(LN x)); x += fc2(gelu(fc1(LN x))). */
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { attention } from '../ops/attention.ts';
import { layernorm, type Norm } from '../ops/layernorm.ts';
import { inputType, type Linear, linear } from '../ops/matmul.ts';
import { gatherRows, type Index, scatterRows } from '../ops/tokens.ts';
import type { WeightLoader } from './weights.ts';

interface Mlp {
  norm2: Norm;
  fc1: Linear;
  fc2: Linear;
}

export interface Block extends Mlp {
  width: number;
  heads: number;
  norm1: Norm;
  qkv: Linear;
  proj: Linear;
}

/** A block whose queries are computed for some of its rows only. */
export interface QueryBlock extends Omit<Block, 'qkv'> {
  q: Linear;
  kv: Linear;
}

async function loadRest(load: WeightLoader, name: string, width: number, heads: number) {
  return {
    width,
    heads,
    norm1: await load.norm(`${name}.norm1`),
    proj: await load.linear(`${name}.attn.proj`),
    norm2: await load.norm(`${name}.norm2`),
    fc1: await load.linear(`${name}.mlp.fc1`),
    fc2: await load.linear(`${name}.mlp.fc2`),
  };
}

/** A block by timm's parameter names under `name`. */
export async function loadBlock(load: WeightLoader, name: string, width: number, heads: number): Promise<Block> {
  return { ...(await loadRest(load, name, width, heads)), qkv: await load.linear(`${name}.attn.qkv`) };
}

/** The same parameters, with the queries' part of qkv apart. */
export async function loadQueryBlock(
  load: WeightLoader,
  name: string,
  width: number,
  heads: number,
): Promise<QueryBlock> {
  return {
    ...(await loadRest(load, name, width, heads)),
    q: await load.linear(`${name}.attn.qkv`, { rows: [0, width] }),
    kv: await load.linear(`${name}.attn.qkv`, { rows: [width, 3 * width] }),
  };
}

function mlp(r: Recorder, x: Tensor, { norm2, fc1, fc2 }: Mlp, width: number): void {
  const normal = layernorm(r, x, width, { affine: norm2, dtype: inputType(fc1) });
  const hidden = linear(r, normal, fc1, { activation: 'gelu', dtype: inputType(fc2) });
  linear(r, hidden, fc2, { out: x, accumulate: true });
}

/** Keys and values of a block that outlive its evaluation. */
export interface KeptKeys {
  /** [*, 2 width]: key and value of a row. */
  tensor: Tensor;
  /** Rows of `tensor` for the rows of x; rows of width `width` that hold their keys and values in the fused qkv. */
  own: Index;
  keysValues: Index;
  /** The rows of `tensor` that are attended to, so many for each batch entry; undefined: those of x alone. */
  attended?: { rows: Index; keys: number };
}

/** Applies the block to x[batch, length, width] in place: seven dispatches; with `kept` two or three more. */
export function block(r: Recorder, x: Tensor, weights: Block, batch: number, length: number, kept?: KeptKeys): void {
  const { width, heads, norm1, qkv, proj } = weights;
  const normal = layernorm(r, x, width, { affine: norm1, dtype: inputType(qkv) });
  const tensor = linear(r, normal, qkv, { dtype: inputType(proj) });
  const part = (offset: number) => ({ tensor, stride: 3 * width, offset });
  let [k, v, keys] = [part(width), part(2 * width), length];
  if (kept) {
    const pairs = gatherRows(r, tensor, kept.keysValues, 2 * batch * length, width);
    scatterRows(r, pairs, kept.own, batch * length, 2 * width, kept.tensor);
    if (kept.attended) {
      ({ keys } = kept.attended);
      const all = gatherRows(r, kept.tensor, kept.attended.rows, batch * keys, 2 * width);
      k = { tensor: all, stride: 2 * width, offset: 0 };
      v = { tensor: all, stride: 2 * width, offset: width };
    }
  }
  const shape = { batch, heads, headDim: width / heads, queries: length, keys };
  const mixed = attention(r, part(0), k, v, shape);
  linear(r, mixed, proj, { out: x, accumulate: true });
  mlp(r, x, weights, width);
}

/**
 * The block's output for some rows of x[batch, length, width] alone: `queries` rows for each batch entry, row numbers
 * (into batch * length) in `rows`. Keys and values still come from all rows, so the result is exact.
 * Returns [batch * queries, width]; x is left as it is.
 */
export function blockForRows(
  r: Recorder,
  x: Tensor,
  weights: QueryBlock,
  batch: number,
  length: number,
  rows: Index,
  queries: number,
): Tensor {
  const { width, heads, norm1, q, kv, proj } = weights;
  const normal = layernorm(r, x, width, { affine: norm1, dtype: inputType(kv) });
  const keysValues = linear(r, normal, kv, { dtype: inputType(proj) });
  const y = gatherRows(r, x, rows, batch * queries, width);
  const asked = linear(r, gatherRows(r, normal, rows, batch * queries, width), q, { dtype: inputType(proj) });
  const mixed = attention(
    r,
    { tensor: asked, stride: width, offset: 0 },
    { tensor: keysValues, stride: 2 * width, offset: 0 },
    { tensor: keysValues, stride: 2 * width, offset: width },
    { batch, heads, headDim: width / heads, queries, keys: length },
  );
  linear(r, mixed, proj, { out: y, accumulate: true });
  mlp(r, y, weights, width);
  return y;
}
