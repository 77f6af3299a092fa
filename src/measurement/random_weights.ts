/** Numbers for benchmarks: cheap, and the same in every run. */
import type { Codebook } from '../formats/codebook.ts';
import { crc32 } from '../formats/crc32.ts';
import { type ModelConfig, parameterShapes } from '../models/config.ts';
import { type DiscreteConfig, discreteShapes, isDiscrete } from '../models/discrete/config.ts';
import type { WeightSource } from '../nn/weights.ts';
import type { InputSource } from '../ops/problem.ts';

/** Uniform numbers with the asked mean square: what is timed does not depend on their distribution. */
export function numbers(seed: number): InputSource {
  let state = seed >>> 0 || 1;
  const next = () => {
    state ^= state << 13; // Marsaglia 2003, xorshift
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
  const normal = (count: number, deviation: number) => {
    const out = new Float32Array(count);
    const scale = 2 * Math.sqrt(3) * deviation;
    for (let i = 0; i < count; i++) out[i] = scale * (next() - 0.5);
    return out;
  };
  return { next, normal };
}

/**
 * Random weights of any configuration, made when they are asked for: no file, and one parameter at a time in memory.
 * Scaled so that activations stay near 1: norms begin as the identity, matrices have deviation 1 / sqrt(inputs).
 */
export function randomWeights(config: ModelConfig | DiscreteConfig): WeightSource {
  const shapes = isDiscrete(config) ? discreteShapes(config) : parameterShapes(config);
  return {
    shape: (name) => shapes.get(name)!,
    read: async (name) => {
      const shape = shapes.get(name)!;
      const size = shape.reduce((a, b) => a * b, 1);
      if (shape.length === 1 && name.endsWith('.weight')) return new Float32Array(size).fill(1);
      const deviation = name.endsWith('.weight') && shape.length === 2 ? 1 / Math.sqrt(shape[1]) : 0.02;
      return numbers(crc32(new TextEncoder().encode(name))).normal(size, deviation);
    },
  };
}

/** A codebook of random numbers that fits the configuration: what is timed does not depend on them. */
export function randomCodebook({ codes: size, channels, patchSize: patch }: DiscreteConfig): Codebook {
  const codes = new Float32Array(numbers(size).normal(size * channels * patch * patch, 1));
  return { codes, size, channels, patch, dataScale: 1 };
}
