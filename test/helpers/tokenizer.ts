/** Small autoencoders with formula weights, as files. */
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { type DcAeConfig, dcAeShapes } from '../../src/models/dc_ae/config.ts';
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

/** Four pixels a latent, four channels. */
export const toyDcAe: DcAeConfig = {
  encoder: [
    { width: 0, depth: 0, block: 'residual', norm: 'rms' },
    { width: 16, depth: 1, block: 'residual', norm: 'rms' },
    { width: 32, depth: 1, block: 'attention', norm: 'rms' },
  ],
  decoder: [
    { width: 0, depth: 0, block: 'residual', norm: 'rms' },
    { width: 16, depth: 1, block: 'residual', norm: 'batch' },
    { width: 32, depth: 1, block: 'attention', norm: 'rms' },
  ],
  channels: 4,
  image: 3,
  scales: [],
};

/** Writes a KL-16 as safetensors under `path`; another `gain`, other weights. */
export function writeToyKl16(path: string, config: Kl16Config = toyKl16, gain = 1): Promise<string> {
  return write(path, kl16Shapes(config), gain);
}

/** Writes a DC-AE as safetensors under `path`. */
export function writeToyDcAe(path: string, config: DcAeConfig = toyDcAe): Promise<string> {
  return write(path, dcAeShapes(config), 1);
}

async function write(path: string, shapes: ReadonlyMap<string, readonly number[]>, gain: number): Promise<string> {
  const tensors = [...shapes].map(([name, shape]) => ({
    name,
    dtype: 'F32' as const,
    shape,
    data: async () => formulaWeight(name, shape, gain),
  }));
  await writeSafetensors(path, tensors, {});
  return path;
}
