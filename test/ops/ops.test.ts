/** Every op, every variant that the device has, against its float64 oracle on fresh random numbers, outputs poisoned. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/recorder.ts';
import type { Tensor } from '../../src/gpu/tensor.ts';
import type { Input } from '../../src/ops/op.ts';
import { ops } from '../../src/ops/registry.ts';
import { expectClose, random } from '../helpers/golden.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

const rng = random();

function values(input: Input): Float32Array {
  const size = input.shape.reduce((a, b) => a * b, 1);
  const { fill } = input;
  if (fill && 'values' in fill) return Float32Array.from(fill.values(size));
  if (fill && 'index' in fill) {
    const order = Array.from({ length: fill.index }, (_, i) => i).sort(() => rng.next() - 0.5);
    return Float32Array.from({ length: size }, (_, i) => order[i % order.length]);
  }
  const scale = fill && 'scale' in fill ? fill.scale : 1;
  return rng.normal(size, scale);
}

describe.each(ops.map((op) => [op.name, op] as const))('%s', (_, op) => {
  describe.each(op.problems.test.map((problem) => [JSON.stringify(problem), problem] as const))('%s', (_, problem) => {
    it('equals the oracle in every variant', async () => {
      for (const variant of op.variants(device, problem)) {
        const session = new Session(device);
        const tensors: Record<string, Tensor> = {};
        const arrays: Record<string, Float64Array> = {};
        for (const [name, input] of Object.entries(op.inputs(problem))) {
          const data = values(input);
          arrays[name] = Float64Array.from(
            input.dtype === 'u32'
              ? input.fill && 'values' in input.fill
                ? input.fill.values(data.length)
                : data
              : data,
          );
          tensors[name] =
            input.upload?.(device, data, variant) ??
            device.tensor(input.shape, input.dtype ?? 'f32', name, arrays[name]);
        }
        for (const [name, shape] of Object.entries(op.outputs(problem))) {
          if (tensors[name]) continue; // updated in place
          const size = shape.reduce((a, b) => a * b, 1);
          tensors[name] = device.tensor(shape, 'f32', name, new Float32Array(size).fill(Number.NaN));
        }
        const program = session.record(op.name, (r) => op.record(r, tensors, problem, variant));
        expect(program.dispatches.length).toBeGreaterThan(0);
        await session.prepare();
        session.run(program);
        const expected = op.oracle(arrays, problem);
        expect(Object.keys(expected).sort()).toEqual(Object.keys(op.outputs(problem)).sort());
        for (const name of Object.keys(expected)) {
          // Half-precision weights: each is off by 2^-12 of itself at most, and errors add up like a random walk.
          const relative = problem.stored === 'f16' ? 1e-3 : (op.tolerance ?? 5e-6);
          expectClose(await device.read(tensors[name]), expected[name], { relative }, `${op.name} ${variant} ${name}`);
        }
        session.dispose();
        for (const tensor of Object.values(tensors)) tensor.destroy();
      }
    });
  });
});
