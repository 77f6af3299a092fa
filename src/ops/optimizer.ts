/** The optimizer on flat arrays: global norm of the gradient, AdamW with clipping and moving average, fill and scale. */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { describeTensor, type Tensor } from '../gpu/tensor.ts';
import { grid1d, type Op, type Problem } from './op.ts';

/** A range of a flat array, in elements; both multiples of 4. Left out: all of it. */
export interface Range {
  offset: number;
  count: number;
}

/** vec4s of a range. */
function quads(op: string, x: Tensor, { offset, count }: Range = { offset: 0, count: x.size }) {
  if (offset % 4 !== 0 || count % 4 !== 0 || offset + count > x.size) {
    throw new EmigmError(
      'shape',
      `${op}: ${count} numbers from ${offset} on of ${x.label} (${describeTensor(x)}); ranges are multiples of 4`,
    );
  }
  return { offset: offset / 4, size: count / 4 };
}

/** vec4s that an invocation of a plain element-wise kernel takes. */
export const repeats = ({ isCpu }: Device) => (isCpu ? 32 : 1);

/** vec4s whose squares one workgroup sums. */
const SPAN = 4096;

/** norm[1] = sqrt(sum of the squares of all numbers of these flat f32 tensors), the same in every run. */
export function gradNorm(r: Recorder, gradients: readonly Tensor[], out?: Tensor): Tensor {
  const norm = out ?? r.temp([1], 'f32', 'gradient norm');
  const sizes = gradients.map((x) => quads('gradient norm', x).size);
  const parts = sizes.map((size) => Math.ceil(size / SPAN));
  const all = parts.reduce((a, b) => a + b, 0);
  const partial = r.temp([all], 'f32', 'partial sums');
  const lanes = r.device.isCpu && r.device.lanes > 0 ? r.device.lanes : 256;
  let offset = 0;
  gradients.forEach((x, i) => {
    r.call({
      op: 'grad_norm',
      kernel: { file: 'optimizer/sum_squares', consts: { LANES: lanes, SPAN } },
      operands: { x, partial },
      params: { size: sizes[i], partial_offset: offset },
      grid: parts[i] <= 32768 ? [parts[i]] : [32768, Math.ceil(parts[i] / 32768)],
      flops: 2 * x.size,
    });
    offset += parts[i];
  });
  r.call({
    op: 'grad_norm',
    kernel: { file: 'optimizer/norm' },
    operands: { partial, norm },
    params: { size: all },
    grid: [1],
    flops: all,
  });
  return norm;
}

/** Flat f32 tensors of one layout. */
export interface AdamWState {
  value: Tensor;
  gradient: Tensor;
  firstMoment: Tensor;
  secondMoment: Tensor;
  /** Moving average of the values. */
  average: Tensor;
}

export interface AdamWOptions {
  beta1: number;
  beta2: number;
  /** Added to the root of the second moment. Default 1e-8. */
  eps?: number;
  weightDecay: number;
  /**
   * Largest global norm of the gradient, and the gradient's norm [1] (`gradNorm`). While that is not finite the step
   * changes nothing, the gradient neither. Left out: no clipping, no such check.
   */
  clip?: { maxNorm: number; norm: Tensor };
  /** f32 [4] that the host fills with `adamwSchedule` before each replay. */
  schedule: Tensor;
  range?: Range;
}

/**
 * What changes from step to step, for the `schedule` tensor of `adamw`.
 * @param step number of the step, from 1 on
 */
export function adamwSchedule(
  step: number,
  {
    learningRate,
    beta1,
    beta2,
    averageDecay,
  }: { learningRate: number; beta1: number; beta2: number; averageDecay: number },
): Float32Array<ArrayBuffer> {
  return Float32Array.of(
    learningRate,
    learningRate / (1 - beta1 ** step),
    1 / Math.sqrt(1 - beta2 ** step),
    1 - averageDecay,
  );
}

/**
 * One AdamW step in place: values, moments and average change, the gradient becomes zero. Weight decay is decoupled
 * (Loshchilov and Hutter, arXiv 1711.05101), clipping by global norm as PyTorch does it; average = decay * average +
 * (1 - decay) * new value. One call for each range with a weight decay of its own.
 * @throws EmigmError 'shape' when the tensors differ in size or the range is no multiple of 4
 */
export function adamw(r: Recorder, state: AdamWState, options: AdamWOptions): void {
  const { value, gradient, firstMoment, secondMoment, average } = state;
  const { beta1, beta2, eps = 1e-8, weightDecay, clip, schedule, range } = options;
  const { offset, size } = quads('adamw', value, range);
  const odd = [gradient, firstMoment, secondMoment, average].find((x) => x.size !== value.size);
  if (odd) {
    throw new EmigmError(
      'shape',
      `adamw: ${value.label} is ${describeTensor(value)}, ${odd.label} ${describeTensor(odd)}`,
    );
  }
  r.call({
    op: 'adamw',
    kernel: {
      file: 'optimizer/adamw',
      consts: { REPEAT: repeats(r.device) },
      overrides: { CLIP: clip !== undefined },
    },
    operands: {
      value,
      gradient,
      first_moment: firstMoment,
      second_moment: secondMoment,
      average,
      norm: clip?.norm,
      schedule,
    },
    params: {
      offset,
      size,
      beta1,
      rest1: 1 - beta1,
      beta2,
      rest2: 1 - beta2,
      eps,
      weight_decay: weightDecay,
      max_norm: clip?.maxNorm ?? 0,
    },
    grid: grid1d(Math.ceil(size / repeats(r.device))),
    flops: 4 * 17 * size,
  });
}

/** x = factor * x in place. */
export function scale(r: Recorder, x: Tensor, factor: number, range?: Range): void {
  recordScale(r, 'scale', x, factor, range);
}

/** x = 0. */
export function zero(r: Recorder, x: Tensor, range?: Range): void {
  recordScale(r, 'zero', x, 0, range);
}

function recordScale(r: Recorder, op: 'scale' | 'zero', x: Tensor, factor: number, range?: Range): void {
  const { offset, size } = quads(op, x, range);
  r.call({
    op,
    kernel: { file: 'optimizer/scale', consts: { REPEAT: repeats(r.device) }, overrides: { ZERO: op === 'zero' } },
    operands: { x },
    params: { offset, size, factor },
    grid: grid1d(Math.ceil(size / repeats(r.device))),
    flops: op === 'zero' ? 0 : 4 * size,
  });
}

interface Sizes {
  size: number;
  /** A second array of this size. */
  more?: number;
  offset?: number;
  count?: number;
  maxNorm?: number;
  weightDecay?: number;
}
const sizes = (p: Problem) => p as unknown as Sizes;
const rangeOf = (p: Problem): Range | undefined => {
  const { offset, count } = sizes(p);
  return offset === undefined || count === undefined ? undefined : { offset, count };
};

export const gradNormOp: Op = {
  name: 'grad_norm',
  variants: () => ['grad_norm'],
  problems: {
    test: [{ size: 4 }, { size: 1028 }, { size: 4 * SPAN, more: 12 }, { size: 4 * SPAN + 4, more: 3 * 4 * SPAN + 68 }],
    bench: [{ size: 2 ** 26 }],
  },
  inputs: ({ size, more }) => ({
    x: { shape: [size as number] },
    ...(more && { other: { shape: [more as number], fill: { scale: 3 } } }),
  }),
  outputs: () => ({ norm: [1] }),
  record: (r, t) => {
    gradNorm(r, t.other ? [t.x, t.other] : [t.x], t.norm);
  },
  oracle: ({ x, other = new Float64Array() }) => ({ norm: Float64Array.of(Math.hypot(norm2(x), norm2(other))) }),
  flops: (p) => 2 * (sizes(p).size + (sizes(p).more ?? 0)),
};

const norm2 = (x: Float64Array) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));

const BETAS = { beta1: 0.9, beta2: 0.95 };
/** Clipping reads this norm, whatever the gradient's own is. */
const NORM = 2.5;
const positive = (size: number) => Array.from({ length: size }, (_, i) => ((i % 17) + 0.01) / 9);
const stateInput = (p: Problem) => ({ shape: [sizes(p).size], inPlace: true });

export const adamwOp: Op = {
  name: 'adamw',
  variants: () => ['adamw'],
  problems: {
    test: [
      { size: 1028, weightDecay: 0.02, maxNorm: 1 },
      { size: 512, offset: 64, count: 300, weightDecay: 0.5 },
      { size: 64, maxNorm: 3 },
    ],
    bench: [{ size: 2 ** 25, weightDecay: 0.02, maxNorm: 1 }],
  },
  inputs: (p) => ({
    value: stateInput(p),
    gradient: stateInput(p),
    firstMoment: stateInput(p),
    secondMoment: { ...stateInput(p), fill: { values: positive } },
    average: stateInput(p),
    norm: { shape: [1], fill: { values: () => [NORM] } },
    schedule: {
      shape: [4],
      fill: { values: () => adamwSchedule(7, { learningRate: 0.1, ...BETAS, averageDecay: 0.99 }) },
    },
  }),
  outputs: (p) => {
    const shape = [sizes(p).size];
    return { value: shape, gradient: shape, firstMoment: shape, secondMoment: shape, average: shape };
  },
  record: (r, t, p) => {
    const { weightDecay = 0, maxNorm } = sizes(p);
    const { value, gradient, firstMoment, secondMoment, average } = t;
    const clip = maxNorm === undefined ? undefined : { maxNorm, norm: t.norm };
    const options = { ...BETAS, weightDecay, clip, schedule: t.schedule, range: rangeOf(p) };
    adamw(r, { value, gradient, firstMoment, secondMoment, average }, options);
  },
  oracle: (inputs, p) => {
    const { size, weightDecay = 0, maxNorm } = sizes(p);
    const { offset, count } = rangeOf(p) ?? { offset: 0, count: size };
    const out = Object.fromEntries(
      Object.entries(inputs).map(([name, values]) => [name, Float64Array.from(values)]),
    ) as typeof inputs;
    const { value, gradient, firstMoment, secondMoment, average } = out;
    const { beta1, beta2 } = BETAS;
    const clip = maxNorm === undefined ? 1 : Math.min(1, maxNorm / (NORM + 1e-6));
    for (let i = offset; i < offset + count; i++) {
      const g = gradient[i] * clip;
      firstMoment[i] = beta1 * firstMoment[i] + (1 - beta1) * g;
      secondMoment[i] = beta2 * secondMoment[i] + (1 - beta2) * g * g;
      const first = firstMoment[i] / (1 - beta1 ** 7);
      const second = secondMoment[i] / (1 - beta2 ** 7);
      value[i] = value[i] * (1 - 0.1 * weightDecay) - (0.1 * first) / (Math.sqrt(second) + 1e-8);
      average[i] = 0.99 * average[i] + 0.01 * value[i];
      gradient[i] = 0;
    }
    return { value, gradient, firstMoment, secondMoment, average };
  },
  flops: (p) => 17 * (sizes(p).count ?? sizes(p).size),
};

export const scaleOp: Op = {
  name: 'scale',
  variants: () => ['scale'],
  problems: {
    test: [{ size: 300 }, { size: 64, offset: 8, count: 20 }],
    bench: [{ size: 2 ** 26 }],
  },
  // `scale` on one tensor and `zero` on another.
  inputs: (p) => ({ x: stateInput(p), cleared: stateInput(p) }),
  outputs: (p) => ({ x: [sizes(p).size], cleared: [sizes(p).size] }),
  record: (r, { x, cleared }, p) => {
    scale(r, x, -1.5, rangeOf(p));
    zero(r, cleared, rangeOf(p));
  },
  oracle: ({ x, cleared }, p) => {
    const { offset, count } = rangeOf(p) ?? { offset: 0, count: sizes(p).size };
    const within = (i: number) => i >= offset && i < offset + count;
    return {
      x: x.map((value, i) => (within(i) ? -1.5 * value : value)),
      cleared: cleared.map((value, i) => (within(i) ? 0 : value)),
    };
  },
  flops: (p) => sizes(p).count ?? sizes(p).size,
};
