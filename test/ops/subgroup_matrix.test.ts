/** Kernels for GPUs that depend on the number of rows, and those for subgroup matrices, these emulated. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { toleranceOf, runVariant } from '../../src/ops/check.ts';
import { createLinear, linear, matmulOp } from '../../src/ops/matmul.ts';
import type { Op, Problem } from '../../src/ops/op.ts';
import { inputArrays } from '../../src/ops/problem.ts';
import { expectClose, random } from '../helpers/golden.ts';
import {
  emulateSubgroupMatrix,
  inOwnTypes,
  SMALL_MATRICES,
  smallAttention,
  smallInt8Matmul,
} from '../helpers/subgroup_matrix.ts';

let device: Device;
/** Has subgroup matrices, as it seems. */
let matrices: Device;
let hasF16: boolean;

beforeAll(async () => {
  device = await Device.open();
  matrices = await Device.open();
  hasF16 = matrices.hasF16;
  emulateSubgroupMatrix(matrices, SMALL_MATRICES);
});
afterAll(() => {
  device?.dispose();
  matrices?.dispose();
});

/** Stored in f16 where the adapter has it; what the kernel rounds itself is then seen, else its sums alone. */
async function check(op: Op, problem: Problem, variant: string): Promise<void> {
  const p = inOwnTypes(problem, hasF16);
  const arrays = inputArrays(op, p, random());
  const actual = await runVariant(matrices, op, p, variant, arrays);
  const expected = op.oracle(arrays, p);
  for (const name of Object.keys(expected)) {
    const relative = toleranceOf(op, p, hasF16 ? variant : 'f32');
    expectClose(actual[name], expected[name], { relative }, `${op.name} ${name}`);
  }
}

describe('matmul by subgroup matrices', () => {
  it('equals the oracle, rows, columns and k at odd edges', async () => {
    const epilogue = { bias: true, activation: 'gelu', gate: true, residual: true };
    await check(matmulOp, { m: 17, k: 36, n: 20, ...epilogue, x: 'f16', y: 'f16', stored: 'f16' }, 'subgroup_matrix');
  });

  it('equals the oracle with weights in int8', async () => {
    const problem = { m: 7, k: 36, n: 20, bias: true, activation: 'gelu', residual: true, stored: 'int8' };
    await check(smallInt8Matmul, problem, 'subgroup_matrix');
  });

  it('gives the same numbers by every tile', async () => {
    const [rows, inputs, outputs] = [35, 52, 40];
    const source = random();
    const x = matrices.tensor([rows, inputs], 'f32', 'x', source.normal(rows * inputs));
    const w = matrices.tensor([outputs, inputs], 'f32', 'w', source.normal(outputs * inputs));
    const results: Float32Array[] = [];
    for (const [subM, subN, down, across, steps] of [
      [1, 1, 1, 1, 1],
      [2, 1, 2, 2, 2],
    ]) {
      const session = new Session(matrices);
      const y = matrices.tensor([rows, outputs], 'f32', 'y');
      const program = session.record('matmul', (r) => {
        r.call({
          op: 'matmul',
          kernel: {
            file: 'matmul/subgroup_matrix',
            consts: {
              ...{ MATRIX_M: 2, MATRIX_N: 4, MATRIX_K: 2, LANES: 2, STEPS: steps },
              ...{ SUB_M: subM, SUB_N: subN, GROUP_M: down, GROUP_N: across },
            },
          },
          operands: { x, w, bias: undefined, gate: undefined, residual: undefined, y },
          params: { m: rows, k: inputs, n: outputs, gate_stride: 0, gate_offset: 0 },
          grid: [Math.ceil(outputs / (4 * subN * across)), Math.ceil(rows / (2 * subM * down))],
        });
      });
      await session.prepare();
      session.run(program);
      results.push(await matrices.read(y));
      session.dispose();
    }
    expect(results[1]).toEqual(results[0]);
    expect(Math.max(...results[0])).toBeGreaterThan(0);
  });
});

describe('attention by subgroup matrices', () => {
  it('equals the oracle, queries, keys and head dims at odd edges', async () => {
    const problem = { batch: 1, heads: 2, headDim: 12, queries: 21, keys: 37, stored: 'f16' };
    await check(smallAttention, problem, 'flash_matrix');
  });
});

describe('matmul by vec4', () => {
  it.each([
    ['f32', [1030, 70, 3], ['tiled_vec4 8', 'tiled_vec4 4', 'few_rows 4']],
    ['int8', [70, 3], ['tiled_vec4_int8 4', 'few_rows_int8 4']],
  ] as const)(
    'gives a row the same value whichever kernel the number of rows chooses: %s',
    async (stored, rows, files) => {
      const [inputs, outputs] = [136, 960];
      const source = random();
      const weight = source.normal(inputs * outputs);
      const form = { variant: 'tiled_vec4', stored } as const;
      const layer = createLinear(device, 'w', [outputs, inputs], weight, undefined, form);
      const x = device.tensor([rows[0], inputs], 'f32', 'x', source.normal(rows[0] * inputs));
      const y = rows.map((count) => device.tensor([count, outputs], 'f32', 'y'));
      const session = new Session(device);
      const program = session.record('matmul', (r) => {
        for (const out of y) linear(r, x, layer, { rows: out.shape[0], out });
      });
      const specs = program.dispatches.map(({ kernel }) => kernel.spec);
      expect(specs.map(({ file, consts }) => `${file} ${consts?.ROWS}`)).toEqual(files.map((file) => `matmul/${file}`));
      await session.prepare();
      session.run(program);
      const [most, ...fewer] = await Promise.all(y.map((tensor) => device.read(tensor)));
      for (const few of fewer) expect(few).toEqual(most.subarray(0, few.length));
      expect(most.every(Number.isFinite)).toBe(true);
      session.dispose();
    },
  );
});
