/** A small KL-16 with formula weights, as a file. */
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { type Kl16Config, kl16Shapes } from '../../src/models/kl16/config.ts';
import { formulaWeight } from './formula.ts';

/** Two pixels a latent, three channels. */
export const toyKl16: Kl16Config = {
  width: 32,
  multipliers: [1, 2],
  blocks: 1,
  attention: [1],
  latent: 3,
  channels: 3,
  image: 3,
};

/** Writes the autoencoder as safetensors under `path`; another `gain`, other weights. */
export async function writeToyKl16(path: string, config: Kl16Config = toyKl16, gain = 1): Promise<string> {
  const tensors = [...kl16Shapes(config)].map(([name, shape]) => ({
    name,
    dtype: 'F32' as const,
    shape,
    data: async () => formulaWeight(name, shape, gain),
  }));
  await writeSafetensors(path, tensors, {});
  return path;
}
