/** Strided arrays made contiguous. */
import { type DType, ELEMENT_BYTES, elementCount, type StoredArray, storedArray } from './dtype.ts';

/** The elements of a strided view in row-major order; `stride` counts elements and may be 0. */
export function gather(
  dtype: DType,
  from: StoredArray,
  shape: readonly number[],
  stride: readonly number[],
): StoredArray {
  const count = elementCount(shape)!;
  const out = storedArray(dtype, new ArrayBuffer(count * ELEMENT_BYTES[dtype]), 0, count);
  const index = new Array<number>(shape.length).fill(0);
  let at = 0;
  for (let i = 0; i < count; i++) {
    out[i] = from[at];
    for (let d = shape.length - 1; d >= 0; d--) {
      at += stride[d];
      if (++index[d] < shape[d]) break;
      at -= stride[d] * shape[d];
      index[d] = 0;
    }
  }
  return out;
}
