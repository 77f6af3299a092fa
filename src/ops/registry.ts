/** Every op, for tests and benchmarks to walk. */
import { activationOp } from './activation.ts';
import { argmaxOp } from './argmax.ts';
import { attentionOp } from './attention.ts';
import { attentionGradient } from './attention_backward.ts';
import { guideLogitsOp, logitThresholdOp, sampleCodesOp } from './categorical.ts';
import { codeRowsOp, positionListOp, revealConfidentOp } from './code_lists.ts';
import { convOp } from './conv_op.ts';
import { crossEntropyOp } from './cross_entropy.ts';
import { depthwiseGluOp } from './depthwise_glu.ts';
import { ddpmOp, dpmSolverOp, normalOp, sinusoidOp } from './diffusion.ts';
import { dropoutOp } from './dropout.ts';
import { gateOp } from './elementwise.ts';
import { groupNormOp } from './group_norm.ts';
import { layoutOp, posteriorOp } from './image.ts';
import { layernormOp } from './layernorm.ts';
import { layernormGradient } from './layernorm_backward.ts';
import { linearAttentionOp } from './linear_attention.ts';
import { headLossOp, qSampleOp } from './loss.ts';
import { matmulOp } from './matmul.ts';
import { matmulGradient } from './matmul_backward.ts';
import { meanTokensOp } from './mean_tokens.ts';
import type { Op } from './op.ts';
import { adamwOp, gradNormOp, scaleOp } from './optimizer.ts';
import { pixelShuffleOp, pixelUnshuffleOp } from './pixel_shuffle.ts';
import { rmsNormOp } from './rms_norm.ts';
import { concatOp, poolOp } from './pool.ts';
import { resizeOp } from './resize.ts';
import { decoderInputOp, encoderInputOp, gatherOp, patchifyOp, replaceMaskedOp, scatterOp } from './tokens.ts';
import {
  decoderInputGradient,
  encoderInputGradient,
  gatherGradient,
  replaceMaskedGradient,
  scatterGradient,
} from './tokens_backward.ts';
import { wideAttentionOp } from './wide_attention.ts';

export const ops: readonly Op[] = [
  { ...matmulOp, gradient: matmulGradient },
  { ...attentionOp, gradient: attentionGradient },
  { ...layernormOp, gradient: layernormGradient },
  activationOp,
  gateOp,
  dropoutOp,
  { ...gatherOp, gradient: gatherGradient },
  { ...scatterOp, gradient: scatterGradient },
  { ...encoderInputOp, gradient: encoderInputGradient },
  { ...decoderInputOp, gradient: decoderInputGradient },
  { ...replaceMaskedOp, gradient: replaceMaskedGradient },
  patchifyOp,
  meanTokensOp,
  sinusoidOp,
  dpmSolverOp,
  ddpmOp,
  normalOp,
  qSampleOp,
  headLossOp,
  crossEntropyOp,
  guideLogitsOp,
  logitThresholdOp,
  sampleCodesOp,
  revealConfidentOp,
  positionListOp,
  codeRowsOp,
  argmaxOp,
  gradNormOp,
  adamwOp,
  scaleOp,
  convOp,
  groupNormOp,
  wideAttentionOp,
  layoutOp,
  posteriorOp,
  pixelUnshuffleOp,
  pixelShuffleOp,
  rmsNormOp,
  linearAttentionOp,
  depthwiseGluOp,
  poolOp,
  concatOp,
  resizeOp,
];
