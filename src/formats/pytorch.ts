/**
 * PyTorch checkpoints (`.pth`, as torch.save writes them), zip and legacy, without executing anything.
 * Only the pickle is read at once; tensors are read from their place in the file when asked for, so
 * that a file may be larger than memory.
 */
import { EmigmError } from '../errors.ts';
import { openRangeFile, type RangeFile } from './files.ts';
import { quote } from './quote.ts';
import { TorchNamespace } from './torch_globals.ts';
import { readLegacy } from './torch_legacy.ts';
import { TorchTensor } from './torch_tensor.ts';
import { readTorchZip } from './torch_zip.ts';

export { TorchNamespace } from './torch_globals.ts';
export { TorchTensor } from './torch_tensor.ts';

/** An open checkpoint. `close` it when no more tensors are to be read. */
export interface TorchCheckpoint {
  readonly path: string;
  /** What was saved: dicts as Map, lists and tuples as arrays, tensors as TorchTensor, a Namespace as TorchNamespace. */
  readonly value: unknown;
  close(): Promise<void>;
}

/** Opens a `.pth` file. Throws EmigmError('file'): missing, truncated, damaged, or asking for a foreign global. */
export async function openTorchCheckpoint(path: string): Promise<TorchCheckpoint> {
  const file = await openRangeFile(path);
  try {
    return { path, value: await readValue(file), close: file.close };
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function readValue(file: RangeFile): Promise<unknown> {
  const magic = await file.read(0, Math.min(4, file.size));
  if (magic[0] === 0x50 && magic[1] === 0x4b) return readTorchZip(file); // PK
  if (magic[0] === 0x80) return readLegacy(file); // a pickle
  throw new EmigmError('file', `${file.path}: neither a zip file nor a pickle, so no PyTorch checkpoint`);
}

/** Which weights of a checkpoint: the trained ones, their moving average, or a file that is a state dict itself. */
export type StateDictName = 'model' | 'model_ema' | 'plain';

/**
 * The tensors of a checkpoint by name, in the order of the file. Without `which`: `model` where there
 * is one, else `model_ema`, else the file itself. Throws EmigmError('file') when it is not there or holds
 * something else than tensors.
 */
export function stateDict(checkpoint: TorchCheckpoint, which?: StateDictName): Map<string, TorchTensor> {
  const { path, value } = checkpoint;
  if (!(value instanceof Map)) throw new EmigmError('file', `${path}: holds no dict of tensors`);
  const chosen = which ?? (['model', 'model_ema'] as const).find((name) => value.has(name)) ?? 'plain';
  const dict = chosen === 'plain' ? value : value.get(chosen);
  if (!(dict instanceof Map)) {
    const keys = [...value.keys()].slice(0, 8).map(quote).join(', ');
    throw new EmigmError('file', `${path}: has no state dict "${chosen}"; its keys are ${keys || 'none'}`);
  }
  for (const [name, tensor] of dict) {
    if (typeof name !== 'string' || !(tensor instanceof TorchTensor)) {
      throw new EmigmError('file', `${path}: entry ${quote(name)} of its ${chosen} state dict is not a tensor`);
    }
  }
  return dict as Map<string, TorchTensor>;
}

/** The arguments that the model was trained with (key `args`), as a plain record; undefined when there are none. */
export function args(checkpoint: TorchCheckpoint): Record<string, unknown> | undefined {
  if (!(checkpoint.value instanceof Map)) return undefined;
  const value = checkpoint.value.get('args');
  const fields = value instanceof TorchNamespace ? value.fields : value;
  if (!(fields instanceof Map)) return undefined;
  let budget = 100_000; // a small pickle can spell an endless tree, by sharing or by holding itself
  const plain = (node: unknown, depth: number): unknown => {
    if (budget-- <= 0 || depth > 32) {
      throw new EmigmError('file', `${checkpoint.path}: its args are nested too deeply or too large`);
    }
    if (node instanceof TorchNamespace) return plain(node.fields, depth);
    if (node instanceof Map) {
      const record: Record<string, unknown> = Object.create(null);
      for (const [key, item] of node) {
        if (typeof key === 'string' || typeof key === 'number') record[key] = plain(item, depth + 1);
      }
      return record;
    }
    if (node instanceof Set) return [...node].map((item) => plain(item, depth + 1));
    if (Array.isArray(node)) return node.map((item) => plain(item, depth + 1));
    return node instanceof TorchTensor ? undefined : node;
  };
  return plain(fields, 0) as Record<string, unknown>;
}
