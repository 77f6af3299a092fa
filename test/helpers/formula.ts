/** Formula weights: tensors computed from their name and shape alone, so that no file need hold them. */
import { crc32 } from '../../src/formats/crc32.ts';

/** The first `count` values u in [-1, 1) of the tensor `name`: a hash of (i * 2654435769 + crc32(name)). */
export function formulaUniform(name: string, count: number): Float64Array<ArrayBuffer> {
  const out = new Float64Array(count);
  let start = crc32(new TextEncoder().encode(name)) | 0;
  for (let i = 0; i < count; i++) {
    let x = start;
    x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
    x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
    x ^= x >>> 16;
    out[i] = ((x >>> 0) / 4294967296) * 2 - 1;
    start = (start + 0x9e3779b9) | 0;
  }
  return out;
}

/** The formula weight of the tensor `name`: u sqrt(3 / fan) gain for two or more dims, else by kind of name. */
export function formulaWeight(name: string, shape: readonly number[], gain = 1): Float32Array<ArrayBuffer> {
  const u = formulaUniform(
    name,
    shape.reduce((a, b) => a * b, 1),
  );
  let offset = 0;
  let scale = 0.1;
  if (shape.length >= 2) scale = Math.sqrt(3 / shape.slice(1).reduce((a, b) => a * b, 1)) * gain;
  else if (name.endsWith('running_var')) [offset, scale] = [1, 0.4];
  else if (name.endsWith('running_mean')) scale = 0.1;
  else if (name.endsWith('.weight')) [offset, scale] = [1, 0.2];
  const out = new Float32Array(u.length);
  for (let i = 0; i < u.length; i++) out[i] = offset + u[i] * scale;
  return out;
}
