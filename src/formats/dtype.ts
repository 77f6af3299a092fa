/** Element types of stored tensors, under their safetensors names, and the typed arrays that hold them. */
import { EmigmError } from '../errors.ts';
import { bfloat16ToFloat32, float32ToBfloat16, float32ToHalf, halfToFloat32 } from '../float16.ts';

/** Bytes of one element. */
export const ELEMENT_BYTES = {
  F64: 8,
  I64: 8,
  F32: 4,
  I32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const;

export type DType = keyof typeof ELEMENT_BYTES;

/** Elements in their stored type: F16 and BF16 as bits in a Uint16Array, BOOL as 0 and 1 in a Uint8Array. */
export type StoredArray =
  | Float64Array<ArrayBuffer>
  | Float32Array<ArrayBuffer>
  | Uint16Array<ArrayBuffer>
  | BigInt64Array<ArrayBuffer>
  | Int32Array<ArrayBuffer>
  | Int16Array<ArrayBuffer>
  | Int8Array<ArrayBuffer>
  | Uint8Array<ArrayBuffer>;

const ARRAYS = {
  F64: Float64Array,
  I64: BigInt64Array,
  F32: Float32Array,
  I32: Int32Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  I16: Int16Array,
  I8: Int8Array,
  U8: Uint8Array,
  BOOL: Uint8Array,
} as const;

export function isDType(name: unknown): name is DType {
  return typeof name === 'string' && Object.hasOwn(ELEMENT_BYTES, name);
}

/** A view of `buffer` as elements of `dtype`; `byteOffset` must be a multiple of the element size. */
export function storedArray(dtype: DType, buffer: ArrayBuffer, byteOffset: number, length: number): StoredArray {
  return new ARRAYS[dtype](buffer, byteOffset, length);
}

/** Whether `data` is of the array type that holds `dtype`. */
export function holds(dtype: DType, data: unknown): data is StoredArray {
  return data instanceof ARRAYS[dtype];
}

/** Stored elements as float32 numbers (the array itself when it is float32 already). */
export function toFloat32(dtype: DType, data: StoredArray): Float32Array<ArrayBuffer> {
  if (dtype === 'F32') return data as Float32Array<ArrayBuffer>;
  if (dtype === 'F16') return halfToFloat32(data as Uint16Array) as Float32Array<ArrayBuffer>;
  if (dtype === 'BF16') return bfloat16ToFloat32(data as Uint16Array) as Float32Array<ArrayBuffer>;
  if (data instanceof BigInt64Array) return Float32Array.from(data, Number);
  return new Float32Array(data);
}

/** Float32 numbers in the stored form of a floating dtype, rounded to the nearest, ties to even. */
export function fromFloat32(dtype: DType, values: Float32Array<ArrayBuffer>): StoredArray {
  if (dtype === 'F32') return values;
  if (dtype === 'F16') return float32ToHalf(values) as Uint16Array<ArrayBuffer>;
  if (dtype === 'BF16') return float32ToBfloat16(values) as Uint16Array<ArrayBuffer>;
  if (dtype === 'F64') return new Float64Array(values);
  throw new EmigmError('input', `dtype ${dtype} cannot store float weights; use F32, F16 or BF16`);
}

/** Number of elements of a shape, or undefined when it is no list of whole numbers or overflows 2^53. */
export function elementCount(shape: unknown): number | undefined {
  if (!Array.isArray(shape) || shape.length > 64) return undefined;
  let count = 1;
  let product = 1; // without the zeros, so that [0, 2^53, 2^53] overflows too
  for (const size of shape) {
    if (!Number.isSafeInteger(size) || size < 0) return undefined;
    count *= size;
    product *= size || 1;
    if (!Number.isSafeInteger(product)) return undefined;
  }
  return count;
}
