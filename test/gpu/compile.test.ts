/**
 * Every kernel that an op records, with every set of constants, aliases and overrides that it asks for on every kind of
 * adapter, compiles on Dawn's null backend: no driver needed. The kernels that a GPU would run are compiled here alone
 * where there is none.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Abilities, Device } from '../../src/gpu/device.ts';
import { packageFolder, readKernelSource } from '../../src/gpu/node.ts';
import { Recorder } from '../../src/gpu/recorder.ts';
import type { DType, Tensor } from '../../src/gpu/tensor.ts';
import type { Input, Op, Problem } from '../../src/ops/op.ts';
import { inputArrays, lacksF16 } from '../../src/ops/problem.ts';
import { ops } from '../../src/ops/registry.ts';
import { random } from '../helpers/golden.ts';

const folder = join(packageFolder(), 'kernels');
const files = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.wgsl'))
  .map((path) => path.slice(0, -'.wgsl'.length).replaceAll('\\', '/'));

const GPU = { isCpu: false, hasSubgroups: true, hasF16: true, subgroupMatrix: [] };
/** A GPU with f16 matrices of m x n x k. */
const matrix = (lanes: number, workgroupMemory: number, ...[m, n, k]: [number, number, number]) => ({
  ...GPU,
  lanes,
  workgroupMemory,
  subgroupMatrix: [{ m, n, k, operand: 'f16', result: 'f32' }],
});
/** Abilities, and where the other ops' kernels are those of another adapter, the ops to look at. */
const ADAPTERS: Record<string, [Partial<Abilities>, ...ops: string[]]> = {
  'a GPU with subgroup matrices of 16 x 16 x 16': [matrix(32, 49152, 16, 16, 16)],
  'a GPU with subgroup matrices of 16 x 8 x 16': [matrix(32, 49152, 16, 8, 16), 'matmul', 'attention'],
  'a GPU with subgroup matrices of 8 x 8 x 8': [matrix(32, 32768, 8, 8, 8), 'matmul', 'attention'],
  'a GPU with subgroup matrices and subgroups of 64': [{ ...matrix(64, 65536, 16, 16, 16), workgroupSize: 1024 }],
  'a GPU with subgroups of 64 and small workgroups': [matrix(64, 32768, 16, 16, 16), 'matmul', 'attention'],
  'a GPU with subgroups of several sizes': [{ ...GPU, lanes: 0 }],
  'a GPU whose kernels ask for subgroups of 32': [
    { ...matrix(32, 65536, 16, 16, 16), pinsLanes: true },
    'matmul',
    'attention',
    'layernorm',
    'cross_entropy',
  ],
  'a GPU with subgroups and without f16': [{ ...GPU, lanes: 32, hasF16: false }, 'matmul', 'attention', 'conv'],
  'a GPU with nothing but the core': [{ ...GPU, lanes: 0, hasSubgroups: false, hasF16: false }],
  'a CPU driver of 8 lanes': [{ ...GPU, isCpu: true, lanes: 8 }],
  'a CPU driver of 4 lanes': [{ ...GPU, isCpu: true, lanes: 4, hasF16: false }],
};

/** Problems as GPUs have them, that make the ladder's rungs take each of their tiles. */
const TILES: Record<string, Problem[]> = {
  matmul: [1, 16, 100, 320, 1024, 8192].flatMap((m): Problem[] => {
    const shape = { m, k: 1024, n: 2048, bias: true };
    const half = { ...shape, x: 'f16', y: 'f16' };
    return [shape, { ...half, stored: 'f16' }, ...(m === 16 || m === 8192 ? [{ ...half, stored: 'int8' }] : [])];
  }),
  attention: [32, 56, 64, 80, 128].map((headDim) => {
    return { batch: 1, heads: 2, headDim, queries: 320, keys: 320, fused: true, stored: 'f16' };
  }),
};

const size = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
const zeros = new Float32Array(2 ** 25);

/** Tensors of these inputs; their numbers are of no matter here. */
function inputTensors(device: Device, inputs: Record<string, Input>, variant: string): Record<string, Tensor> {
  return Object.fromEntries(
    Object.entries(inputs).map(([name, { shape, dtype = 'f32', upload }]) => {
      const uploaded = upload?.(device, zeros.subarray(0, size(shape)), variant);
      return [name, uploaded ?? device.tensor(shape, dtype, name)];
    }),
  );
}

function outputTensors(device: Device, op: Op, problem: Problem, prefix: string, dtype: DType): Record<string, Tensor> {
  return Object.fromEntries(
    Object.entries(op.outputs(problem)).map(([name, shape]) => [`${prefix}${name}`, device.tensor(shape, dtype, name)]),
  );
}

function recordForward(device: Device, op: Op, problem: Problem, variant: string): void {
  const outputs = outputTensors(device, op, problem, '', op.outputType?.(problem) ?? 'f32');
  const inputs = inputTensors(device, op.inputs(problem), variant);
  op.record(new Recorder(device), { ...outputs, ...inputs }, problem, variant);
}

function recordGradient(device: Device, op: Op, problem: Problem, variant: string): void {
  const gradient = op.gradient!;
  const inputs = (gradient.inputs ?? op.inputs)(problem);
  const tensors = inputTensors(device, inputs, variant);
  for (const name of Object.keys(gradient.of(problem))) {
    tensors[`d_${name}`] = device.tensor(inputs[name].shape, 'f32', name);
  }
  if (!gradient.loss) Object.assign(tensors, outputTensors(device, op, problem, 'd_', 'f32'));
  const derived = gradient.derived?.(inputArrays({ ...op, inputs: () => inputs }, problem, random()), problem);
  for (const [name, { length }] of Object.entries(derived ?? {})) {
    tensors[name] = device.tensor([length], 'u32', name);
  }
  gradient.record(new Recorder(device), tensors, problem, variant);
}

/**
 * Files that some adapter's ops have asked for. The null backend has 16 KiB of workgroup memory and workgroups of 256,
 * and says so when it has compiled all; a kernel that needs more is right where the adapter has that much.
 */
const asked = new Set<string>();

describe.each(Object.entries(ADAPTERS))('on %s', (_, [abilities, ...names]) => {
  const own = ops.filter(({ name }) => names.length === 0 || names.includes(name));
  let device: Device;
  beforeAll(async () => {
    device = await Device.plan(abilities);
  });
  afterAll(() => device?.dispose());

  it('all that ops record compiles', async () => {
    for (const op of own) {
      for (const problem of [...op.problems.test, ...op.problems.bench, ...(TILES[op.name] ?? [])]) {
        if (lacksF16(device, op, problem)) continue;
        for (const variant of op.variants(device, problem)) recordForward(device, op, problem, variant);
      }
      for (const problem of op.gradient?.problems ?? []) {
        for (const variant of op.gradient!.variants(device, problem)) recordGradient(device, op, problem, variant);
      }
    }
    device.kernels.get({ file: 'check/finite' }); // sessions record it, with the NaN guard
    for (const file of ['fma', 'copy']) device.kernels.get({ file: `roofline/${file}` }); // bench kernels runs them
    const kernels = [...device.kernels];
    expect(kernels.length).toBeGreaterThan(names.length > 0 ? 20 : 100);
    for (const kernel of kernels) {
      asked.add(kernel.spec.file);
      const failure = await kernel.ready.then(
        () => undefined,
        (error: Error) => error.message,
      );
      const memory = Number(/total use of workgroup storage \((\d+) bytes\) is larger/.exec(failure ?? '')?.[1]);
      const invocations = Number(/workgroup_size\((\d+), 1, 1\) that exceeds the maximum/.exec(failure ?? '')?.[1]);
      if (memory <= (abilities.workgroupMemory ?? 0) || invocations <= (abilities.workgroupSize ?? 0)) continue;
      expect(failure, JSON.stringify(kernel.spec)).toBeUndefined();
      expect(kernel.pipeline, JSON.stringify(kernel.spec)).toBeDefined();
    }
  });
});

it('every kernel file is asked for by some adapter', () => {
  expect(files.filter((file) => !asked.has(file))).toEqual([]);
});

describe('kernels', () => {
  it.each(files)('%s says what it computes', (file) => {
    expect(readKernelSource(file)).toMatch(/^\/\/ .{20}/);
  });
});
