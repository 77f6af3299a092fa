/**
 * Subgroup matrices by plain arithmetic, so that kernels that use them run where no adapter has them: every invocation
 * holds each of its subgroup's matrices whole. Slow, and the addresses, barriers and sums of the kernel stay as they are.
 */
import type { Abilities, Device } from '../../src/gpu/device.ts';
import { KernelCache } from '../../src/gpu/kernel.ts';
import { readKernelSource } from '../../src/gpu/node.ts';
import { attentionOp } from '../../src/ops/attention.ts';
import { matmulOp } from '../../src/ops/matmul.ts';
import type { Op, Problem } from '../../src/ops/op.ts';

/** Rows and columns of each kind of matrix, by the constants that its alias is made of. */
const KINDS = {
  Left: ['MATRIX_M', 'MATRIX_K', 'Half'],
  Right: ['MATRIX_K', 'MATRIX_N', 'Half'],
  Result: ['MATRIX_M', 'MATRIX_N', 'f32'],
} as const;
type Kind = keyof typeof KINDS;

/** The source with arrays for its matrices; with `hasF16` false f16 becomes f32 throughout. */
export function withoutSubgroupMatrix(source: string, hasF16: boolean): string {
  let code = source
    .replace('enable chromium_experimental_subgroup_matrix;', '')
    .replace('requires subgroup_id;', '')
    .replace(/,\s*@builtin\(subgroup_id\) subgroup: u32\) \{/, ') { let subgroup = index / LANES;');
  const functions = new Map<string, string>();
  for (const [kind, [rows, columns, type]] of Object.entries(KINDS)) {
    code = code.replace(
      new RegExp(`^alias ${kind} = .*;`, 'm'),
      `struct ${kind} { cells: array<${type}, ${rows} * ${columns}> }`,
    );
  }
  code = code.replace(/subgroupMatrixLoad<(\w+), (\w+)>\(&(\w+),/g, (_, kind: Kind, order: string, at: string) => {
    const [rows, columns] = KINDS[kind];
    const cell = order === 'row_major' ? 'r * stride + c' : 'c * stride + r';
    const name = `load_${kind}_${order}_${at}`;
    functions.set(
      name,
      `fn ${name}(offset: u32, stride: u32) -> ${kind} {
        var m: ${kind};
        for (var r = 0u; r < ${rows}; r++) { for (var c = 0u; c < ${columns}; c++) {
          m.cells[r * ${columns} + c] = ${at}[offset + ${cell}];
        } }
        return m;
      }`,
    );
    return `${name}(`;
  });
  code = code.replace(/subgroupMatrixStore<row_major>\(&(\w+),/g, (_, at: string) => {
    functions.set(
      `store_${at}`,
      `fn store_${at}(offset: u32, m: Result, stride: u32) {
        var copy = m;
        for (var r = 0u; r < MATRIX_M; r++) { for (var c = 0u; c < MATRIX_N; c++) {
          ${at}[offset + r * stride + c] = copy.cells[r * MATRIX_N + c];
        } }
      }`,
    );
    return `store_${at}(`;
  });
  code = code.replaceAll('subgroupMatrixMultiplyAccumulate', 'multiply_add');
  functions.set(
    'multiply_add',
    `fn multiply_add(left: Left, right: Right, sum: Result) -> Result {
      var a = left; var b = right; var m = sum;
      for (var r = 0u; r < MATRIX_M; r++) { for (var c = 0u; c < MATRIX_N; c++) {
        for (var k = 0u; k < MATRIX_K; k++) {
          m.cells[r * MATRIX_N + c] += f32(a.cells[r * MATRIX_K + k]) * f32(b.cells[k * MATRIX_N + c]);
        }
      } }
      return m;
    }`,
  );
  // The driver must not know the number of turns, or it unrolls all loops and compiles for minutes.
  const [, parameter] = /struct Params \{\s*(\w+)/.exec(code)!;
  const some = `fn some(count: u32) -> u32 { return min(count, params.${parameter} + 1024); }`;
  code = [code, ...functions.values()].join('\n').replace(/(for \(var \w+ = 0u; \w+ < )([A-Z_]+);/g, '$1some($2);');
  code = `${code}\n${some}`;
  return hasF16 ? code : code.replace(/^enable f16;/m, '').replace(/\bf16\b/g, 'f32');
}

/** The sources of kernels, those for subgroup matrices with these emulated. */
export const readEmulated =
  (hasF16: boolean) =>
  (file: string): string => {
    const source = readKernelSource(file);
    return source.includes('subgroup_matrix_left') ? withoutSubgroupMatrix(source, hasF16) : source;
  };

/**
 * Makes a device seem to have these abilities, its kernels' subgroup matrices being emulated. Without f16 of its own it
 * seems to have that too, and tensors stay the caller's to store as f32.
 */
export function emulateSubgroupMatrix(device: Device, abilities: Partial<Abilities>): void {
  const kernels = new KernelCache(device.handle, readEmulated(device.hasF16));
  Object.assign(device, { ...abilities, hasF16: true, kernels });
}

/** A GPU with the smallest matrices that the kernels take. */
export const SMALL_MATRICES: Partial<Abilities> = {
  isCpu: false,
  lanes: 8,
  subgroupMatrix: [{ m: 2, n: 4, k: 2, operand: 'f16', result: 'f32' }],
  workgroupMemory: 20480,
};
const SMALL = { MATRIX_M: 2, MATRIX_N: 4, MATRIX_K: 2, LANES: 8 };

/**
 * Ops in the smallest tiles that their kernels have: SwiftShader compiles for seconds per kilobyte of workgroup memory.
 * Attention takes q and kv apart, batch 1.
 */
export const smallAttention: Op = {
  ...attentionOp,
  record: (r, { q, kv, out }, problem) => {
    const { heads, headDim, queries, keys } = problem as Record<string, number>;
    const width = heads * headDim;
    r.call({
      op: 'attention',
      kernel: {
        file: 'attention/flash_matrix',
        consts: {
          ...{ HEAD_DIM: headDim, QUERIES: 16, KEYS: 16, ...SMALL },
          Elem4: q.dtype === 'f16' ? 'vec4<f16>' : 'vec4<f32>',
        },
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

/** A product with bias, GELU and residual. */
export const smallInt8Matmul: Op = {
  ...matmulOp,
  record: (r, { x, w, bias, residual, y }, problem) => {
    const { m, k, n } = problem as Record<string, number>;
    r.call({
      op: 'matmul',
      kernel: {
        file: 'matmul/subgroup_matrix_int8',
        consts: { ...SMALL, SUB_M: 2, SUB_N: 2, GROUP_M: 1, GROUP_N: 2, STEPS: 2 },
        overrides: { HAS_BIAS: true, ACTIVATION: 1, HAS_RESIDUAL: true },
      },
      operands: { x, w, bias, gate: undefined, residual, y },
      params: { m, k, n, gate_stride: 0, gate_offset: 0 },
      grid: [Math.ceil(n / 16), Math.ceil(m / 4)],
    });
  },
};

/** The problem with all in f32 where the device has no f16 of its own. */
export const inOwnTypes = (problem: Problem, hasF16: boolean): Problem =>
  hasF16 ? problem : Object.fromEntries(Object.entries(problem).filter(([, value]) => value !== 'f16'));
