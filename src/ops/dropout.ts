/**
 * Dropout by a counter-based generator: the mask is a function of the key and the element's number, so that backward
 * computes it again. Keys lie in a tensor that the host writes before every step; recorded programs stay as they are.
 */
import { EmigmError } from '../errors.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { STREAMS, streamKey, threefry, type Words } from '../random.ts';
import { vectors } from './elementwise.ts';
import { type Gradient, grid1d, type Op, type Problem } from './op.ts';

/** One place of a network where something is dropped. */
export interface Dropout {
  /** u32 [places, 2], filled by `dropoutKeys`. */
  keys: Tensor;
  /** Row of `keys`: another for every place. */
  row: number;
  /** Share of elements that become zero, 0 to below 1; rounded to a multiple of 2^-32. */
  probability: number;
}

/** Keys of all `places` of a network for one micro-batch of one step, for `Device.write`: [places, 2]. */
export function dropoutKeys(
  seed: number | bigint,
  step: number,
  places: number,
  microBatch = 0,
): Uint32Array<ArrayBuffer> {
  const key = streamKey(seed, STREAMS.dropout, step);
  const keys = new Uint32Array(2 * places);
  for (let row = 0; row < places; row++) keys.set(threefry(key, [row, microBatch]), 2 * row);
  return keys;
}

/**
 * 32 random bits of a counter, as the kernels compute them: triple32 (C. Wellons, "Prospecting for Hash Functions",
 * 2018) with the key's first word added before it, its second before the first multiplication.
 */
export function randomBits(key: Words, counter: number): number {
  let v = (counter + key[0]) | 0;
  v = Math.imul((v ^ (v >>> 17)) + key[1], 0xed5ad4bb);
  v = Math.imul(v ^ (v >>> 11), 0xac4c1b51);
  v = Math.imul(v ^ (v >>> 15), 0x31848bab);
  return (v ^ (v >>> 14)) >>> 0;
}

/** The key under which attention drops the weights of one head, number b * heads + h, from that of its place. */
export function headKey(place: Words, head: number): Words {
  return [randomBits(place, 2 * head), randomBits(place, 2 * head + 1)];
}

/** How many of the 2^32 values of an element's bits drop it, and by what the others are multiplied. */
export function dropoutLevel(probability: number): { threshold: number; scale: number } {
  const threshold = Math.round(probability * 2 ** 32);
  if (!(threshold >= 0 && threshold < 2 ** 32)) {
    throw new EmigmError('input', `dropout ${probability} is not a probability from 0 to below 1`);
  }
  return { threshold, scale: 1 / (1 - threshold / 2 ** 32) };
}

/**
 * y = x keep / (1 - probability), element by element, plus `residual` where given. Backward is the same call on d_y
 * without the residual, whose gradient is d_y itself.
 */
export function dropout(
  r: Recorder,
  x: Tensor,
  { keys, row, probability }: Dropout,
  { residual, out }: { residual?: Tensor; out?: Tensor } = {},
): Tensor {
  const y = out ?? r.temp(x.shape, 'f32', 'dropout out');
  const { threshold, scale } = dropoutLevel(probability);
  const { per, consts } = vectors(x.size);
  r.call({
    op: 'dropout',
    kernel: {
      file: 'random/dropout',
      consts: per === 4 ? {} : { ...consts, Bits: 'u32', PER: 1, STEPS: '0u' },
      overrides: { ADD: residual !== undefined },
    },
    operands: { x, residual, keys, y },
    params: { size: x.size / per, row, threshold, scale },
    grid: grid1d(x.size / per),
    flops: (residual ? 2 : 1) * x.size,
  });
  return y;
}

interface DropoutProblem {
  size: number;
  row: number;
  probability: number;
  residual?: boolean;
}
const sizes = (p: Problem) => p as unknown as DropoutProblem;

const record = (r: Recorder, x: Tensor, keys: Tensor, p: Problem, residual: Tensor | undefined, out: Tensor) =>
  dropout(r, x, { ...sizes(p), keys }, { residual, out });

const gradient: Gradient = {
  problems: [
    { size: 211, row: 1, probability: 0.1 },
    { size: 300, row: 2, probability: 0.5, residual: true },
  ],
  variants: () => ['dropout'],
  of: () => ({ x: 'written' }),
  record: (r, t, p) => {
    record(r, t.d_y, t.keys, p, undefined, t.d_x);
  },
};

export const dropoutOp: Op = {
  name: 'dropout',
  variants: () => ['dropout'],
  problems: {
    test: [
      { size: 1001, row: 0, probability: 0.1 },
      { size: 1000, row: 2, probability: 0.75, residual: true },
      { size: 64, row: 1, probability: 0 },
      { size: 77, row: 1, probability: 0.3, residual: true },
    ],
    bench: [{ size: 2048 * 1024, row: 1, probability: 0.1, residual: true }],
  },
  inputs: (p) => ({
    x: { shape: [sizes(p).size] },
    keys: { shape: [3, 2], dtype: 'u32', fill: { values: () => dropoutKeys(5, sizes(p).size, 3) } },
    ...(sizes(p).residual && { residual: { shape: [sizes(p).size] } }),
  }),
  outputs: (p) => ({ y: [sizes(p).size] }),
  record: (r, t, p) => {
    record(r, t.x, t.keys, p, t.residual, t.y);
  },
  oracle({ x, keys, residual }, p) {
    const { row, probability } = sizes(p);
    const { threshold, scale } = dropoutLevel(probability);
    const key: Words = [keys[2 * row], keys[2 * row + 1]];
    const y = x.map((value, i) => (randomBits(key, i) >= threshold ? value * scale : 0) + (residual ? residual[i] : 0));
    return { y };
  },
  flops: (p) => sizes(p).size,
  gradient,
};
