/** KL-16 files as users have them: `kl16.ckpt`, a PyTorch checkpoint, or the same tensors as safetensors. */
import type { WeightSource } from '../../nn/weights.ts';
import { openStateDict } from '../state_dict.ts';
import { inferKl16, type Kl16Config } from './config.ts';

/** An open KL-16 file, checked; the source of weights for `Kl16.load`. Close it afterwards. */
export interface Kl16File extends WeightSource {
  readonly path: string;
  readonly config: Kl16Config;
  /** Parameters in the order of the file. */
  names(): string[];
  close(): Promise<void>;
}

/** Parts of training checkpoints that are no part of the network: the discriminator and perceptual loss. */
const NOT_THE_NETWORK = /^loss\./;

/**
 * Opens and checks a KL-16 autoencoder; sizes are told by the shapes.
 * @throws EmigmError 'file' for a damaged file, 'model' for other tensors than a KL-16 has
 */
export async function openKl16(path: string): Promise<Kl16File> {
  const file = await openStateDict(path);
  try {
    const entries = [...file.tensors].filter(([name]) => !NOT_THE_NETWORK.test(name));
    const shapes = new Map(entries.map(([name, { shape }]) => [name, shape]));
    return {
      path,
      config: inferKl16(shapes, path),
      names: () => [...shapes.keys()],
      shape: (name) => shapes.get(name)!,
      read: file.read,
      close: file.close,
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}
