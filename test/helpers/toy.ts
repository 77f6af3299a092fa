/** A toy model with random weights, for tests of the sampler and the library. */
import { type ModelConfig, parameterShapes } from '../../src/models/config.ts';
import type { WeightSource } from '../../src/nn/weights.ts';
import { formulaWeight } from './golden.ts';

export const toyConfig: ModelConfig = {
  imageSize: 8,
  vaeStride: 1,
  patchSize: 2,
  channels: 3,
  classes: 3,
  bufferSize: 2,
  encoderWidth: 32,
  encoderDepth: 1,
  encoderHeads: 2,
  decoderWidth: 32,
  decoderDepth: 2,
  decoderHeads: 2,
  headDepth: 1,
  headWidth: 32,
  mae: true,
  maskGuidance: true,
  mlpRatio: 4,
};

export function toySource(config: ModelConfig): WeightSource {
  const shapes = parameterShapes(config);
  return {
    shape: (name) => shapes.get(name)!,
    read: async (name) => formulaWeight(name, shapes.get(name)!, 1),
  };
}
