/** DC-AE files as users have them: `model.safetensors` of dc-ae-f32c32-in-1.0, or a PyTorch checkpoint of it. */
import type { WeightSource } from '../../nn/weights.ts';
import { openStateDict } from '../state_dict.ts';
import type { DcAeConfig } from './config.ts';
import { inferDcAe } from './infer.ts';

/** An open DC-AE file, checked; the source of weights for `DcAe.load`. Close it afterwards. */
export interface DcAeFile extends WeightSource {
  readonly path: string;
  readonly config: DcAeConfig;
  /** Entries in the order of the file. */
  names(): string[];
  close(): Promise<void>;
}

/**
 * Opens and checks a DC-AE; sizes are told by the shapes.
 * @throws EmigmError 'file' for a damaged file, 'model' for other tensors than a DC-AE has
 */
export async function openDcAe(path: string): Promise<DcAeFile> {
  const file = await openStateDict(path);
  try {
    const shapes = new Map([...file.tensors].map(([name, { shape }]) => [name, shape]));
    return {
      path,
      config: inferDcAe(shapes, path),
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
