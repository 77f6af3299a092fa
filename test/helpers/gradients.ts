/** Running the backward of an op on a device, for tests. */
import { Session } from '../../src/gpu/session.ts';
import type { Device } from '../../src/gpu/device.ts';
import type { Tensor } from '../../src/gpu/tensor.ts';
import type { Arrays, Gradient, Input, Op, Problem } from '../../src/ops/op.ts';
import { inputArrays } from '../../src/ops/problem.ts';
import type { Random } from './numbers.ts';

export interface GradientPoint {
  /** The op's inputs. */
  arrays: Arrays;
  /** Gradients of its outputs, by the output's name; empty for ops that end in a loss. */
  upstream: Arrays;
  /** What the gradients of its inputs hold before; NaN where they are written. */
  before: Record<string, Float32Array>;
}

const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

const inputsOf = (op: Op, gradient: Gradient, problem: Problem): Record<string, Input> =>
  (gradient.inputs ?? op.inputs)(problem);

/** Random numbers for one problem. */
export function gradientPoint(op: Op, gradient: Gradient, problem: Problem, rng: Random): GradientPoint {
  const inputs = inputsOf(op, gradient, problem);
  const arrays = inputArrays({ ...op, inputs: () => inputs }, problem, rng);
  const upstream: Arrays = {};
  if (!gradient.loss) {
    for (const [name, shape] of Object.entries(op.outputs(problem))) {
      upstream[name] = Float64Array.from(rng.normal(product(shape)));
    }
  }
  const before: Record<string, Float32Array> = {};
  for (const [name, use] of Object.entries(gradient.of(problem))) {
    const size = product(inputs[name].shape);
    before[name] = use === 'added' ? rng.normal(size) : new Float32Array(size).fill(use === 'written' ? Number.NaN : 0);
  }
  return { arrays, upstream, before };
}

/** Runs one implementation; returns the gradients by the input's name. */
export async function runGradient(
  device: Device,
  op: Op,
  gradient: Gradient,
  problem: Problem,
  variant: string,
  { arrays, upstream, before }: GradientPoint,
): Promise<Record<string, Float32Array>> {
  const tensors: Record<string, Tensor> = {};
  for (const [name, { shape, dtype = 'f32', upload }] of Object.entries(inputsOf(op, gradient, problem))) {
    tensors[name] =
      upload?.(device, Float32Array.from(arrays[name]), variant) ?? device.tensor(shape, dtype, name, arrays[name]);
    if (name in before) tensors[`d_${name}`] = device.tensor(shape, 'f32', `d_${name}`, before[name]);
  }
  for (const [name, indices] of Object.entries(gradient.derived?.(arrays, problem) ?? {})) {
    tensors[name] = device.tensor([indices.length], 'u32', name, indices);
  }
  for (const [name, g] of Object.entries(upstream)) {
    tensors[`d_${name}`] = device.tensor(op.outputs(problem)[name], 'f32', `d_${name}`, g);
  }
  const session = new Session(device);
  try {
    const program = session.record(op.name, (r) => gradient.record(r, tensors, problem, variant));
    await session.prepare();
    session.run(program);
    const results: Record<string, Float32Array> = {};
    for (const name of Object.keys(before)) results[name] = await device.read(tensors[`d_${name}`]);
    return results;
  } finally {
    session.dispose();
    for (const tensor of Object.values(tensors)) tensor.destroy();
  }
}
