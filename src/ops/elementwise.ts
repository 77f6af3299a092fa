/** Element by element: the gate of adaLN, sums over repeats; forward and backward. */
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { grid1d, type Op, type Problem } from './op.ts';

/** Elements an invocation takes, and what `Vec` stands for in the kernel. */
export function vectors(...sizes: number[]): { per: number; consts: Record<string, string> } {
  return sizes.every((size) => size % 4 === 0) ? { per: 4, consts: {} } : { per: 1, consts: { Vec: 'f32' } };
}

/** y[size] = sum over the repeats of x[repeats, size]: the gradient of what was used that often. */
export function sumRepeats(r: Recorder, x: Tensor, repeats: number, out?: Tensor): Tensor {
  const size = x.size / repeats;
  const y = out ?? r.temp([size], 'f32', `sum of ${x.label}`);
  const { per, consts } = vectors(size);
  r.call({
    op: 'sum_repeats',
    kernel: { file: 'activation/sum_repeats', consts },
    operands: { x, y },
    params: { size: size / per, repeats },
    grid: grid1d(size / per),
    flops: x.size,
  });
  return y;
}

/** A range of columns, from `offset` on, of a [rows, stride] tensor. */
export interface Columns {
  tensor: Tensor;
  stride: number;
  offset: number;
}

/** y[rows, width] = residual + gate * x. */
export function gate(r: Recorder, x: Tensor, columns: Columns, residual: Tensor, width: number, out?: Tensor): Tensor {
  const y = out ?? r.temp(x.shape, 'f32', 'gate out');
  const { stride, offset } = columns;
  const { per, consts } = vectors(width, stride, offset);
  r.call({
    op: 'gate',
    kernel: { file: 'activation/gate', consts },
    operands: { x, gate: columns.tensor, residual, y },
    params: { size: x.size / per, width: width / per, stride: stride / per, gate_offset: offset / per },
    grid: grid1d(x.size / per),
    flops: 2 * x.size,
  });
  return y;
}

/** d_x = d_y * gate, returned; d_gate = d_y * x, into the gate's columns of `dGate`. The residual's gradient is d_y. */
export function gateBackward(
  r: Recorder,
  x: Tensor,
  columns: Columns,
  dY: Tensor,
  width: number,
  dGate: Tensor,
  out?: Tensor,
): Tensor {
  const dX = out ?? r.temp(x.shape, 'f32', `d ${x.label}`);
  const { stride, offset } = columns;
  const { per, consts } = vectors(width, stride, offset);
  r.call({
    op: 'gate backward',
    kernel: { file: 'activation/gate_backward', consts },
    operands: { x, gate: columns.tensor, d_y: dY, d_x: dX, d_gate: dGate },
    params: { size: x.size / per, width: width / per, stride: stride / per, gate_offset: offset / per },
    grid: grid1d(x.size / per),
    flops: 2 * x.size,
  });
  return dX;
}

const sizes = (p: Problem) => p as { rows: number; width: number };

const gateColumns = (tensor: Tensor, width: number): Columns => ({ tensor, stride: 3 * width, offset: 2 * width });

export const gateOp: Op = {
  name: 'gate',
  variants: () => ['gate'],
  problems: {
    test: [
      { rows: 3, width: 7 },
      { rows: 5, width: 12 },
    ],
    bench: [{ rows: 1024, width: 1024 }],
  },
  inputs: (p) => {
    const { rows, width } = sizes(p);
    return { x: { shape: [rows, width] }, gate: { shape: [rows, 3 * width] }, residual: { shape: [rows, width] } };
  },
  outputs: (p) => ({ y: [sizes(p).rows, sizes(p).width] }),
  record: (r, t, p) => {
    const { width } = sizes(p);
    gate(r, t.x, gateColumns(t.gate, width), t.residual, width, t.y);
  },
  oracle: ({ x, gate, residual }, p) => {
    const { width } = sizes(p);
    const at = (i: number) => Math.floor(i / width) * 3 * width + 2 * width + (i % width);
    return { y: residual.map((value, i) => value + gate[at(i)] * x[i]) };
  },
  flops: (p) => 2 * sizes(p).rows * sizes(p).width,
  gradient: {
    problems: [
      { rows: 3, width: 7 },
      { rows: 5, width: 12 },
    ],
    variants: () => ['gate'],
    of: () => ({ x: 'written', gate: 'columns' }),
    record: (r, t, p) => {
      const { width } = sizes(p);
      gateBackward(r, t.x, gateColumns(t.gate, width), t.d_y, width, t.d_gate, t.d_x);
    },
  },
};
