/** What tests and benchmarks know of an op, so that a new op gets its checks and its roofline row without new code. */
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { DType, Tensor } from '../gpu/tensor.ts';

/** Sizes and switches of one problem. */
export type Problem = Readonly<Record<string, number | boolean | string>>;

export interface Input {
  shape: readonly number[];
  /** Numbers are rounded to this type before the op and the oracle see them. */
  dtype?: DType;
  /** What else rounds them, to what is stored. */
  round?: (data: Float32Array) => Float32Array;
  /** Values for tests: standard normal numbers unless given; `index` draws distinct integers below `bound`. */
  fill?: { index: number } | { values: (size: number) => ArrayLike<number> } | { scale: number };
  /** Puts the numbers on the device in the layout that the variant wants (packed weights). */
  upload?: (device: Device, data: Float32Array, variant: string) => Tensor;
  /** The op updates it in place: it is an output too. */
  inPlace?: boolean;
}

export type Arrays = Record<string, Float64Array>;

export interface Op {
  name: string;
  /** Implementations that this device and this problem allow, the preferred one first. */
  variants(device: Device, problem: Problem): string[];
  /** Small and odd problems for tests, and the models' own for benchmarks. */
  problems: { test: readonly Problem[]; bench: readonly Problem[] };
  inputs(problem: Problem): Record<string, Input>;
  outputs(problem: Problem): Record<string, readonly number[]>;
  /** How outputs are stored: f32 unless given. */
  outputType?(problem: Problem): DType;
  /** Records the op on tensors that are named as `inputs` and `outputs` name them; in tiles of `tile` rows, see `tiles`. */
  record(
    recorder: Recorder,
    tensors: Readonly<Record<string, Tensor>>,
    problem: Problem,
    variant: string,
    tile?: number,
  ): void;
  /** Implementations that work in tiles of several sizes, of which results do not depend. */
  tiles?: Tiles;
  /** The same in float64, plainly. */
  oracle(inputs: Arrays, problem: Problem): Arrays;
  flops(problem: Problem): number;
  /** Largest error allowed, over the largest value of the output, where it is not that of float32 sums. */
  tolerance?: number | ((problem: Problem, variant: string) => number | undefined);
  gradient?: Gradient;
}

/** Rows that a workgroup takes on: what else of an implementation can be measured. */
export interface Tiles {
  /** Those that the device allows for this problem, the built-in choice first. */
  of(device: Device, problem: Problem, variant: string): number[];
  /** The number of rows that the choice depends on. */
  rows(problem: Problem): number;
}

export type GradientUse = 'written' | 'added' | 'columns';

/**
 * The backward of an op, for tests to check against finite differences of its oracle. Gradients of parameters are
 * added to what is there, since a parameter may serve twice and a step may have several micro-batches; gradients of
 * activations are written.
 */
export interface Gradient {
  /** Problems to check; each has the op's switches that have a backward. */
  problems: readonly Problem[];
  variants(device: Device, problem: Problem): string[];
  /** Inputs that have a gradient, and whether it is written, added, or written in some columns while the rest stay. */
  of(problem: Problem): Readonly<Record<string, GradientUse>>;
  /** The op's inputs as backward wants them, where they differ. */
  inputs?(problem: Problem): Record<string, Input>;
  /** Integer tensors that follow from the inputs (inverse indices). */
  derived?(inputs: Arrays, problem: Problem): Record<string, Uint32Array>;
  /** Records the backward: inputs by name, `d_<output>` for what comes from above, `d_<input>` to write or add to. */
  record(recorder: Recorder, tensors: Readonly<Record<string, Tensor>>, problem: Problem, variant: string): void;
  /**
   * The loss, for ops that end in one and take no gradient from above. `point` holds the inputs at which the gradient
   * is taken: what is detached is read from there.
   */
  loss?(inputs: Arrays, problem: Problem, point: Arrays): number;
  /** Largest error allowed, over the largest value of the gradient. */
  tolerance?: number;
}

/** Workgroups of 64 for `size` invocations, folded over y as the element-wise kernels unfold them. */
export function grid1d(size: number): [number, number] {
  const groups = Math.ceil(size / 64);
  return groups <= 32768 ? [groups, 1] : [32768, Math.ceil(groups / 32768)];
}
