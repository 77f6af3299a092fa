/** Kernels for GPUs that depend on the number of rows, and those for subgroup matrices, these emulated. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { toleranceOf, runVariant } from '../../src/ops/check.ts';
import { attentionOp } from '../../src/ops/attention.ts';
import { createLinear, linear, matmulOp } from '../../src/ops/matmul.ts';
import type { Op, Problem } from '../../src/ops/op.ts';
import { inputArrays } from '../../src/ops/problem.ts';
import { expectClose, random } from '../helpers/golden.ts';
import { emulateSubgroupMatrix } from '../helpers/subgroup_matrix.ts';

let device: Device;
/** Has subgroup matrices, as it seems. */
let matrices: Device;
let hasF16: boolean;

beforeAll(async () => {
  device = await Device.open();
  matrices = await Device.open();
  hasF16 = matrices.hasF16;
  const subgroupMatrix = [{ m: 2, n: 4, k: 2, operand: 'f16', result: 'f32' }];
  emulateSubgroupMatrix(matrices, { isCpu: false, lanes: 2, subgroupMatrix, workgroupMemory: 20480 });
});
afterAll(() => {
  device?.dispose();
  matrices?.dispose();
});

/** Stored in f16 where the adapter has it; what the kernel rounds itself is then seen, else its sums alone. */
async function check(op: Op, problem: Problem, variant: string): Promise<void> {
  const p = hasF16 ? problem : Object.fromEntries(Object.entries(problem).filter(([, value]) => value !== 'f16'));
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
    // Small tiles: SwiftShader compiles for seconds per kilobyte of workgroup memory.
    const tile = { MATRIX_M: 2, MATRIX_N: 4, MATRIX_K: 2, LANES: 2, SUB_M: 2, SUB_N: 1, GROUP_M: 1, GROUP_N: 2 };
    const problem = { m: 7, k: 36, n: 20, bias: true, activation: 'gelu', residual: true, stored: 'int8' };
    const op: Op = {
      ...matmulOp,
      record: (r, { x, w, bias, residual, y }) => {
        r.call({
          op: 'matmul',
          kernel: {
            file: 'matmul/subgroup_matrix_int8',
            consts: { ...tile, STEPS: 2 },
            overrides: { HAS_BIAS: true, ACTIVATION: 1, HAS_RESIDUAL: true },
          },
          operands: { x, w, bias, gate: undefined, residual, y },
          params: { m: 7, k: 36, n: 20, gate_stride: 0, gate_offset: 0 },
          grid: [3, 2],
        });
      },
    };
    await check(op, problem, 'subgroup_matrix');
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
    // The kernel in the smallest tiles that it has: SwiftShader compiles for seconds per kilobyte of workgroup memory.
    const [heads, headDim, queries, keys] = [2, 12, 21, 37];
    const width = heads * headDim;
    const op: Op = {
      ...attentionOp,
      record: (r, { q, kv, out }) => {
        const Elem4 = q.dtype === 'f16' ? 'vec4<f16>' : 'vec4<f32>';
        const matrix = { MATRIX_M: 2, MATRIX_N: 4, MATRIX_K: 2, LANES: 2 };
        r.call({
          op: 'attention',
          kernel: {
            file: 'attention/flash_matrix',
            consts: { HEAD_DIM: headDim, QUERIES: 16, KEYS: 16, ...matrix, Elem4 },
          },
          operands: { q, k: kv, v: kv, out },
          params: {
            ...{ batch: 1, heads, q_len: queries, kv_len: keys, scale: 1 / Math.sqrt(headDim) },
            ...{ q_stride: width, q_offset: 0, kv_stride: 2 * width, k_offset: 0, v_offset: width },
          },
          grid: [Math.ceil(queries / 16), heads, 1],
        });
      },
    };
    await check(op, { batch: 1, heads, headDim, queries, keys, stored: 'f16' }, 'flash_matrix');
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
