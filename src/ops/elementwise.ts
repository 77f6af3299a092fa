/** Element by element: activations that stand alone, the gate of adaLN, sums over repeats; forward and backward. */
import type { Recorder } from '../gpu/recorder.ts';
import type { DType, Tensor } from '../gpu/tensor.ts';
import { type Activation, activate } from './matmul.ts';
import { type Gradient, grid1d, type Op, type Problem } from './op.ts';

export interface ActivationOptions {
  /** Added to every row of `width` before the activation: row number `index` of a [*, width] tensor. */
  row?: { tensor: Tensor; index: number };
  out?: Tensor;
  dtype?: DType;
}

type Kind = Exclude<Activation, 'none'>;

/** Elements an invocation takes, and what `Vec` stands for in the kernel. */
export function vectors(...sizes: number[]): { per: number; consts: Record<string, string> } {
  return sizes.every((size) => size % 4 === 0) ? { per: 4, consts: {} } : { per: 1, consts: { Vec: 'f32' } };
}

/** y = f(x + row), element by element over x[rows, width]. */
export function activation(r: Recorder, kind: Kind, x: Tensor, width: number, options: ActivationOptions = {}): Tensor {
  const { row, dtype = 'f32' } = options;
  const y = options.out ?? r.temp(x.shape, dtype, `${kind} out`);
  const { per, consts } = vectors(width);
  r.call({
    op: kind,
    kernel: {
      file: 'activation/activation',
      consts: { ...consts, ...((per === 1 || y.dtype === 'f16') && { Elem: per === 1 ? y.dtype : 'vec4<f16>' }) },
      overrides: { ACTIVATION: kind === 'gelu' ? 1 : 2, ADD_ROW: row !== undefined },
    },
    operands: { x, row: row?.tensor, y },
    params: { size: x.size / per, width: width / per, row_offset: ((row?.index ?? 0) * width) / per },
    grid: grid1d(x.size / per),
    flops: (kind === 'gelu' ? 20 : 6) * x.size,
  });
  return y;
}

/**
 * d_x[rows, width] = d_y f'(x + row), from the activation's input x; the gradient of `row` is the sum of it over
 * the rows.
 */
export function activationBackward(
  r: Recorder,
  kind: Kind,
  x: Tensor,
  dY: Tensor,
  width: number,
  { row, out }: Omit<ActivationOptions, 'dtype'> = {},
): Tensor {
  const dX = out ?? r.temp(x.shape, 'f32', `d ${x.label}`);
  const { per, consts } = vectors(width);
  r.call({
    op: `${kind} backward`,
    kernel: {
      file: 'activation/backward',
      consts,
      overrides: { ACTIVATION: kind === 'gelu' ? 1 : 2, ADD_ROW: row !== undefined },
    },
    operands: { x, row: row?.tensor, d_y: dY, d_x: dX },
    params: { size: x.size / per, width: width / per, row_offset: ((row?.index ?? 0) * width) / per },
    grid: grid1d(x.size / per),
    flops: (kind === 'gelu' ? 30 : 9) * x.size,
  });
  return dX;
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

interface ActivationProblem {
  kind: Kind;
  rows: number;
  width: number;
  row?: boolean;
  stored?: DType;
}
const sizes = (p: Problem) => p as unknown as ActivationProblem;

const activationGradient: Gradient = {
  problems: [
    { kind: 'gelu', rows: 3, width: 77 },
    { kind: 'gelu', rows: 5, width: 24 },
    { kind: 'silu', rows: 5, width: 13, row: true },
    { kind: 'silu', rows: 6, width: 20, row: true },
  ],
  variants: () => ['activation'],
  of: (p) => ({ x: 'written', ...(sizes(p).row && { row: 'written' }) }),
  inputs: (p) => ({ ...activationOp.inputs(p), ...(sizes(p).row && { row: { shape: [1, sizes(p).width] } }) }),
  record(r, t, problem) {
    const { kind, rows, width } = sizes(problem);
    const row = t.row && { tensor: t.row, index: 0 };
    const dX = activationBackward(r, kind, t.x, t.d_y, width, { row, out: t.d_x });
    if (t.row) sumRepeats(r, dX, rows, t.d_row);
  },
};

export const activationOp: Op = {
  name: 'activation',
  variants: () => ['activation'],
  problems: {
    test: [
      { kind: 'gelu', rows: 3, width: 77 },
      { kind: 'gelu', rows: 5, width: 76 },
      { kind: 'silu', rows: 5, width: 13, row: true },
      { kind: 'silu', rows: 5, width: 16, row: true, stored: 'f16' },
      { kind: 'gelu', rows: 4, width: 31, stored: 'f16' },
    ],
    bench: [
      { kind: 'silu', rows: 512, width: 1024, row: true },
      { kind: 'gelu', rows: 320, width: 1792 },
    ],
  },
  inputs(problem) {
    const { rows, width, row } = sizes(problem);
    return { x: { shape: [rows, width], fill: { scale: 3 } }, ...(row && { row: { shape: [2, width] } }) };
  },
  outputs: (p) => ({ y: [sizes(p).rows, sizes(p).width] }),
  outputType: (p) => sizes(p).stored ?? 'f32',
  record(r, t, problem) {
    const { kind, width, row } = sizes(problem);
    activation(r, kind, t.x, width, { out: t.y, row: row ? { tensor: t.row, index: 1 } : undefined });
  },
  oracle({ x, row }, problem) {
    const { kind, width } = sizes(problem);
    // The last row of the table.
    return { y: x.map((value, i) => activate[kind](value + (row ? row[row.length - width + (i % width)] : 0))) };
  },
  flops: (p) => 6 * sizes(p).rows * sizes(p).width,
  gradient: activationGradient,
};

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
