/** The pre-norm transformer block on a tape: x + proj(attention(LN x)), then + fc2(gelu(fc1(LN x))). */
import type { Tensor } from '../gpu/tensor.ts';
import type { Dropout } from '../ops/dropout.ts';
import type { Tape, TapeLinear, TapeNorm } from './tape.ts';

export interface TrainedBlock {
  width: number;
  heads: number;
  norm1: TapeNorm;
  qkv: TapeLinear;
  proj: TapeLinear;
  norm2: TapeNorm;
  fc1: TapeLinear;
  fc2: TapeLinear;
}

/** Places where a block drops something, in the order of their rows of keys. */
export const BLOCK_DROPOUTS = 4;

/** Dropout of attention weights, and of both projections and the hidden layer (timm's attn_drop and proj_drop). */
export interface BlockDropout {
  keys: Tensor;
  /** First of `BLOCK_DROPOUTS` rows of `keys`. */
  row: number;
  attention: number;
  projection: number;
}

/** The block's output for x[batch, length, width]; x stays, since the backward pass reads it. */
export function transformerBlock(
  tape: Tape,
  x: Tensor,
  block: TrainedBlock,
  batch: number,
  length: number,
  drop?: BlockDropout,
): Tensor {
  const { width, heads } = block;
  const at = (place: number, probability: number): Dropout | undefined =>
    drop && probability > 0 ? { keys: drop.keys, row: drop.row + place, probability } : undefined;
  const projection = (place: number) => at(place, drop?.projection ?? 0);
  const add = (input: Tensor, layer: TapeLinear, place: number, residual: Tensor) => {
    const dropped = projection(place);
    if (!dropped) return tape.linear(input, layer, { residual });
    return tape.dropout(tape.linear(input, layer), dropped, residual);
  };

  const qkv = tape.linear(tape.layernorm(x, width, { affine: block.norm1 }), block.qkv);
  const shape = { batch, heads, headDim: width / heads, queries: length, keys: length };
  const mixed = tape.attention(qkv, shape, at(0, drop?.attention ?? 0));
  const middle = add(mixed, block.proj, 1, x);
  const normal = tape.layernorm(middle, width, { affine: block.norm2 });
  const hidden = tape.linear(normal, block.fc1, { activation: 'gelu' });
  const dropped = projection(2);
  return add(dropped ? tape.dropout(hidden, dropped) : hidden, block.fc2, 3, middle);
}
