/** Every op that has a backward, every variant that the device has, against central differences of its float64 oracle. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import type { Tensor } from '../../src/gpu/tensor.ts';
import type { Arrays, Gradient, Op, Problem } from '../../src/ops/op.ts';
import { inputArrays } from '../../src/ops/problem.ts';
import { ops } from '../../src/ops/registry.ts';
import { expectClose, type Random, random } from '../helpers/golden.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

/** Error of float32 sums and of the differences, as a share of the largest gradient. */
const TOLERANCE = 1e-5;

const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** d loss / d input for every element, by central differences in float64. */
function differences(
  op: Op,
  gradient: Gradient,
  problem: Problem,
  arrays: Arrays,
  upstream: Arrays,
  name: string,
): Float64Array {
  const loss = (inputs: Arrays) => {
    if (gradient.loss) return gradient.loss(inputs, problem, arrays);
    const outputs = op.oracle(inputs, problem);
    let sum = 0;
    for (const [output, g] of Object.entries(upstream)) {
      for (const [i, value] of outputs[output].entries()) sum += value * g[i];
    }
    return sum;
  };
  const step = 1e-4;
  return arrays[name].map((value, i) => {
    const at = (moved: number) => {
      const values = Float64Array.from(arrays[name]);
      values[i] = moved;
      return loss({ ...arrays, [name]: values });
    };
    return (at(value + step) - at(value - step)) / (2 * step);
  });
}

function createTensors(op: Op, gradient: Gradient, problem: Problem, variant: string, arrays: Arrays, rng: Random) {
  const tensors: Record<string, Tensor> = {};
  const before: Record<string, Float32Array> = {};
  for (const [name, input] of Object.entries((gradient.inputs ?? op.inputs)(problem))) {
    const { shape, dtype = 'f32', upload } = input;
    tensors[name] =
      upload?.(device, Float32Array.from(arrays[name]), variant) ?? device.tensor(shape, dtype, name, arrays[name]);
    const use = gradient.of(problem)[name];
    if (!use) continue;
    const size = product(shape);
    before[name] = use === 'added' ? rng.normal(size) : new Float32Array(size).fill(use === 'written' ? Number.NaN : 0);
    tensors[`d_${name}`] = device.tensor(shape, 'f32', `d_${name}`, before[name]);
    if (use !== 'added') before[name] = new Float32Array(size);
  }
  for (const [name, indices] of Object.entries(gradient.derived?.(arrays, problem) ?? {})) {
    tensors[name] = device.tensor([indices.length], 'u32', name, indices);
  }
  return { tensors, before };
}

const withGradient = ops.flatMap((op) => (op.gradient ? [[op.name, op, op.gradient] as const] : []));

describe.each(withGradient)('%s backward', (_, op, gradient) => {
  it.for(gradient.problems.map((problem) => [JSON.stringify(problem), problem] as const))(
    '%s equals central differences in every variant',
    async ([, problem]) => {
      const rng = random();
      const inputs = (gradient.inputs ?? op.inputs)(problem);
      const arrays = inputArrays({ ...op, inputs: () => inputs }, problem, rng);
      const upstream: Arrays = {};
      if (!gradient.loss) {
        for (const [name, shape] of Object.entries(op.outputs(problem))) {
          upstream[name] = Float64Array.from(rng.normal(product(shape)));
        }
      }
      const names = Object.keys(gradient.of(problem));
      expect(names.length).toBeGreaterThan(0);
      const expected = Object.fromEntries(
        names.map((name) => [name, differences(op, gradient, problem, arrays, upstream, name)]),
      );
      for (const variant of gradient.variants(device, problem)) {
        const { tensors, before } = createTensors(op, gradient, problem, variant, arrays, rng);
        for (const [name, g] of Object.entries(upstream)) {
          tensors[`d_${name}`] = device.tensor(op.outputs(problem)[name], 'f32', `d_${name}`, g);
        }
        const session = new Session(device);
        const program = session.record(op.name, (r) => gradient.record(r, tensors, problem, variant));
        expect(program.dispatches.length).toBeGreaterThan(0);
        await session.prepare();
        session.run(program);
        for (const name of names) {
          const got = await device.read(tensors[`d_${name}`]);
          const total = expected[name].map((value, i) => value + before[name][i]);
          expectClose(got, total, { relative: gradient.tolerance ?? TOLERANCE }, `${op.name} ${variant} d_${name}`);
        }
        session.dispose();
        for (const tensor of Object.values(tensors)) tensor.destroy();
      }
    },
  );
});
