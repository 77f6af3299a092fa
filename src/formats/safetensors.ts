/** Safetensors files on disk: 8-byte little-endian header length, JSON header, raw little-endian data. */
import { EmigmError } from '../errors.ts';
import {
  type DType,
  ELEMENT_BYTES,
  elementCount,
  holds,
  isDType,
  type StoredArray,
  storedArray,
  toFloat32,
} from './dtype.ts';
import { openRangeFile, writeAtomically } from './files.ts';
import { headerLength, parseHeader, type Tensor, type TensorInfo, tensorNamed } from './safetensors_parse.ts';

export { parseSafetensors, type SafetensorsBytes, type Tensor, type TensorInfo } from './safetensors_parse.ts';

/** An open safetensors file; tensors are read one by one, each only its own bytes. */
export interface SafetensorsFile {
  readonly path: string;
  readonly metadata: Record<string, string>;
  readonly tensors: Map<string, TensorInfo>;
  /** The tensor in its stored type. */
  read(name: string): Promise<Tensor>;
  /** The tensor as float32, whatever its stored type. */
  readFloat32(name: string): Promise<Float32Array<ArrayBuffer>>;
  close(): Promise<void>;
}

/** Opens and checks a safetensors file. Throws EmigmError('file') naming the file and the tensor. */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const file = await openRangeFile(path);
  try {
    const length = headerLength(await file.read(0, Math.min(8, file.size)), file.size, path);
    const { metadata, tensors, dataStart } = parseHeader(await file.read(8, length), file.size, path);
    const read = async (name: string): Promise<Tensor> => {
      const { dtype, shape, begin, end } = tensorNamed(tensors, name, path);
      const bytes = await file.read(dataStart + begin, end - begin);
      return { dtype, shape, data: storedArray(dtype, bytes.buffer, 0, bytes.length / ELEMENT_BYTES[dtype]) };
    };
    return {
      path,
      metadata,
      tensors,
      read,
      readFloat32: async (name) => {
        const { dtype, data } = await read(name);
        return toFloat32(dtype, data);
      },
      close: file.close,
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** A tensor to write; `data` may be a function, called when its turn comes, so that one tensor is held at a time. */
export interface TensorToWrite {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: StoredArray | (() => StoredArray | Promise<StoredArray>);
}

/**
 * Writes a safetensors file, under a temporary name first. Data starts at a multiple of 8 bytes and
 * tensors lie by falling element size, then name (as the reference implementation writes them), so
 * every tensor is aligned to its elements and the same input gives the same bytes.
 * Throws EmigmError('shape') when data does not fill a shape, 'file' when the disk refuses.
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorToWrite>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const compare = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);
  const sorted = [...tensors].sort(
    (a, b) => ELEMENT_BYTES[b.dtype] - ELEMENT_BYTES[a.dtype] || compare(a.name, b.name),
  );
  const header: [string, unknown][] = [];
  const keys = Object.keys(metadata).sort(compare);
  if (keys.length > 0) header.push(['__metadata__', Object.fromEntries(keys.map((key) => [key, metadata[key]]))]);
  const seen = new Set(['__metadata__']);
  let end = 0;
  for (const { name, dtype, shape } of sorted) {
    const count = elementCount(shape);
    if (!isDType(dtype) || count === undefined || seen.has(name)) {
      throw new EmigmError(
        'shape',
        `${path}: cannot write tensor "${name}" (${dtype} [${shape}]): bad or second of its name`,
      );
    }
    seen.add(name);
    const begin = end;
    end += count * ELEMENT_BYTES[dtype];
    header.push([name, { dtype, shape, data_offsets: [begin, end] }]);
  }
  // Built entry by entry: an object would move names that look like numbers to the front.
  const json = `{${header.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join(',')}}`;
  const text = new TextEncoder().encode(json);
  const head = new Uint8Array(Math.ceil((8 + text.length) / 8) * 8).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(head.length - 8), true);
  head.set(text, 8);

  await writeAtomically(path, async (put) => {
    await put(head);
    for (const { name, dtype, shape, data } of sorted) {
      const values = typeof data === 'function' ? await data() : data;
      if (!holds(dtype, values) || values.length !== elementCount(shape)) {
        throw new EmigmError(
          'shape',
          `${path}: tensor "${name}" is ${dtype} [${shape}] but its data is a ${values.constructor.name} of ${values.length}`,
        );
      }
      await put(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    }
  });
}
