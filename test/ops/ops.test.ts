/** Every op, every variant that the device has, against its float64 oracle on fresh random numbers, outputs poisoned. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { createTensors, inputArrays, lacksF16 } from '../../src/ops/problem.ts';
import { ops } from '../../src/ops/registry.ts';
import { expectClose, random } from '../helpers/golden.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

/** Error of float32 sums over the oracle's float64, as a share of the largest output. */
const SINGLE = 5e-6;
/**
 * The oracle sees inputs as they are stored, and all sums are float32, so that half precision adds one rounding
 * alone, of the output: half a unit in the last place of a significand of 11 bits.
 */
const HALF = SINGLE + 2 ** -11;

describe.each(ops.map((op) => [op.name, op] as const))('%s', (_, op) => {
  it.for(op.problems.test.map((problem) => [JSON.stringify(problem), problem] as const))(
    '%s equals the oracle in every variant',
    async ([, problem], { skip }) => {
      skip(lacksF16(device, op, problem), 'the adapter has no shader-f16');
      const rng = random();
      for (const variant of op.variants(device, problem)) {
        const session = new Session(device);
        const arrays = inputArrays(op, problem, rng);
        const tensors = createTensors(device, op, problem, variant, arrays);
        const program = session.record(op.name, (r) => op.record(r, tensors, problem, variant));
        expect(program.dispatches.length).toBeGreaterThan(0);
        await session.prepare();
        session.run(program);
        const expected = op.oracle(arrays, problem);
        expect(Object.keys(expected).sort()).toEqual(Object.keys(op.outputs(problem)).sort());
        const relative = op.tolerance ?? (op.outputType?.(problem) === 'f16' ? HALF : SINGLE);
        for (const name of Object.keys(expected)) {
          expectClose(await device.read(tensors[name]), expected[name], { relative }, `${op.name} ${variant} ${name}`);
        }
        session.dispose();
        for (const tensor of Object.values(tensors)) tensor.destroy();
      }
    },
  );
});
