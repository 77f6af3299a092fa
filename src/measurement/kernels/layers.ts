/** The layers of a model as a run meets them: what `emigm tune` has to choose kernels for. */
import type { Device } from '../../gpu/device.ts';
import type { Dispatch } from '../../gpu/recorder.ts';
import { shapeKey } from '../../gpu/tuning.ts';
import type { ModelConfig } from '../../models/config.ts';
import type { Stored } from '../../ops/matmul_kernels.ts';
import type { Problem } from '../../ops/op.ts';
import { BatchSampler } from '../../sampling/batch.ts';
import { HeadSampler } from '../../sampling/head_sampler.ts';
import { planModel } from '../../sampling/memory.ts';
import { planBatch } from '../../sampling/plan.ts';
import type { SampleSettings } from '../../sampling/settings.ts';
import { problemKey } from './problems.ts';

/** A layer shape and the problems of it that stand for all. */
export interface LayerShape {
  key: string;
  op: string;
  /** `weight`: runs an image that the problem stands for, of its size. */
  problems: { problem: Problem; weight: number }[];
}

/** Problems that stand for the calls of one shape: small, middle and large numbers of rows. */
const MOST_PROBLEMS = 3;

/**
 * Shapes of the linear layers, attentions and layer norms of sampling with this model on this device, in batches of these
 * sizes. Records the runs on a device that only counts.
 */
export async function layersOf(
  device: Device,
  config: ModelConfig,
  settings: SampleSettings,
  { stored, batches }: { stored: Stored; batches: readonly number[] },
): Promise<LayerShape[]> {
  const { isCpu, lanes, hasF16, hasSubgroups, subgroupMatrix, workgroupMemory, workgroupSize, largestBuffer } = device;
  const abilities = {
    isCpu,
    lanes,
    hasF16,
    hasSubgroups,
    subgroupMatrix,
    workgroupMemory,
    workgroupSize,
    largestBuffer,
    variants: {},
  };
  const { model, dispose } = await planModel(config, stored, abilities);
  const calls = new Map<string, { key: string; op: string; problem: Problem; count: number }>();
  try {
    for (const batch of batches) {
      const images = Array.from({ length: batch }, (_, i) => i);
      const classes = images.map((i) => i % config.classes);
      const head = new HeadSampler(settings);
      const sampler = new BatchSampler(model, planBatch(model, settings, classes, images), {
        seed: settings.seed,
        head,
      });
      for (const dispatch of sampler.allPrograms.flatMap(({ dispatches }) => dispatches)) {
        const found = problemOf(dispatch);
        if (!found) continue;
        const name = `${dispatch.op} ${problemKey(found.problem)}`;
        const call = calls.get(name) ?? { ...found, op: dispatch.op, count: 0 };
        call.count += 1 / batch;
        calls.set(name, call);
      }
      sampler.dispose();
    }
  } finally {
    await dispose();
  }
  const keys = [...new Set([...calls.values()].map(({ key }) => key))];
  return keys.map((key) => {
    const own = [...calls.values()].filter((call) => call.key === key);
    return { key, op: own[0].op, problems: representatives(own) };
  });
}

/** Sizes of a problem, as what grows with the rows. */
const sizeOf = (problem: Problem) =>
  ['m', 'rows', 'batch', 'queries', 'keys'].reduce(
    (size, name) => size * ((problem[name] as number | undefined) ?? 1),
    1,
  );

function representatives(calls: readonly { problem: Problem; count: number }[]): LayerShape['problems'] {
  const sorted = [...calls].sort((a, b) => sizeOf(a.problem) - sizeOf(b.problem));
  const work = sorted.map(({ problem, count }) => count * sizeOf(problem));
  const each = work.reduce((a, b) => a + b, 0) / MOST_PROBLEMS;
  const groups: number[][] = Array.from({ length: MOST_PROBLEMS }, () => []);
  let done = 0;
  for (const [i, part] of work.entries()) {
    groups[Math.min(MOST_PROBLEMS - 1, Math.floor((done + part / 2) / each))].push(i);
    done += part;
  }
  return groups
    .filter(({ length }) => length > 0)
    .map((group) => {
      const { problem } = sorted[group[Math.floor(group.length / 2)]];
      return { problem, weight: group.reduce((sum, i) => sum + work[i], 0) / sizeOf(problem) };
    });
}

/** The op's problem that a recorded call is, with the name of its shape; undefined for ops that nobody tunes. */
function problemOf(dispatch: Dispatch): { key: string; problem: Problem } | undefined {
  const { op, kernel, tensors } = dispatch;
  const overrides = kernel.spec.overrides ?? {};
  const params = kernel.unpackParams(dispatch.params);
  const dtype = (name: string) =>
    tensors[kernel.operands.findIndex((operand) => operand.name === name)]?.dtype ?? 'f32';
  const flags = (names: Record<string, string>) =>
    Object.fromEntries(Object.entries(names).flatMap(([name, flag]) => (overrides[flag] ? [[name, true]] : [])));
  const half = (name: string, operand: string) => (dtype(operand) === 'f16' ? { [name]: 'f16' } : {});
  if (op === 'matmul') {
    const { m, k, n } = params;
    // Packed halves lie in words, as int8 does.
    const stored = kernel.spec.file.endsWith('_int8') ? 'int8' : dtype('w') === 'f32' ? 'f32' : 'f16';
    const activation = ['none', 'gelu', 'silu'][Number(overrides.ACTIVATION ?? 0)];
    const epilogue = flags({ bias: 'HAS_BIAS', gate: 'HAS_GATE', residual: 'HAS_RESIDUAL', accumulate: 'ACCUMULATE' });
    const problem = { m, k, n, ...epilogue, activation, stored, ...half('x', 'x'), ...half('y', 'y') };
    return { key: shapeKey.matmul(k, n, stored), problem };
  }
  if (op === 'attention') {
    const { batch, heads, q_len: queries, kv_len: keys, kv_stride: stride } = params;
    const headDim = Math.round(1 / params.scale ** 2);
    const fused = queries === keys && stride === 3 * heads * headDim;
    const problem = { batch, heads, headDim, queries, keys, ...(fused && { fused }), ...half('stored', 'q') };
    return { key: shapeKey.attention(headDim, dtype('q')), problem };
  }
  if (op === 'layernorm') {
    const { rows, width } = params;
    const problem = { rows, width, ...flags({ affine: 'AFFINE', modulate: 'MODULATE' }), ...half('stored', 'y') };
    return { key: shapeKey.layernorm(width), problem };
  }
  return undefined;
}
