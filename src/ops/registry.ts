/** Every op, for tests and benchmarks to walk. */
import { attentionOp } from './attention.ts';
import { ddpmOp, dpmSolverOp, normalOp, sinusoidOp } from './diffusion.ts';
import { activationOp } from './elementwise.ts';
import { layernormOp } from './layernorm.ts';
import { matmulOp } from './matmul.ts';
import type { Op } from './op.ts';
import { decoderInputOp, encoderInputOp, gatherOp, patchifyOp, replaceMaskedOp, scatterOp } from './tokens.ts';

export const ops: readonly Op[] = [
  matmulOp,
  attentionOp,
  layernormOp,
  activationOp,
  gatherOp,
  scatterOp,
  encoderInputOp,
  decoderInputOp,
  replaceMaskedOp,
  patchifyOp,
  sinusoidOp,
  dpmSolverOp,
  ddpmOp,
  normalOp,
];
