/** Activations that stand alone, alone or one after the other; forward and backward. */
import type { Call, Recorder } from '../gpu/recorder.ts';
import type { DType, Tensor } from '../gpu/tensor.ts';
import { sumRepeats, vectors } from './elementwise.ts';
import { activate } from './matmul.ts';
import { type Gradient, grid1d, type Op, type Problem } from './op.ts';

const FUNCTIONS = { gelu: activate.gelu, silu: activate.silu, tanh: Math.tanh };
/** As the kernels number them; 0 is none. */
const NUMBERS: Record<Kind, number> = { gelu: 1, silu: 2, tanh: 3 };
/** Runs of one function that the kernel takes. */
const RUNS = 4;

type Kind = keyof typeof FUNCTIONS;

export interface ActivationOptions {
  /** Added to every row of `width` before the activation: row number `index` of a [*, width] tensor. */
  row?: { tensor: Tensor; index: number };
  out?: Tensor;
  dtype?: DType;
}

/**
 * y = f(x + row), element by element over x[rows, width]. Where one activation alone reads what another writes, they
 * become one dispatch.
 */
export function activation(r: Recorder, kind: Kind, x: Tensor, width: number, options: ActivationOptions = {}): Tensor {
  const { row, dtype = 'f32' } = options;
  const y = options.out ?? r.temp(x.shape, dtype, `${kind} out`);
  r.call(activationCall([kind], x, y, width, row)!);
  return y;
}

/** f in turn; undefined for more different ones in turn than the kernel takes. */
function activationCall(
  kinds: readonly Kind[],
  x: Tensor,
  y: Tensor,
  width: number,
  row: ActivationOptions['row'],
): Call | undefined {
  const runs: { kind: Kind; times: number }[] = [];
  for (const kind of kinds) {
    if (runs.at(-1)?.kind === kind) runs.at(-1)!.times++;
    else runs.push({ kind, times: 1 });
  }
  if (runs.length > RUNS) return undefined;
  const { per, consts } = vectors(width);
  const functions: Record<string, number> = {};
  const times: Record<string, number> = {};
  for (let i = 0; i < RUNS; i++) {
    functions[`F${i + 1}`] = runs[i] ? NUMBERS[runs[i].kind] : 0;
    times[`times${i + 1}`] = runs[i]?.times ?? 0;
  }
  return {
    op: kinds[0],
    kernel: {
      file: 'activation/activation',
      consts: { ...consts, ...((per === 1 || y.dtype === 'f16') && { Elem: per === 1 ? y.dtype : 'vec4<f16>' }) },
      overrides: { ...functions, ADD_ROW: row !== undefined },
    },
    operands: { x, row: row?.tensor, y },
    params: { size: x.size / per, width: width / per, row_offset: ((row?.index ?? 0) * width) / per, ...times },
    grid: grid1d(x.size / per),
    flops: x.size * kinds.reduce((sum, kind) => sum + (kind === 'silu' ? 6 : 20), 0),
    chain: {
      x: row ? undefined : x,
      y,
      functions: kinds,
      join: (next) => activationCall([...kinds, ...(next.functions as Kind[])], x, next.y, width, row),
    },
  };
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
      overrides: { F: NUMBERS[kind], ADD_ROW: row !== undefined },
    },
    operands: { x, row: row?.tensor, d_y: dY, d_x: dX },
    params: { size: x.size / per, width: width / per, row_offset: ((row?.index ?? 0) * width) / per },
    grid: grid1d(x.size / per),
    flops: (kind === 'silu' ? 9 : 30) * x.size,
  });
  return dX;
}

interface ActivationProblem {
  kind: Kind;
  /** How often it is applied. */
  times?: number;
  /** Activations that follow, with blanks between. */
  after?: string;
  rows: number;
  width: number;
  row?: boolean;
  stored?: DType;
}
const sizes = (p: Problem) => p as unknown as ActivationProblem;

function inTurn(problem: Problem): Kind[] {
  const { kind, times = 1, after } = sizes(problem);
  return [...Array<Kind>(times).fill(kind), ...((after?.split(' ') ?? []) as Kind[])];
}

const activationGradient: Gradient = {
  problems: [
    { kind: 'gelu', rows: 3, width: 77 },
    { kind: 'gelu', rows: 5, width: 24 },
    { kind: 'silu', rows: 5, width: 13, row: true },
    { kind: 'silu', rows: 6, width: 20, row: true },
    { kind: 'tanh', rows: 4, width: 9 },
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
      { kind: 'tanh', times: 3, after: 'silu gelu gelu tanh', rows: 3, width: 29, row: true },
      { kind: 'gelu', after: 'silu gelu tanh silu tanh', rows: 2, width: 36 },
    ],
    bench: [
      { kind: 'silu', rows: 512, width: 1024, row: true },
      { kind: 'gelu', rows: 320, width: 1792 },
      { kind: 'tanh', times: 200, rows: 1, width: 1024 },
    ],
  },
  inputs(problem) {
    const { rows, width, row } = sizes(problem);
    return { x: { shape: [rows, width], fill: { scale: 3 } }, ...(row && { row: { shape: [2, width] } }) };
  },
  outputs: (p) => ({ y: [sizes(p).rows, sizes(p).width] }),
  outputType: (p) => sizes(p).stored ?? 'f32',
  record(r, t, problem) {
    const { width, row } = sizes(problem);
    const kinds = inTurn(problem);
    kinds.reduce((x, kind, i) => {
      const out = i === kinds.length - 1 ? t.y : undefined;
      return activation(r, kind, x, width, { out, row: row && i === 0 ? { tensor: t.row, index: 1 } : undefined });
    }, t.x);
  },
  oracle({ x, row }, problem) {
    const { width } = sizes(problem);
    // The last row of the table.
    const inner = x.map((value, i) => value + (row ? row[row.length - width + (i % width)] : 0));
    return { y: inner.map((value) => inTurn(problem).reduce((v, each) => FUNCTIONS[each](v), value)) };
  },
  flops: (p) => 6 * inTurn(p).length * sizes(p).rows * sizes(p).width,
  gradient: activationGradient,
};
