/** State dicts of networks that carry no configuration (tokenizers): safetensors, or a PyTorch checkpoint. */
import type { DType } from '../formats/dtype.ts';
import { openRangeFile } from '../formats/files.ts';
import { openTorchCheckpoint, stateDict } from '../formats/pytorch.ts';
import { openSafetensors } from '../formats/safetensors.ts';

/** An open file of named tensors. Close it when no more are to be read. */
export interface StateDictFile {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, { readonly shape: readonly number[]; readonly dtype: DType }>;
  /** Numbers of one tensor, whatever it is stored in. */
  read(name: string): Promise<Float32Array<ArrayBuffer>>;
  close(): Promise<void>;
}

/**
 * Opens a file of tensors, of either kind. A PyTorch checkpoint may hold its state dict under `model` or `state_dict`,
 * or be one.
 * @throws EmigmError 'file' when it is missing, damaged or something else
 */
export async function openStateDict(path: string): Promise<StateDictFile> {
  const range = await openRangeFile(path);
  const head = await range.read(0, Math.min(9, range.size)).finally(() => range.close());
  if (head[8] === 0x7b) {
    // the { of a safetensors header
    const file = await openSafetensors(path);
    return { path, tensors: file.tensors, read: (name) => file.readFloat32(name), close: file.close };
  }
  const checkpoint = await openTorchCheckpoint(path);
  try {
    const { value } = checkpoint;
    const inner = value instanceof Map ? value.get('state_dict') : undefined;
    const tensors = stateDict(inner instanceof Map ? { ...checkpoint, value: inner } : checkpoint);
    return { path, tensors, read: (name) => tensors.get(name)!.readFloat32(), close: checkpoint.close };
  } catch (error) {
    await checkpoint.close();
    throw error;
  }
}
