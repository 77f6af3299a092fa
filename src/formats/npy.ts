/** One NumPy array as a `.npy` file in memory. Format: numpy/lib/format.py, versions 1 to 3. */
import { EmigmError } from '../errors.ts';
import { type DType, ELEMENT_BYTES, elementCount, holds, storedArray } from './dtype.ts';
import { quote } from './quote.ts';
import type { Tensor } from './safetensors_parse.ts';
import { gather } from './strided.ts';

/** NumPy's names of the element types; '|' and '<' alike for single bytes. */
const DESCR = {
  F64: '<f8',
  F32: '<f4',
  F16: '<f2',
  I64: '<i8',
  I32: '<i4',
  I16: '<i2',
  I8: '|i1',
  U8: '|u1',
  BOOL: '|b1',
} as const satisfies Partial<Record<DType, string>>;

const DTYPES = new Map(Object.entries(DESCR).map(([dtype, descr]) => [descr as string, dtype as keyof typeof DESCR]));
const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]; // \x93NUMPY

/**
 * Reads a `.npy` file: elements in row-major order, whatever order they lie in. `file` names it in
 * errors. Throws EmigmError('file') when it is damaged or of a type that is not read (objects are not).
 */
export function parseNpy(bytes: Uint8Array, file: string): Tensor {
  const fail = (what: string): never => {
    throw new EmigmError('file', `${file}: ${what}`);
  };
  if (bytes.length < 12 || MAGIC.some((byte, i) => bytes[i] !== byte)) return fail('is not a .npy array');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = bytes[6];
  if (version < 1 || version > 3) return fail(`is of .npy version ${version}; 1 to 3 are read`);
  const headerAt = version === 1 ? 10 : 12;
  const dataAt = headerAt + (version === 1 ? view.getUint16(8, true) : view.getUint32(8, true));
  if (dataAt > bytes.length) return fail('the .npy header is longer than the array; truncated');
  const header = new TextDecoder().decode(bytes.subarray(headerAt, Math.min(dataAt, headerAt + 10_000)));
  const descr = /'descr':\s*'([^']*)'/.exec(header)?.[1];
  const order = /'fortran_order':\s*(True|False)/.exec(header)?.[1];
  const sizes = /'shape':\s*\(([\d,\s]*)\)/.exec(header)?.[1];
  if (descr === undefined || order === undefined || sizes === undefined) {
    return fail(`the .npy header is not understood: ${quote(header.trim())}`);
  }
  const dtype = DTYPES.get(descr) ?? DTYPES.get(descr.replace('<', '|'));
  if (!dtype) return fail(`holds elements of type ${quote(descr)}; read are ${[...DTYPES.keys()].join(', ')}`);
  const shape = (sizes.match(/\d+/g) ?? []).map(Number);
  const count = elementCount(shape);
  const width = ELEMENT_BYTES[dtype];
  if (count === undefined || count * width !== bytes.length - dataAt) {
    return fail(`shape (${sizes}) of ${descr} does not fill its ${bytes.length - dataAt} bytes; truncated or damaged`);
  }
  const data = storedArray(dtype, new Uint8Array(bytes.subarray(dataAt)).buffer, 0, count);
  if (order === 'False') return { dtype, shape, data };
  let step = 1;
  const stride = shape.map((size) => {
    const own = step;
    step *= size;
    return own;
  });
  return { dtype, shape, data: gather(dtype, data, shape, stride) };
}

/** Writes a tensor as a `.npy` file (version 1, C order). Throws EmigmError('input') for bfloat16, 'shape' for a bad shape. */
export function encodeNpy({ dtype, shape, data }: Tensor): Uint8Array {
  if (!Object.hasOwn(DESCR, dtype)) throw new EmigmError('input', `.npy files cannot hold ${dtype}; convert it to F32`);
  if (!holds(dtype, data) || data.length !== elementCount(shape)) {
    throw new EmigmError('shape', `an array of ${data.length} elements does not fill the shape [${shape}] of ${dtype}`);
  }
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`;
  const dict = `{'descr': '${DESCR[dtype as keyof typeof DESCR]}', 'fortran_order': False, 'shape': ${tuple}, }`;
  const dataAt = Math.ceil((10 + dict.length + 1) / 64) * 64;
  const bytes = new Uint8Array(dataAt + data.byteLength).fill(0x20, 0, dataAt);
  bytes.set([...MAGIC, 1, 0]);
  new DataView(bytes.buffer).setUint16(8, dataAt - 10, true);
  new TextEncoder().encodeInto(dict, bytes.subarray(10));
  bytes[dataAt - 1] = 0x0a;
  bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), dataAt);
  return bytes;
}
