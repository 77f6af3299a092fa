/** Softmax cross-entropy with label smoothing: loss of every row, total, gradient. */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { describeTensor, type Tensor } from '../gpu/tensor.ts';
import { vectors } from './elementwise.ts';
import { totalLoss } from './loss.ts';
import { repeats } from './optimizer.ts';
import { type Arrays, type Gradient, grid1d, type Op, type Problem } from './op.ts';

export interface CrossEntropyInputs {
  /** f32 [rows, classes] */
  logits: Tensor;
  /** u32 [>= rows], each below `classes`. */
  labels: Tensor;
  /** f32 [>= rows]: weight of each row's loss in the total; 0 leaves a row out. */
  weights: Tensor;
}

export interface CrossEntropyOptions {
  /** Share of the target that is spread evenly over all classes, 0 to below 1. Default 0. */
  smoothing?: number;
  loss?: Tensor;
  /** f32 [rows, 2] for backward: the largest logit, and the logarithm of the sum of exponentials relative to it. */
  stats?: Tensor;
  /** f32 [1] for the total; `accumulate` adds to what it holds. */
  total?: Tensor;
  accumulate?: boolean;
  variant?: string;
}

/** What `crossEntropyBackward` needs of the forward pass. */
export interface CrossEntropyResult {
  loss: Tensor;
  total: Tensor;
  stats: Tensor;
  smoothing: number;
}

function variants(device: Device, classes: number): string[] {
  if (classes % 4 !== 0) return ['reference'];
  const subgroup = device.hasSubgroups && device.lanes > 0 && device.lanes <= 64;
  if (device.isCpu && subgroup) return ['subgroup', 'reference', 'workgroup'];
  return ['workgroup', 'reference', ...(subgroup ? ['subgroup'] : [])];
}

function checkSmoothing(smoothing: number): void {
  if (!(smoothing >= 0 && smoothing < 1)) {
    throw new EmigmError('input', `label smoothing ${smoothing} is not a share from 0 to below 1`);
  }
}

/**
 * loss[rows] = log-sum-exp(logits) - (1 - smoothing) logits[label] - smoothing mean(logits), and total[1] =
 * sum(weights * loss). One pass over the logits, maximum and sum of exponentials kept together.
 * @throws EmigmError 'shape' when the logits are no rows of `classes`; 'input' when smoothing is no share
 */
export function crossEntropy(
  r: Recorder,
  { logits, labels, weights }: CrossEntropyInputs,
  classes: number,
  options: CrossEntropyOptions = {},
): CrossEntropyResult {
  const { smoothing = 0 } = options;
  checkSmoothing(smoothing);
  const rows = logits.size / classes;
  if (!Number.isInteger(rows) || labels.size < rows || weights.size < rows) {
    throw new EmigmError(
      'shape',
      `cross entropy: logits are ${describeTensor(logits)}, labels ${describeTensor(labels)}, weights ` +
        `${describeTensor(weights)}; rows of ${classes} classes and as many labels and weights wanted`,
    );
  }
  const loss = options.loss ?? r.temp([rows], 'f32', 'cross entropy');
  const stats = options.stats ?? r.temp([rows, 2], 'f32', 'cross entropy stats');
  const usable = variants(r.device, classes);
  const variant = options.variant ?? usable.find((name) => name === r.device.variants.cross_entropy) ?? usable[0];
  // Lanes of CPU drivers run one after another, and their compilers take long over many.
  const lanes: Record<string, number> = { subgroup: r.device.lanes, workgroup: r.device.isCpu ? 32 : 256 };
  const suffix = variant === 'workgroup' ? '' : `_${variant}`;
  r.call({
    op: 'cross_entropy',
    kernel: {
      file: `loss/cross_entropy${suffix}`,
      consts: variant in lanes ? { LANES: lanes[variant] } : {},
    },
    operands: { logits, labels, loss, stats },
    params: { rows, classes, smoothing },
    grid: variant === 'reference' ? grid1d(rows) : rows <= 32768 ? [rows] : [32768, Math.ceil(rows / 32768)],
    flops: 5 * logits.size,
  });
  return { loss, stats, smoothing, total: totalLoss(r, loss, weights, rows, options) };
}

/** Gradient of the total by the logits, weights * (softmax - target): written. */
export function crossEntropyBackward(
  r: Recorder,
  { logits, labels, weights }: CrossEntropyInputs,
  classes: number,
  { stats, smoothing }: Pick<CrossEntropyResult, 'stats' | 'smoothing'>,
  out?: Tensor,
): Tensor {
  const dLogits = out ?? r.temp(logits.shape, 'f32', `d ${logits.label}`);
  const { per, consts } = vectors(classes);
  const repeat = repeats(r.device);
  r.call({
    op: 'cross_entropy backward',
    kernel: {
      file: 'loss/cross_entropy_backward',
      consts: { ...consts, REPEAT: repeat, ...(per === 1 && { Bits: 'u32', PER: 1, STEPS: '0u' }) },
    },
    operands: { logits, labels, stats, weights, d_logits: dLogits },
    params: { size: logits.size / per, width: classes / per, smoothing, uniform_share: smoothing / classes },
    grid: grid1d(Math.ceil(logits.size / per / repeat)),
    flops: 5 * logits.size,
  });
  return dLogits;
}

interface CrossEntropyProblem {
  rows: number;
  classes: number;
  smoothing?: number;
  /** Added to all logits: only differences count. */
  shift?: number;
}
const sizes = (p: Problem) => p as unknown as CrossEntropyProblem;

/** Loss and stats of every row, in float64. */
function rowLosses({ logits, labels }: Arrays, p: Problem): { loss: Float64Array; stats: Float64Array } {
  const { rows, classes, smoothing = 0 } = sizes(p);
  const loss = new Float64Array(rows);
  const stats = new Float64Array(2 * rows);
  for (let row = 0; row < rows; row++) {
    const x = logits.subarray(row * classes, (row + 1) * classes);
    const most = x.reduce((a, b) => Math.max(a, b));
    const logSum = Math.log(x.reduce((sum, value) => sum + Math.exp(value - most), 0));
    const mean = x.reduce((sum, value) => sum + value, 0) / classes;
    loss[row] = most + logSum - (1 - smoothing) * x[labels[row]] - smoothing * mean;
    stats.set([most, logSum], 2 * row);
  }
  return { loss, stats };
}

const total = (loss: Float64Array, weights: Float64Array) =>
  loss.reduce((sum, value, i) => sum + weights[i] * value, 0);

const gradient: Gradient = {
  problems: [
    { rows: 3, classes: 7, smoothing: 0.1 },
    { rows: 4, classes: 24, smoothing: 0.2 },
    { rows: 2, classes: 36 },
  ],
  variants: (device, p) => variants(device, sizes(p).classes),
  of: () => ({ logits: 'written' }),
  record: (r, t, p, variant) => {
    const { classes, smoothing } = sizes(p);
    const inputs = { logits: t.logits, labels: t.labels, weights: t.weights };
    crossEntropyBackward(r, inputs, classes, crossEntropy(r, inputs, classes, { smoothing, variant }), t.d_logits);
  },
  loss: (inputs, p) => total(rowLosses(inputs, p).loss, inputs.weights),
};

export const crossEntropyOp: Op = {
  name: 'cross_entropy',
  variants: (device, p) => variants(device, sizes(p).classes),
  problems: {
    test: [
      { rows: 3, classes: 7, smoothing: 0.1 },
      { rows: 5, classes: 48 },
      { rows: 4, classes: 1028, smoothing: 0.3, shift: 50 },
      { rows: 70, classes: 12, smoothing: 0.1, shift: -30 },
      { rows: 3, classes: 16384, smoothing: 0.1 },
      { rows: 2, classes: 1 },
    ],
    bench: [{ rows: 4096, classes: 16384, smoothing: 0.1 }],
  },
  inputs: (p) => {
    const { rows, classes, shift = 0 } = sizes(p);
    const shifted = (n: number) => Array.from({ length: n }, (_, i) => shift + 6 * Math.sin(0.37 * i * i));
    return {
      logits: { shape: [rows, classes], fill: shift ? { values: shifted } : { scale: 3 } },
      labels: {
        shape: [rows + 1],
        dtype: 'u32',
        fill: { values: (n) => Array.from({ length: n }, (_, i) => (i * 7919) % classes) },
      },
      weights: { shape: [rows], fill: { values: (n) => Array.from({ length: n }, (_, i) => (i % 4) / n) } },
    };
  },
  outputs: (p) => ({ loss: [sizes(p).rows], stats: [sizes(p).rows, 2], total: [1] }),
  record: (r, t, p, variant) => {
    const { classes, smoothing } = sizes(p);
    const { logits, labels, weights, loss, stats, total } = t;
    crossEntropy(r, { logits, labels, weights }, classes, { smoothing, loss, stats, total, variant });
  },
  oracle: (inputs, p) => {
    const { loss, stats } = rowLosses(inputs, p);
    return { loss, stats, total: Float64Array.of(total(loss, inputs.weights)) };
  },
  flops: (p) => 5 * sizes(p).rows * sizes(p).classes,
  gradient,
};
