/** Activations that stand alone: SiLU of the head's condition, GELU and SiLU for checks. */
import type { Recorder } from '../gpu/recorder.ts';
import type { DType, Tensor } from '../gpu/tensor.ts';
import { type Activation, activate } from './matmul.ts';
import { grid1d, type Op, type Problem } from './op.ts';

export interface ActivationOptions {
  /** Added to every row of `width` before the activation: row number `index` of a [*, width] tensor. */
  row?: { tensor: Tensor; index: number };
  out?: Tensor;
  dtype?: DType;
}

/** y = f(x + row), element by element over x[rows, width]. */
export function activation(
  r: Recorder,
  kind: Exclude<Activation, 'none'>,
  x: Tensor,
  width: number,
  options: ActivationOptions = {},
): Tensor {
  const { row, dtype = 'f32' } = options;
  const y = options.out ?? r.temp(x.shape, dtype, `${kind} out`);
  r.call({
    op: kind,
    kernel: {
      file: 'activation/activation',
      consts: y.dtype === 'f16' ? { Elem: 'f16' } : {},
      overrides: { ACTIVATION: kind === 'gelu' ? 1 : 2, ADD_ROW: row !== undefined },
    },
    operands: { x, row: row?.tensor, y },
    params: { size: x.size, width, row_offset: (row?.index ?? 0) * width },
    grid: grid1d(x.size),
    flops: (kind === 'gelu' ? 20 : 6) * x.size,
  });
  return y;
}

interface ActivationProblem {
  kind: Exclude<Activation, 'none'>;
  rows: number;
  width: number;
  row?: boolean;
  stored?: DType;
}
const sizes = (p: Problem) => p as unknown as ActivationProblem;

export const activationOp: Op = {
  name: 'activation',
  variants: () => ['activation'],
  problems: {
    test: [
      { kind: 'gelu', rows: 3, width: 77 },
      { kind: 'silu', rows: 5, width: 13, row: true },
      { kind: 'gelu', rows: 4, width: 31, stored: 'f16' },
    ],
    bench: [{ kind: 'silu', rows: 512, width: 1024, row: true }],
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
    return { y: x.map((value, i) => activate[kind](value + (row ? row[width + (i % width)] : 0))) };
  },
  flops: (p) => 6 * sizes(p).rows * sizes(p).width,
};
