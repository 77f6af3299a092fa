/**
 * The legacy form of PyTorch checkpoints: five pickles (a magic number, the protocol, the machine, the
 * value, the keys of its storages), then each storage in the order of the keys: its number of elements
 * in 8 bytes, then its elements.
 */
import { EmigmError } from '../errors.ts';
import { ELEMENT_BYTES } from './dtype.ts';
import type { RangeFile } from './files.ts';
import { PickleEnded, unpickle } from './pickle.ts';
import { quote } from './quote.ts';
import { torchMeaning } from './torch_globals.ts';
import type { StorageSource, TorchStorage } from './torch_tensor.ts';

const MAGIC = 0x1950a86a20f9469cfc6cn;
const PROTOCOL = 1001;
const MAX_PICKLE_BYTES = 1 << 28;

/** Reads the pickles of a legacy checkpoint; its tensors stay in the file. Throws EmigmError('file'). */
export async function readLegacy(file: RangeFile): Promise<unknown> {
  // The length of the pickles is nowhere told: read a part, and a larger one when it was too small.
  const limit = Math.min(file.size, MAX_PICKLE_BYTES);
  for (let length = Math.min(limit, 1 << 20); ; length = Math.min(limit, 4 * length)) {
    const bytes = await file.read(0, length);
    try {
      return await readPickles(file, bytes);
    } catch (error) {
      if (!(error instanceof PickleEnded) || length === limit) throw error;
    }
  }
}

async function readPickles(file: RangeFile, bytes: Uint8Array): Promise<unknown> {
  const fail = (what: string): never => {
    throw new EmigmError('file', `${file.path}: ${what}`);
  };
  const used = new Map<string, TorchStorage>();
  const starts = new Map<string, number>();
  const source: StorageSource = {
    file,
    locate: async (storage) => starts.get(storage.key) ?? fail(`storage ${storage.key} is missing from the file`),
  };
  const meaning = torchMeaning(file.path, source);
  const persistent = (id: unknown) => {
    const storage = meaning.persistent(id) as TorchStorage;
    used.set(storage.key, storage.root);
    return storage;
  };
  let at = 0;
  const next = () => {
    const { value, end } = unpickle(bytes, at, { ...meaning, persistent });
    at = end;
    return value;
  };
  if (next() !== MAGIC) fail('a pickle, but without the magic number of a PyTorch checkpoint');
  const protocol = next();
  if (protocol !== PROTOCOL) fail(`legacy protocol ${quote(protocol)}; only ${PROTOCOL} is read`);
  const machine = next();
  if (!(machine instanceof Map) || machine.get('little_endian') !== true) {
    fail('was written on a big-endian machine; only little-endian is read');
  }
  const value = next();
  const keys = next();
  if (!Array.isArray(keys)) return fail('has no list of storages after its pickle');

  for (const key of keys) {
    const storage = used.get(key);
    if (!storage || starts.has(key))
      return fail(`lists storage ${quote(key)}, which its pickle does not use, or twice`);
    if (at + 8 > file.size) return fail(`ends before storage ${key}; truncated`);
    const head = await file.read(at, 8);
    const count = new DataView(head.buffer).getBigUint64(0, true);
    if (count !== BigInt(storage.length)) {
      return fail(`storage ${key} has ${count} elements but its pickle says ${storage.length}`);
    }
    starts.set(key, at + 8);
    at += 8 + storage.length * ELEMENT_BYTES[storage.dtype];
    if (at > file.size) return fail(`ends inside storage ${key}; truncated`);
  }
  for (const key of used.keys()) if (!starts.has(key)) return fail(`storage ${key} is missing from the file`);
  return value;
}
