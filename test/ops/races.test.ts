/**
 * Kernels with workgroup memory give the same bits in whatever order the invocations of a workgroup run: what a barrier
 * is missing for shows on CPU drivers too (see test/helpers/invocation_order.ts).
 *
 * Of any two invocations that one of the orders puts in different subgroups, each comes first once, so that a read that
 * should wait for a write is seen, and a write that should wait for a read. With one barrier taken out of a kernel, each
 * in turn, lavapipe's results differ for all but the one inside the maximum of kernels/categorical/threshold.wgsl (a wrong
 * maximum that all share cancels out). On SwiftShader what follows a loop that has a barrier goes unseen too, because it
 * ends such a loop in one more. Not seen at all: races between workgroups (none of the kernels has them meet) and writes of
 * equal values. Barriers that not all invocations reach the compiler refuses.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { packageFolder, readKernelSource } from '../../src/gpu/node.ts';
import { runVariant } from '../../src/ops/check.ts';
import type { Op, Problem } from '../../src/ops/op.ts';
import { inputArrays } from '../../src/ops/problem.ts';
import { ops } from '../../src/ops/registry.ts';
import { random } from '../helpers/golden.ts';
import { gradientPoint, runGradient } from '../helpers/gradients.ts';
import { KernelsInOrder, type Order, ORDERS, sharesMemory } from '../helpers/invocation_order.ts';
import {
  emulateSubgroupMatrix,
  inOwnTypes,
  SMALL_MATRICES,
  readEmulated,
  smallAttention,
  smallInt8Matmul,
} from '../helpers/subgroup_matrix.ts';

/** Op, or name of one, implementation, and a problem that has each loop over tiles go round three times or more. */
type Case = [op: Op | string, variant: string, problem: Problem];

const FORWARD: Case[] = [
  ['matmul', 'tiled', { m: 66, k: 44, n: 68, bias: true }],
  ['matmul', 'tiled_vec4', { m: 70, k: 44, n: 68, bias: true }],
  ['matmul', 'tiled_vec4', { m: 70, k: 44, n: 68, stored: 'int8' }],
  ['matmul', 'few_rows', { m: 3, k: 2180, n: 20 }],
  ['matmul', 'few_rows', { m: 3, k: 2180, n: 20, stored: 'int8' }],
  ['attention', 'flash', { batch: 1, heads: 1, headDim: 40, queries: 40, keys: 70 }],
  ['wide attention', 'wide', { batch: 1, headDim: 8, queries: 3, keys: 300 }],
  ['layernorm', 'layernorm', { rows: 3, width: 516, affine: true }],
  ['rms norm', 'workgroup', { rows: 3, width: 516 }],
  ['group norm', 'group_norm', { batch: 1, pixels: 2100, channels: 8, groups: 2, mean: 3 }],
  ['conv', 'tiled', { batch: 1, height: 9, width: 8, inputs: 36, outputs: 68, kernel: 1 }],
  ['cross_entropy', 'workgroup', { rows: 3, classes: 1028, smoothing: 0.1 }],
  ['head_loss', 'head_loss', { tokens: 70, repeats: 4, channels: 3 }],
  ['logit_threshold', 'workgroup', { rows: 2, codes: 600, topK: 300, topP: 0.61, temperature: 0.5 }],
  ['sample_codes', 'workgroup', { rows: 3, codes: 777, temperature: 0.8, choiceTemperature: 3 }],
  ['grad_norm', 'grad_norm', { size: 16388, more: 12 }],
];
/** On a device that seems to have subgroup matrices. */
const EMULATED: Case[] = [
  ['matmul', 'subgroup_matrix', { m: 17, k: 100, n: 20, bias: true, x: 'f16', stored: 'f16' }],
  [
    smallInt8Matmul,
    'subgroup_matrix',
    { m: 7, k: 36, n: 20, bias: true, activation: 'gelu', residual: true, stored: 'int8' },
  ],
  [smallAttention, 'flash_matrix', { batch: 1, heads: 1, headDim: 12, queries: 21, keys: 37, stored: 'f16' }],
];
const BACKWARD: Case[] = [
  ['matmul', 'reference weight_grad', { m: 66, k: 36, n: 20, bias: true }],
  ['layernorm', 'workgroup', { rows: 37, width: 300, affine: true, modulate: true }],
];

const opOf = (op: Op | string): Op => (typeof op === 'string' ? ops.find(({ name }) => name === op)! : op);
const cases = (list: Case[]) =>
  list.map(([op, variant, problem]) => [opOf(op).name, variant, JSON.stringify(problem), opOf(op), problem] as const);

let device: Device;
let kernels: KernelsInOrder;
/** Has subgroup matrices, as it seems. */
let matrices: Device;
let matrixKernels: KernelsInOrder;
let hasF16: boolean;

beforeAll(async () => {
  device = await Device.open();
  kernels = new KernelsInOrder(device);
  Object.assign(device, { isCpu: false, kernels }); // the sizes that GPUs have
  matrices = await Device.open();
  hasF16 = matrices.hasF16;
  matrixKernels = new KernelsInOrder(matrices, readEmulated(hasF16));
  emulateSubgroupMatrix(matrices, SMALL_MATRICES);
  Object.assign(matrices, { kernels: matrixKernels });
});
afterAll(() => {
  device?.dispose();
  matrices?.dispose();
});

type Results = Record<string, Float32Array>;

/** Runs in every order; returns the orders whose results are not those of the first. */
async function ordersThatDiffer(on: KernelsInOrder, run: () => Promise<Results>, expected?: Results): Promise<Order[]> {
  let first = expected;
  const others: Order[] = [];
  for (const order of ORDERS) {
    on.order = order;
    const results = await run();
    first ??= results;
    const finite = Object.values(results).every((values) => values.every(Number.isFinite));
    if (!finite || !isDeepStrictEqual(results, first)) others.push(order);
  }
  return others;
}

describe('the same bits in every order of the invocations', () => {
  it.each(cases(FORWARD))('%s %s %s', async (_, variant, __, op, problem) => {
    const arrays = inputArrays(op, problem, random());
    expect(await ordersThatDiffer(kernels, () => runVariant(device, op, problem, variant, arrays))).toEqual([]);
  });

  it.each(cases(EMULATED))('%s %s %s', async (_, variant, __, op, problem) => {
    const p = inOwnTypes(problem, hasF16);
    const arrays = inputArrays(op, p, random());
    expect(await ordersThatDiffer(matrixKernels, () => runVariant(matrices, op, p, variant, arrays))).toEqual([]);
  });

  it.each(cases(BACKWARD))('%s backward %s %s', async (_, variant, __, op, problem) => {
    const point = gradientPoint(op, op.gradient!, problem, random());
    const run = () => runGradient(device, op, op.gradient!, problem, variant, point);
    expect(await ordersThatDiffer(kernels, run)).toEqual([]);
  });

  test('of every kernel that has workgroup memory', () => {
    const folder = join(packageFolder(), 'kernels');
    const sharing = readdirSync(folder, { recursive: true, encoding: 'utf8' })
      .filter((path) => path.endsWith('.wgsl'))
      .map((path) => path.slice(0, -'.wgsl'.length).replaceAll('\\', '/'))
      .filter((file) => sharesMemory(readKernelSource(file)));
    const seen = [...kernels.files, ...matrixKernels.files];
    expect(sharing.filter((file) => !seen.includes(file))).toEqual([]);
  });
});

/** Without its n-th barrier, counted from 0. */
const withoutBarrier = (source: string, n: number): string => {
  let count = 0;
  return source.replaceAll('workgroupBarrier();', (barrier) => (count++ === n ? '' : barrier));
};

describe('a barrier that is missing shows', () => {
  it.each([
    ['before tiles are read', 'matmul/tiled_vec4', 0, 'matmul', 'tiled_vec4', { m: 70, k: 44, n: 68 }],
    ['between the halves of a sum', 'norm/layernorm', 0, 'layernorm', 'layernorm', { rows: 3, width: 516 }],
    ['before what was read is written again', 'matmul/few_rows', 1, 'matmul', 'few_rows', { m: 3, k: 2180, n: 20 }],
  ])('%s (%s)', async (_, file, n, name, variant, problem) => {
    const op = opOf(name);
    const arrays = inputArrays(op, problem, random());
    const run = () => runVariant(device, op, problem, variant, arrays);
    const expected = await run();
    const broken = new KernelsInOrder(device, (kernel) => {
      const source = readKernelSource(kernel);
      return kernel === file ? withoutBarrier(source, n) : source;
    });
    Object.assign(device, { kernels: broken });
    try {
      expect(await ordersThatDiffer(broken, run, expected)).not.toEqual([]);
    } finally {
      Object.assign(device, { kernels });
    }
  });

  it('though the order as written is the right one by chance (attention/flash_matrix)', async () => {
    const problem = inOwnTypes({ batch: 1, heads: 1, headDim: 12, queries: 21, keys: 37, stored: 'f16' }, hasF16);
    const arrays = inputArrays(smallAttention, problem, random());
    const run = () => runVariant(matrices, smallAttention, problem, 'flash_matrix', arrays);
    const expected = await run();
    const read = readEmulated(hasF16);
    const broken = new KernelsInOrder(matrices, (kernel) => withoutBarrier(read(kernel), 2));
    Object.assign(matrices, { kernels: broken });
    try {
      expect(await ordersThatDiffer(broken, run, expected)).toEqual(['scattered', 'reversed']);
    } finally {
      Object.assign(matrices, { kernels: matrixKernels });
    }
  });
});
