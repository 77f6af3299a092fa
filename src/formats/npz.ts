/** NumPy `.npz` files: zip archives of `.npy` arrays, stored or deflated. */
import { promisify } from 'node:util';
import { inflateRaw } from 'node:zlib';
import { zipSync } from 'fflate';
import { EmigmError } from '../errors.ts';
import { crc32 } from './crc32.ts';
import { openRangeFile, type RangeFile, writeAtomically } from './files.ts';
import { encodeNpy, parseNpy } from './npy.ts';
import { quote } from './quote.ts';
import type { Tensor } from './safetensors_parse.ts';
import { memberStart, readZipDirectory, type ZipMember } from './zip_directory.ts';

export { encodeNpy, parseNpy } from './npy.ts';

const inflate = promisify(inflateRaw);

/** The most that deflate can shrink is 1032 to 1; a member that claims more is damaged or a bomb. */
const MAX_RATIO = 1032;

/** Reads every array of a `.npz` file, by its name without `.npy`. Throws EmigmError('file'). */
export async function readNpz(path: string): Promise<Map<string, Tensor>> {
  const file = await openRangeFile(path);
  try {
    const arrays = new Map<string, Tensor>();
    for (const member of (await readZipDirectory(file)).values()) {
      if (!member.name.endsWith('.npy')) continue;
      const name = member.name.slice(0, -'.npy'.length);
      arrays.set(name, parseNpy(await readMember(file, member), `${path}: array ${quote(name)}`));
    }
    return arrays;
  } finally {
    await file.close();
  }
}

async function readMember(file: RangeFile, member: ZipMember): Promise<Uint8Array> {
  const where = `${file.path}: array ${quote(member.name)}`;
  const stored = await file.read(await memberStart(file, member), member.size);
  let bytes: Uint8Array = stored;
  if (member.method === 8) {
    if (member.fullSize > member.size * MAX_RATIO) {
      throw new EmigmError(
        'file',
        `${where} claims ${member.fullSize} bytes from ${member.size} deflated ones; damaged`,
      );
    }
    try {
      bytes = await inflate(stored, { maxOutputLength: Math.max(1, member.fullSize) });
    } catch (cause) {
      throw new EmigmError('file', `${where} cannot be inflated; damaged`, { cause });
    }
  } else if (member.method !== 0) {
    throw new EmigmError('file', `${where} is compressed by method ${member.method}; stored and deflated are read`);
  }
  if (bytes.length !== member.fullSize || crc32(bytes) !== member.crc) {
    throw new EmigmError('file', `${where} does not match its checksum; damaged`);
  }
  return bytes;
}

/** Reads one `.npy` file. Throws EmigmError('file'). */
export async function readNpy(path: string): Promise<Tensor> {
  const file = await openRangeFile(path);
  try {
    return parseNpy(await file.read(0, file.size), path);
  } finally {
    await file.close();
  }
}

/** Writes arrays as a `.npz` file under a temporary name first, stored, or deflated with `compress`. */
export async function writeNpz(
  path: string,
  arrays: Readonly<Record<string, Tensor>>,
  { compress = false } = {},
): Promise<void> {
  const files = Object.entries(arrays).map(([name, tensor]) => [`${name}.npy`, encodeNpy(tensor)]);
  // A fixed date, so that the same arrays give the same bytes.
  const zip = zipSync(Object.fromEntries(files), { level: compress ? 6 : 0, mtime: new Date(1980, 0, 1) });
  await writeAtomically(path, (put) => put(zip));
}

/** Writes one array as a `.npy` file, under a temporary name first. */
export async function writeNpy(path: string, tensor: Tensor): Promise<void> {
  const bytes = encodeNpy(tensor);
  await writeAtomically(path, (put) => put(bytes));
}
