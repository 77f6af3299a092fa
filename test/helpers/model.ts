/** Models out of golden files. */
import type { WeightSource } from '../../src/nn/weights.ts';
import type { Golden } from './golden.ts';

/** Parameters that a golden file stores as `<prefix><official name>`. */
export function goldenSource(golden: Golden, prefix = 'param.'): WeightSource {
  return {
    shape: (name) => golden.shape(`${prefix}${name}`),
    read: async (name) => golden.f32(`${prefix}${name}`),
  };
}
