/** Every op that has a backward, every variant that the device has, against central differences of its float64 oracle. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import type { Arrays, Gradient, Op, Problem } from '../../src/ops/op.ts';
import { ops } from '../../src/ops/registry.ts';
import { expectClose, random } from '../helpers/golden.ts';
import { gradientPoint, runGradient } from '../helpers/gradients.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

/** Error of float32 sums and of the differences, as a share of the largest gradient. */
const TOLERANCE = 1e-5;

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

const withGradient = ops.flatMap((op) => (op.gradient ? [[op.name, op, op.gradient] as const] : []));

describe.each(withGradient)('%s backward', (_, op, gradient) => {
  it.for(gradient.problems.map((problem) => [JSON.stringify(problem), problem] as const))(
    '%s equals central differences in every variant',
    async ([, problem]) => {
      const point = gradientPoint(op, gradient, problem, random());
      const { arrays, upstream, before } = point;
      const names = Object.keys(gradient.of(problem));
      expect(names.length).toBeGreaterThan(0);
      const expected = Object.fromEntries(
        names.map((name) => {
          const slopes = differences(op, gradient, problem, arrays, upstream, name);
          const added = gradient.of(problem)[name] === 'added';
          return [name, added ? slopes.map((value, i) => value + before[name][i]) : slopes];
        }),
      );
      for (const variant of gradient.variants(device, problem)) {
        const got = await runGradient(device, op, gradient, problem, variant, point);
        for (const name of names) {
          const label = `${op.name} ${variant} d_${name}`;
          expectClose(got[name], expected[name], { relative: gradient.tolerance ?? TOLERANCE }, label);
        }
      }
    },
  );
});
