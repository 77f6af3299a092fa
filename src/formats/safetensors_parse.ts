/** The safetensors layout in memory: no file access, for the browser too. */
import { EmigmError } from '../errors.ts';
import { type DType, ELEMENT_BYTES, elementCount, isDType, type StoredArray, storedArray, toFloat32 } from './dtype.ts';
import { quote } from './quote.ts';

/** Largest header accepted, as the reference implementation has it. */
export const MAX_HEADER_BYTES = 100_000_000;

/** Where a tensor lies: `begin` and `end` are bytes from the start of the data section. */
export interface TensorInfo {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

export interface Tensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: StoredArray;
}

export interface SafetensorsHeader {
  readonly metadata: Record<string, string>;
  readonly tensors: Map<string, TensorInfo>;
  /** Bytes from the start of the file to the data section. */
  readonly dataStart: number;
}

/** The first key that occurs twice in one object of a valid JSON text (JSON.parse keeps the last silently). */
function duplicateKey(json: string): string | undefined {
  const open: (Set<string> | undefined)[] = []; // a set for an object, undefined for an array
  const tokens = /"(?:[^"\\]|\\.)*"(\s*:)?|[{}[\]]/g;
  for (let match = tokens.exec(json); match; match = tokens.exec(json)) {
    const token = match[0];
    if (token === '{') open.push(new Set());
    else if (token === '[') open.push(undefined);
    else if (token === '}' || token === ']') open.pop();
    else if (match[1] !== undefined) {
      const key = JSON.parse(token.slice(0, token.length - match[1].length)) as string;
      const keys = open.at(-1)!;
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return undefined;
}

/** The length of the header, checked against the file: the first 8 bytes, little-endian. */
export function headerLength(first8: Uint8Array, fileBytes: number, file: string): number {
  if (first8.length < 8 || fileBytes < 8) {
    throw new EmigmError('file', `${file}: ${fileBytes} bytes are too few for a safetensors file`);
  }
  const length = new DataView(first8.buffer, first8.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(fileBytes - 8)) {
    throw new EmigmError(
      'file',
      `${file}: the header claims ${length} bytes but the file has ${fileBytes - 8} after the length; truncated, or not safetensors`,
    );
  }
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw new EmigmError(
      'file',
      `${file}: the header claims ${length} bytes; at most ${MAX_HEADER_BYTES} are accepted`,
    );
  }
  return Number(length);
}

/**
 * Checks the header (without its length) of a file of `fileBytes` bytes: a JSON object without
 * duplicate keys, each tensor's shape filling its bytes, tensors covering the data section without
 * overlap, hole or rest. Throws EmigmError('file') naming the file and the tensor.
 */
export function parseHeader(header: Uint8Array, fileBytes: number, file: string): SafetensorsHeader {
  const fail = (what: string, cause?: unknown): never => {
    throw new EmigmError('file', `${file}: ${what}`, { cause });
  };
  let root: unknown;
  try {
    const json = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(header);
    root = JSON.parse(json);
    const twice = duplicateKey(json);
    if (twice !== undefined) fail(`the header has the key ${quote(twice)} twice`);
  } catch (error) {
    if (error instanceof EmigmError) throw error;
    fail('the header is not UTF-8 JSON; damaged, or not safetensors', error);
  }
  if (typeof root !== 'object' || root === null || Array.isArray(root)) fail('the header is not a JSON object');

  const dataStart = 8 + header.length;
  const dataBytes = fileBytes - dataStart;
  const tensors = new Map<string, TensorInfo>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(root as object)) {
    if (name === '__metadata__') {
      metadata = checkMetadata(value, fail);
      continue;
    }
    const where = `tensor ${quote(name)}`;
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      fail(`${where} is not described by an object`);
    const { dtype, shape, data_offsets: offsets } = value as Record<string, unknown>;
    if (!isDType(dtype)) {
      return fail(`${where} has dtype ${quote(String(dtype))}; known are ${Object.keys(ELEMENT_BYTES).join(', ')}`);
    }
    const count = elementCount(shape);
    if (count === undefined)
      return fail(`${where} has a shape that is not a list of sizes: ${quote(JSON.stringify(shape) ?? 'none')}`);
    if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every((o) => Number.isSafeInteger(o) && o >= 0)) {
      return fail(`${where} has data_offsets that are not two byte positions`);
    }
    const [begin, end] = offsets as [number, number];
    if (begin > end || end > dataBytes) {
      fail(`${where} claims bytes ${begin} to ${end} of a data section of ${dataBytes}; truncated or damaged`);
    }
    const bytes = count * ELEMENT_BYTES[dtype];
    if (bytes !== end - begin) {
      fail(
        `${where} of shape [${(shape as number[]).join(', ')}] ${dtype} needs ${bytes} bytes but has ${end - begin}`,
      );
    }
    tensors.set(name, { dtype, shape: shape as number[], begin, end });
  }

  let covered = 0;
  let previous = '';
  const byPosition = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  for (const [name, { begin, end }] of byPosition) {
    if (begin < covered)
      fail(`tensors ${quote(previous)} and ${quote(name)} overlap at byte ${begin} of the data section`);
    if (begin > covered) fail(`bytes ${covered} to ${begin} before tensor ${quote(name)} belong to no tensor`);
    covered = end;
    previous = name;
  }
  if (covered !== dataBytes) fail(`the last ${dataBytes - covered} bytes of the data section belong to no tensor`);
  return { metadata, tensors, dataStart };
}

function checkMetadata(value: unknown, fail: (what: string) => never): Record<string, string> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) fail('__metadata__ is not an object');
  for (const [key, text] of Object.entries(value as object)) {
    if (typeof text !== 'string') fail(`__metadata__ ${quote(key)} is not a string`);
  }
  return value as Record<string, string>;
}

/** A whole safetensors file in memory. */
export interface SafetensorsBytes extends Omit<SafetensorsHeader, 'dataStart'> {
  /** The tensor in its stored type; shares memory with `bytes` where alignment allows. */
  read(name: string): Tensor;
  /** The tensor as float32, whatever its stored type. */
  readFloat32(name: string): Float32Array<ArrayBuffer>;
}

export function tensorNamed(tensors: Map<string, TensorInfo>, name: string, file: string): TensorInfo {
  const info = tensors.get(name);
  if (!info) throw new EmigmError('file', `${file}: has no tensor ${quote(name)}`);
  return info;
}

/** Parses a safetensors file held in memory; `file` names it in errors. Throws EmigmError('file'). */
export function parseSafetensors(bytes: Uint8Array, file = 'safetensors data'): SafetensorsBytes {
  const length = headerLength(bytes, bytes.length, file);
  const { metadata, tensors, dataStart } = parseHeader(bytes.subarray(8, 8 + length), bytes.length, file);
  const read = (name: string): Tensor => {
    const { dtype, shape, begin, end } = tensorNamed(tensors, name, file);
    const part = bytes.subarray(dataStart + begin, dataStart + end);
    const aligned = part.byteOffset % ELEMENT_BYTES[dtype] === 0 && part.buffer instanceof ArrayBuffer;
    const whole = (aligned ? part : new Uint8Array(part)) as Uint8Array<ArrayBuffer>;
    const data = storedArray(dtype, whole.buffer, whole.byteOffset, whole.length / ELEMENT_BYTES[dtype]);
    return { dtype, shape, data };
  };
  return {
    metadata,
    tensors,
    read,
    readFloat32: (name) => {
      const { dtype, data } = read(name);
      return toFloat32(dtype, data);
    },
  };
}
