/**
 * Weights in int8: w[j, i] is about scale[j] q[j, i], q in -127 .. 127, one scale for each output (row of the weight).
 * The buffer holds the numbers q, four to a word, and after them the scales, as the kernels `matmul/*_int8.wgsl` say.
 */
import { EmigmError } from '../errors.ts';

const LEVELS = 127;
/** Below the smallest normal number a scale would be flushed to zero on some adapters. */
const SMALLEST = 2 ** -126;

/** Numbers by rows, and what to multiply each row by. */
export interface Int8Rows {
  numbers: Int8Array;
  scales: Float32Array;
}

/**
 * Rounds `weight` [outputs, inputs] to the nearest of 255 levels, symmetric about zero, that reach to each row's largest
 * magnitude: no number moves by more than half a step, scale[j] / 2. A row of zeros has the scale 0, and so has one whose
 * numbers are all below 2^-119.
 * @throws EmigmError 'numeric' when a weight is NaN or infinite
 */
export function quantiseRows(weight: Float32Array, outputs: number, inputs: number, label: string): Int8Rows {
  const numbers = new Int8Array(outputs * inputs);
  const scales = new Float32Array(outputs);
  for (let j = 0; j < outputs; j++) {
    const end = (j + 1) * inputs;
    let largest = 0;
    for (let at = j * inputs; at < end; at++) {
      const size = Math.abs(weight[at]);
      // NaN is no number's lesser either.
      if (!(size < Number.POSITIVE_INFINITY)) {
        const what = `${label}: weight [${j}, ${at - j * inputs}] is ${weight[at]}`;
        throw new EmigmError('numeric', `${what}; int8 needs finite weights, use --stored f32 to see where it leads`);
      }
      if (size > largest) largest = size;
    }
    const scale = Math.fround(largest / LEVELS);
    if (scale < SMALLEST) continue;
    scales[j] = scale;
    for (let at = j * inputs; at < end; at++) {
      numbers[at] = Math.max(-LEVELS, Math.min(LEVELS, Math.round(weight[at] / scale)));
    }
  }
  return { numbers, scales };
}

/** The weights that the kernels multiply by, instead of `weight` [outputs, inputs]. */
export function roundToInt8(weight: Float32Array, outputs: number, inputs: number): Float32Array {
  const { numbers, scales } = quantiseRows(weight, outputs, inputs, 'w');
  return Float32Array.from(numbers, (q, at) => q * scales[Math.floor(at / inputs)]);
}

/** Words of the buffer: rows padded to whole words, or with `lanes` the 4 x 4 blocks of the kernels for CPU drivers. */
export function int8Words(outputs: number, inputs: number, lanes?: number): number {
  const padded = lanes === undefined ? outputs : Math.ceil(outputs / (4 * lanes)) * 4 * lanes;
  return padded * Math.ceil(inputs / 4) + padded;
}

/** The buffer's words for `weight` [outputs, inputs]. @throws EmigmError as `quantiseRows` */
export function packInt8(
  weight: Float32Array,
  outputs: number,
  inputs: number,
  { label, lanes }: { label: string; lanes?: number },
): Uint32Array<ArrayBuffer> {
  const { numbers, scales } = quantiseRows(weight, outputs, inputs, label);
  const words = new Uint32Array(int8Words(outputs, inputs, lanes));
  const quads = Math.ceil(inputs / 4);
  const bytes = new Int8Array(words.buffer);
  for (let j = 0; j < outputs; j++) {
    const row = numbers.subarray(j * inputs, (j + 1) * inputs);
    if (lanes === undefined) {
      bytes.set(row, j * quads * 4);
      continue;
    }
    const group = Math.floor(j / (4 * lanes));
    const lane = Math.floor((j % (4 * lanes)) / 4);
    const at = (group * quads * lanes + lane) * 16 + (j % 4);
    for (let i = 0; i < inputs; i++) bytes[at + (i >> 2) * lanes * 16 + (i & 3) * 4] = row[i];
  }
  const padded = words.length / (quads + 1);
  new Float32Array(words.buffer, 4 * padded * quads).set(scales);
  return words;
}
