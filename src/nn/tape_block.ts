/** The pre-norm transformer block on a tape: x + proj(attention(LN x)), then + fc2(gelu(fc1(LN x))). */
import type { Tensor } from '../gpu/tensor.ts';
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

/** The block's output for x[batch, length, width]; x stays, since the backward pass reads it. */
export function transformerBlock(tape: Tape, x: Tensor, block: TrainedBlock, batch: number, length: number): Tensor {
  const { width, heads } = block;
  const qkv = tape.linear(tape.layernorm(x, width, { affine: block.norm1 }), block.qkv);
  const headDim = width / heads;
  const mixed = tape.attention(qkv, { batch, heads, headDim, queries: length, keys: length });
  const middle = tape.linear(mixed, block.proj, { residual: x });
  const hidden = tape.linear(tape.layernorm(middle, width, { affine: block.norm2 }), block.fc1, { activation: 'gelu' });
  return tape.linear(hidden, block.fc2, { residual: middle });
}
