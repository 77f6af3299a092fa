/** The mean of a sequence's tokens: how a transformer that classifies sums its sequence up. */
import { EmigmError } from '../errors.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { describeTensor, type Tensor } from '../gpu/tensor.ts';
import { vectors } from './elementwise.ts';
import { type Gradient, grid1d, type Op, type Problem } from './op.ts';

export interface TokensShape {
  batch: number;
  /** Tokens of a sequence. */
  length: number;
  width: number;
}

function check(op: string, x: Tensor, y: Tensor, { batch, length, width }: TokensShape): void {
  if (x.size === batch * length * width && y.size === batch * width) return;
  throw new EmigmError(
    'shape',
    `${op}: ${x.label} is ${describeTensor(x)}, ${y.label} ${describeTensor(y)}; ` +
      `[${batch}, ${length}, ${width}] and [${batch}, ${width}] wanted`,
  );
}

/** y[batch, width] = mean over the tokens of x[batch, length, width]. @throws EmigmError 'shape' for another size */
export function meanTokens(r: Recorder, x: Tensor, shape: TokensShape, options: { out?: Tensor } = {}): Tensor {
  const { batch, length, width } = shape;
  const y = options.out ?? r.temp([batch, width], 'f32', `mean of ${x.label}`);
  check('mean tokens', x, y, shape);
  const { per, consts } = vectors(width);
  r.call({
    op: 'mean_tokens',
    kernel: { file: 'tokens/mean', consts },
    operands: { x, y },
    params: { size: y.size / per, length, width: width / per },
    grid: grid1d(y.size / per),
    flops: x.size,
  });
  return y;
}

/** d_x[batch, length, width] = d_y / length: written, or with `accumulate` added to `out`. */
export function meanTokensBackward(
  r: Recorder,
  dY: Tensor,
  shape: TokensShape,
  { out, accumulate = false }: { out?: Tensor; accumulate?: boolean } = {},
): Tensor {
  if (accumulate && !out) throw new EmigmError('shape', 'meanTokensBackward: accumulate needs out, what to add to');
  const { batch, length, width } = shape;
  const dX = out ?? r.temp([batch, length, width], 'f32', `spread ${dY.label}`);
  check('mean tokens backward', dX, dY, shape);
  const { per, consts } = vectors(width);
  r.call({
    op: 'mean_tokens backward',
    kernel: { file: 'tokens/mean_backward', consts, overrides: { ADD: accumulate } },
    operands: { d_y: dY, d_x: dX },
    params: { size: dX.size / per, length, width: width / per },
    grid: grid1d(dX.size / per),
    flops: dX.size,
  });
  return dX;
}

type MeanProblem = TokensShape & { accumulate?: boolean };
const sizes = (p: Problem) => p as unknown as MeanProblem;

const gradient: Gradient = {
  problems: [
    { batch: 2, length: 5, width: 12 },
    { batch: 3, length: 4, width: 7, accumulate: true },
  ],
  variants: () => ['mean_tokens'],
  of: (p) => ({ x: sizes(p).accumulate ? 'added' : 'written' }),
  record: (r, t, p) => {
    meanTokensBackward(r, t.d_y, sizes(p), { out: t.d_x, accumulate: sizes(p).accumulate });
  },
};

export const meanTokensOp: Op = {
  name: 'mean_tokens',
  variants: () => ['mean_tokens'],
  problems: {
    test: [
      { batch: 3, length: 5, width: 12 },
      { batch: 2, length: 64, width: 96 },
      { batch: 5, length: 9, width: 7 },
    ],
    bench: [{ batch: 64, length: 64, width: 96 }],
  },
  inputs: (p) => ({ x: { shape: [sizes(p).batch, sizes(p).length, sizes(p).width] } }),
  outputs: (p) => ({ y: [sizes(p).batch, sizes(p).width] }),
  record: (r, t, p) => {
    meanTokens(r, t.x, sizes(p), { out: t.y });
  },
  oracle({ x }, p) {
    const { batch, length, width } = sizes(p);
    const y = new Float64Array(batch * width);
    for (const [i, value] of x.entries()) y[Math.floor(i / width / length) * width + (i % width)] += value / length;
    return { y };
  },
  flops: (p) => sizes(p).batch * sizes(p).length * sizes(p).width,
  gradient,
};
