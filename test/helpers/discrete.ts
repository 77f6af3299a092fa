/** A toy model of codes with random weights, and a toy codebook. */
import type { Codebook } from '../../src/formats/codebook.ts';
import { type DiscreteConfig, discreteShapes } from '../../src/models/discrete/config.ts';
import type { WeightSource } from '../../src/nn/weights.ts';
import { formulaWeight } from './golden.ts';
import { random } from './numbers.ts';
import { toyConfig } from './toy.ts';

const { headDepth: _, headWidth: __, ...trunk } = toyConfig;

export const toyDiscrete: DiscreteConfig = { ...trunk, mae: false, maskGuidance: false, codes: 12 };

export const toyCodebook: Codebook = {
  codes: Float32Array.from(random(5).normal(12 * 12)),
  size: 12,
  channels: 3,
  patch: 2,
  dataScale: 1.6,
};

/** Weights by formula; logits scaled up so that codes differ in probability. */
export function toyDiscreteSource(config: DiscreteConfig, logitScale = 8): WeightSource {
  const shapes = discreteShapes(config);
  return {
    shape: (name) => shapes.get(name)!,
    read: async (name) => {
      const values = formulaWeight(name, [...shapes.get(name)!], 1);
      return name.startsWith('logits') ? values.map((x) => logitScale * x) : values;
    },
  };
}
