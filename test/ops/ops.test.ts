/** Every op, every variant that the device has, against its float64 oracle on fresh random numbers, outputs poisoned. */
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import { EmigmError } from '../../src/errors.ts';
import { Device } from '../../src/gpu/device.ts';
import { checkOps, isRight, type OpCheck, runVariant, toleranceOf } from '../../src/ops/check.ts';
import { activationOp } from '../../src/ops/activation.ts';
import { inputArrays, lacksF16 } from '../../src/ops/problem.ts';
import { ops } from '../../src/ops/registry.ts';
import { expectClose, random } from '../helpers/golden.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

describe.each(ops.map((op) => [op.name, op] as const))('%s', (_, op) => {
  it.for(op.problems.test.map((problem) => [JSON.stringify(problem), problem] as const))(
    '%s equals the oracle in every variant',
    async ([, problem], { skip }) => {
      skip(lacksF16(device, op, problem), 'the adapter has no shader-f16');
      const rng = random();
      for (const variant of op.variants(device, problem)) {
        const arrays = inputArrays(op, problem, rng);
        const actual = await runVariant(device, op, problem, variant, arrays);
        const expected = op.oracle(arrays, problem);
        expect(Object.keys(expected).sort()).toEqual(Object.keys(op.outputs(problem)).sort());
        for (const name of Object.keys(expected)) {
          const relative = toleranceOf(op, problem, variant);
          expectClose(actual[name], expected[name], { relative }, `${op.name} ${variant} ${name}`);
        }
      }
    },
  );
});

test('the check of a device finds a kernel that is wrong, and one that does not run', async () => {
  const problem = activationOp.problems.test[0];
  const good = { ...activationOp, problems: { test: [problem], bench: [] } };
  const oracle: typeof good.oracle = (inputs, at) =>
    Object.fromEntries(
      Object.entries(good.oracle(inputs, at)).map(([name, values]) => [name, values.map((x) => x + 1e-3)]),
    );
  const broken: typeof good.record = () => {
    throw new EmigmError('kernel', 'no such kernel');
  };
  const checks: OpCheck[] = [];
  const list = [good, { ...good, oracle }, { ...good, record: broken }];
  for await (const check of checkOps(device, list)) checks.push(check);
  expect(checks.map(isRight)).toEqual([true, false, false]);
  expect(checks.map(({ failure }) => failure)).toEqual([undefined, undefined, 'no such kernel']);
});
