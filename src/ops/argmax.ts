/** The largest of each row: nearest codes, greedy choices. */
import { EmigmError } from '../errors.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { describeTensor, type Tensor } from '../gpu/tensor.ts';
import { grid1d, type Op, type Problem } from './op.ts';

/**
 * index[rows] u32: the column of the largest number of each row of x[rows, width], the first of equals.
 * @throws EmigmError 'shape' when x is no whole number of rows
 */
export function argmaxRows(r: Recorder, x: Tensor, width: number, out?: Tensor): Tensor {
  const rows = x.size / width;
  if (!Number.isInteger(rows)) {
    throw new EmigmError('shape', `argmax: x is ${describeTensor(x)}; rows of ${width} wanted`);
  }
  const index = out ?? r.temp([rows], 'u32', `argmax of ${x.label}`);
  r.call({
    op: 'argmax',
    kernel: { file: 'categorical/argmax' },
    operands: { x, index },
    params: { rows, width },
    grid: grid1d(rows),
    flops: x.size,
  });
  return index;
}

interface Sizes {
  rows: number;
  width: number;
  ties?: boolean;
}
const sizes = (p: Problem) => p as unknown as Sizes;

export const argmaxOp: Op = {
  name: 'argmax',
  variants: () => ['argmax'],
  problems: {
    test: [
      { rows: 3, width: 7 },
      { rows: 70, width: 20, ties: true },
      { rows: 5, width: 1 },
    ],
    bench: [{ rows: 32768, width: 512 }],
  },
  inputs: (p) => {
    const { rows, width, ties } = sizes(p);
    const values = (n: number) => Array.from({ length: n }, (_, i) => Math.round(3 * Math.sin(i * i)) - 4);
    return { x: { shape: [rows, width], ...(ties && { fill: { values } }) } };
  },
  outputs: (p) => ({ index: [sizes(p).rows] }),
  outputType: () => 'u32',
  record: (r, t, p) => {
    argmaxRows(r, t.x, sizes(p).width, t.index);
  },
  oracle: ({ x }, p) => {
    const { rows, width } = sizes(p);
    const largest = (row: Float64Array) => row.indexOf(row.reduce((a, b) => Math.max(a, b)));
    return { index: Float64Array.from({ length: rows }, (_, i) => largest(x.subarray(i * width, (i + 1) * width))) };
  },
  tolerance: 0,
  flops: (p) => sizes(p).rows * sizes(p).width,
};
