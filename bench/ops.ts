/** Times of every op by the device's own timestamps, in every variant, beside the reference. */
import { Device, type DeviceOptions } from '../src/gpu/device.ts';
import type { ProfileRow, Recorder } from '../src/gpu/recorder.ts';
import { Session } from '../src/gpu/session.ts';
import type { Tensor } from '../src/gpu/tensor.ts';
import type { Arrays, Op, Problem } from '../src/ops/op.ts';
import { createTensors, inputArrays, lacksF16 } from '../src/ops/problem.ts';
import { ops } from '../src/ops/registry.ts';
import { EmigmError } from '../src/errors.ts';
import type { OpRow } from './result.ts';
import { numbers } from '../src/measurement/random_weights.ts';
import { summarise } from '../src/measurement/statistics.ts';

export interface OpsOptions {
  device?: DeviceOptions;
  /** Names of ops: a regular expression. */
  pattern?: string;
  /** `all`, or only the `best`: the one that the engine chooses. */
  variants: 'all' | 'best';
  /** The smallest problem of each op and little time for it. */
  quick?: boolean;
  /** Called before each row with the share of the work that is done. */
  onProgress?: (done: number, what: string) => void;
  signal?: AbortSignal;
}

interface Job {
  op: Op;
  pass: OpRow['pass'];
  problem: Problem;
  variant: string;
  /** Stands for the time that it will take. */
  cost: number;
}

/** Seconds a FLOP, by op, pass and variant, and by variant alone. */
type Rates = Map<string, number>;

const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** Seconds that one run may take, and that all runs of a row may take together. */
const limits = (quick = false) => (quick ? { once: 1, row: 0.1 } : { once: 4, row: 0.6 });

/** @throws EmigmError 'adapter' when the adapter has no timestamps, 'input' when no op has such a name */
export async function benchOps(options: OpsOptions): Promise<OpRow[]> {
  const pattern = new RegExp(options.pattern ?? '');
  const chosen = ops.filter(({ name }) => pattern.test(name));
  if (chosen.length === 0) {
    throw new EmigmError('input', `no op matches ${options.pattern}; there are ${ops.map((op) => op.name).join(', ')}`);
  }
  const groups: Job[][] = [];
  const probe = await Device.open(options.device);
  for (const op of chosen) {
    for (const pass of ['forward', 'backward'] as const) groups.push(jobsOf(probe, op, pass, options));
  }
  probe.dispose();
  const total = groups.flat().reduce((sum, { cost }) => sum + cost, 0);
  let done = 0;
  const rows: OpRow[] = [];
  const rates: Rates = new Map();
  for (const group of groups.filter(({ length }) => length > 0)) {
    // A device of its own frees whatever an op has taken.
    const device = await Device.open(options.device);
    try {
      for (const job of group) {
        if (options.signal?.aborted) throw new EmigmError('aborted', 'the benchmark was stopped');
        options.onProgress?.(done / total, `${job.op.name} ${job.variant}`);
        rows.push(await timeJob(device, job, rates, options.quick));
        done += job.cost;
      }
    } finally {
      device.dispose();
    }
  }
  return withRatios(rows);
}

function jobsOf(device: Device, op: Op, pass: Job['pass'], { quick, variants }: OpsOptions): Job[] {
  const described = pass === 'forward' ? op : op.gradient;
  if (!described) return [];
  const all = op.problems.bench.filter((problem) => !lacksF16(device, op, problem));
  // The small ones first: they tell how long the large ones would take.
  const problems = [...all].sort((a, b) => op.flops(a) - op.flops(b));
  return problems.slice(0, quick ? 1 : undefined).flatMap((problem) => {
    const usable = described.variants(device, problem);
    const flops = op.flops(problem) * (pass === 'forward' ? 1 : 2);
    return (variants === 'best' ? usable.slice(0, 1) : usable).map((variant) => {
      return { op, pass, problem, variant, cost: 1 + flops / 2e9 };
    });
  });
}

/** Inputs, outputs and, for a backward pass, gradients of both. */
function tensorsOf(device: Device, { op, pass, problem, variant }: Job): Record<string, Tensor> {
  const source = numbers(1);
  const { gradient } = op;
  if (pass === 'forward') return createTensors(device, op, problem, variant, inputArrays(op, problem, source));
  const inputs = (gradient!.inputs ?? op.inputs)(problem);
  const described: Op = { ...op, inputs: () => inputs };
  const arrays: Arrays = inputArrays(described, problem, source);
  const tensors = createTensors(device, described, problem, variant, arrays);
  const add = (name: string, shape: readonly number[]) => {
    tensors[`d_${name}`] = device.tensor(shape, 'f32', `d_${name}`, source.normal(product(shape), 1));
  };
  if (!gradient!.loss) for (const [name, shape] of Object.entries(op.outputs(problem))) add(name, shape);
  for (const name of Object.keys(gradient!.of(problem))) add(name, inputs[name].shape);
  for (const [name, indices] of Object.entries(gradient!.derived?.(arrays, problem) ?? {})) {
    tensors[name] = device.tensor([indices.length], 'u32', name, indices);
  }
  return tensors;
}

/** Warms up, then repeats until there is enough; one that would take too long is left out, and said to be. */
async function timeJob(device: Device, job: Job, rates: Rates, quick?: boolean): Promise<OpRow> {
  const { op, pass, problem, variant } = job;
  const row: OpRow = { op: op.name, pass, problem, variant, kernels: [] };
  const { once, row: budget } = limits(quick);
  const work = op.flops(problem);
  // The same kernel on a smaller problem, or another op's kernel of that kind: rough, but enough to stay clear of minutes.
  const own = `${op.name} ${pass} ${variant}`;
  const expected = work * (rates.get(own) ?? rates.get(variant) ?? 0);
  if (expected > once) return { ...row, skipped: `would take about ${expected.toPrecision(2)} s, over ${once} s` };
  const session = new Session(device);
  let tensors: Record<string, Tensor> = {};
  try {
    tensors = tensorsOf(device, job);
    const record = (r: Recorder) => (pass === 'forward' ? op : op.gradient!).record(r, tensors, problem, variant);
    const program = session.record(op.name, record);
    await session.prepare();
    const run = () => session.profile(program);
    const seconds = (profile: readonly ProfileRow[]) => profile.reduce((sum, part) => sum + part.seconds, 0);
    const warm = await run();
    const samples: number[] = [];
    // The first run pays for page faults; where it alone is too long it is the measurement.
    if (seconds(warm) > once) samples.push(seconds(warm));
    const until = performance.now() + 1000 * budget;
    while (samples.length < 3 || (performance.now() < until && samples.length < 100)) {
      if (samples.length > 0 && samples[0] > once) break;
      samples.push(seconds(await run()));
    }
    const { median, spread } = summarise(samples);
    const flops = warm.reduce((sum, part) => sum + part.flops, 0) || work;
    const bytes = warm.reduce((sum, part) => sum + part.bytes, 0);
    if (work > 0) rates.set(own, median / work);
    if (work > 1e8) rates.set(variant, Math.max(rates.get(variant) ?? 0, median / work));
    return {
      ...row,
      kernels: [...new Set(warm.map(({ kernel }) => kernel))],
      ms: median * 1e3,
      spread,
      samples: samples.length,
      gflops: flops > 0 ? (flops / median) * 1e-9 : undefined,
      gbps: (bytes / median) * 1e-9,
    };
  } catch (error) {
    // Too large for this adapter, or a backward that lacks a switch of its forward.
    if (!(error instanceof EmigmError) || error.code === 'adapter') throw error;
    return { ...row, skipped: error.message };
  } finally {
    session.dispose();
    for (const tensor of Object.values(tensors)) tensor.destroy();
  }
}

/** How many times as fast as the reference each row is, where the reference was timed. */
function withRatios(rows: readonly OpRow[]): OpRow[] {
  const key = ({ op, pass, problem }: OpRow) => `${op} ${pass} ${JSON.stringify(problem)}`;
  const reference = new Map(
    rows.filter(({ variant, ms }) => /^reference\b/.test(variant) && ms).map((row) => [key(row), row.ms!]),
  );
  return rows.map((row) => {
    const base = reference.get(key(row));
    return base && row.ms ? { ...row, overReference: base / row.ms } : row;
  });
}
