/** Memory that sampling takes on the device, from the configuration alone. */
import { type ModelConfig, parameterCounts, sequenceLength, tokenDim } from './config.ts';

export interface MemoryEstimate {
  /** Bytes of the weights. */
  weights: number;
  /** Bytes of the activations at their widest point. */
  activations: number;
  total: number;
}

const BYTES = { f32: 4, f16: 2 } as const;

/**
 * Estimated device memory for sampling `batch` images at once with guidance (so rows are doubled): weights, the
 * tokens and conditions that live through a step, and the widest of encoder, decoder and head.
 *
 * @param dtype how weights and activations are stored
 */
export function samplingMemory(config: ModelConfig, batch: number, dtype: 'f32' | 'f16' = 'f32'): MemoryEstimate {
  const bytes = BYTES[dtype];
  const images = 2 * batch;
  const length = sequenceLength(config);
  const slots = images * (length + config.bufferSize);
  const tokens = images * length;
  // A block holds its input and the larger of: norm, q k v and the attention's output; norm and the MLP's hidden layer.
  const block = (width: number) => slots * width * (1 + Math.max(1 + 3 + 1, 1 + config.mlpRatio));
  // A residual block of the head holds h, the condition, its SiLU, shift, scale and gate, norm and hidden layer.
  const head = tokens * config.headWidth * (1 + 1 + 1 + 3 + 2);
  const widest = Math.max(block(config.encoderWidth), slots * config.encoderWidth + block(config.decoderWidth), head);
  const kept = tokens * (config.decoderWidth + 8 * tokenDim(config));
  const weights = parameterCounts(config).total * bytes;
  const activations = (widest + kept) * bytes;
  return { weights, activations, total: weights + activations };
}
