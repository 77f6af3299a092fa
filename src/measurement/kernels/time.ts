/** Times implementations of an op on one problem, in interleaved rounds, by the device's own clock. */
import { EmigmError } from '../../errors.ts';
import type { Device } from '../../gpu/device.ts';
import type { Program, Recorder } from '../../gpu/recorder.ts';
import { Session } from '../../gpu/session.ts';
import type { Tensor } from '../../gpu/tensor.ts';
import type { Arrays, Op, Problem } from '../../ops/op.ts';
import { createTensors, inputArrays, lacksF16 } from '../../ops/problem.ts';
import { once } from '../peak.ts';
import { numbers } from '../random_weights.ts';
import { summarise } from '../statistics.ts';
import type { Row } from './schema.ts';

export type Pass = Row['pass'];

/** One op on one problem in one or several implementations, which are timed in turn. */
export interface Job {
  op: Op;
  pass: Pass;
  problem: Problem;
  variants: readonly Variant[];
}

export interface Variant {
  name: string;
  isChoice: boolean;
  /** An op of the same operands that has the implementation, where it is not the job's own: a kernel given by path. */
  op?: Op;
  standsFor?: string;
  /** Rows of a workgroup, where it is not the built-in choice. */
  tile?: number;
}

export interface Limits {
  /** Seconds that one run may take: what would take longer is left out, and said to be. */
  once: number;
  /** Seconds that the runs of one implementation may take together, once there are three. */
  each: number;
}

/** Seconds a FLOP, by op, pass and implementation, and by implementation alone, learnt from one problem to the next. */
export type Rates = Map<string, number>;

const MOST_SAMPLES = 100;
const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** FLOP of the problem by the op's own count, a backward pass as two forward. */
export const workOf = ({ op, pass, problem }: Job): number => op.flops(problem) * (pass === 'forward' ? 1 : 2);

/** All that the device allows of the op's pass on these problems, the small ones first: they tell how long others take. */
export function jobsOf(
  device: Device,
  op: Op,
  pass: Pass,
  problems: readonly Problem[],
  choose: (usable: readonly string[]) => readonly string[] = (usable) => usable,
): Job[] {
  const described = pass === 'forward' ? op : op.gradient;
  if (!described) return [];
  const usable = problems.filter((problem) => !lacksF16(device, op, problem));
  return [...usable]
    .sort((a, b) => op.flops(a) - op.flops(b))
    .flatMap((problem) => {
      const names = described.variants(device, problem);
      const variants = choose(names).map((name) => ({ name, isChoice: name === names[0] }));
      return variants.length > 0 ? [{ op, pass, problem, variants }] : [];
    });
}

/** A variant, recorded and warm. */
interface Ready {
  row: Row;
  session: Session;
  program: Program;
  samples: number[];
}

/**
 * Warms every variant up, then runs them in turn until each has had its time.
 * @throws EmigmError 'aborted', 'adapter', and 'kernel' where a kernel given by path does not compile
 */
export async function timeJob(
  device: Device,
  job: Job,
  { once: most, each }: Limits,
  rates: Rates,
  signal?: AbortSignal,
): Promise<Row[]> {
  const work = job.op.flops(job.problem);
  const rows: Row[] = [];
  const ready: Ready[] = [];
  const tensors: Record<string, Tensor>[] = [];
  const arrays: { of?: Arrays } = {};
  try {
    for (const variant of job.variants) {
      const row = emptyRow(job, variant);
      rows.push(row);
      const stop = tooLong(job, variant, rates, most);
      if (stop) {
        row.skipped = stop;
        continue;
      }
      const session = new Session(device);
      try {
        tensors.push(tensorsOf(device, job, variant, arrays, tensors[0]));
        const op = variant.op ?? job.op;
        const named = { ...tensors[0], ...tensors.at(-1) };
        const record = (r: Recorder) =>
          (job.pass === 'forward' ? op : op.gradient!).record(r, named, job.problem, variant.name, variant.tile);
        const program = session.record(op.name, record);
        await session.prepare();
        describe(row, program, workOf(job));
        const warm = await once(device, session, program);
        // The first run pays for page faults and, on some drivers, for compiling; where the second is too long as well it
        // is the measurement.
        const samples = warm > most ? [await once(device, session, program)] : [];
        ready.push({ row, session, program, samples });
      } catch (error) {
        session.dispose();
        // Too large for this adapter, or a backward that lacks a switch of its forward.
        if (!(error instanceof EmigmError) || error.code === 'adapter' || variant.op) throw error;
        row.skipped = error.message;
      }
    }
    await rounds(device, ready, { once: most, each }, signal);
    for (const { row, samples } of ready) {
      const { median, spread } = summarise(samples);
      row.seconds = { median, spread, samples };
      learn(rates, job, row, work);
    }
    return rows;
  } finally {
    for (const { session } of ready) session.dispose();
    for (const group of tensors) for (const tensor of Object.values(group)) tensor.destroy();
  }
}

async function rounds(device: Device, ready: readonly Ready[], { once: most, each }: Limits, signal?: AbortSignal) {
  const until = performance.now() + 1000 * each * ready.length;
  for (let round = 0; round < MOST_SAMPLES; round++) {
    if (round >= 3 && performance.now() > until) return;
    for (const { session, program, samples } of ready) {
      if (samples[0] > most) continue;
      if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
      samples.push(await once(device, session, program));
    }
  }
}

function emptyRow({ op, pass, problem }: Job, { name, isChoice, standsFor }: Variant): Row {
  const about = { op: op.name, pass, problem, variant: name, ...(standsFor && { standsFor }), isChoice };
  return { ...about, kernels: [], dispatches: 0, flops: 0, bytes: 0 };
}

/** Of a file given by path its name alone: results are passed on. */
const kernelName = (file: string) => (file.endsWith('.wgsl') ? file.split(/[\\/]/).at(-1)! : file);

function describe(row: Row, { dispatches }: Program, work: number): void {
  row.kernels = [...new Set(dispatches.map(({ kernel }) => kernelName(kernel.spec.file)))];
  row.dispatches = dispatches.length;
  row.flops = dispatches.reduce((sum, { flops }) => sum + flops, 0) || work;
  row.bytes = dispatches.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Expected from the same implementation on a smaller problem, or of another op: rough, but enough to stay clear of minutes. */
function tooLong(job: Job, { name }: Variant, rates: Rates, most: number): string | undefined {
  const work = job.op.flops(job.problem);
  const expected = work * (rates.get(rateKey(job, name)) ?? rates.get(name) ?? 0);
  return expected > most ? `would take about ${Number(expected.toPrecision(2))} s a run, over ${most} s` : undefined;
}

const rateKey = ({ op, pass }: Job, variant: string) => `${op.name} ${pass} ${variant}`;

function learn(rates: Rates, job: Job, { variant, seconds }: Row, work: number): void {
  if (!seconds || work === 0) return;
  const rate = seconds.median / work;
  // The best so far: few rows in large tiles say little of many.
  const own = rateKey(job, variant);
  rates.set(own, Math.min(rates.get(own) ?? rate, rate));
  if (work > 1e8) rates.set(variant, Math.max(rates.get(variant) ?? 0, rate));
}

/**
 * Inputs, outputs and, for a backward pass, gradients of both. With `first`, what another variant has, only what this one
 * wants in a layout of its own.
 */
function tensorsOf(
  device: Device,
  { op: plain, pass, problem }: Job,
  variant: Variant,
  cache: { of?: Arrays },
  first: Record<string, Tensor> | undefined,
): Record<string, Tensor> {
  const op = variant.op ?? plain;
  const source = numbers(1);
  const { gradient } = op;
  const backward = pass === 'backward' ? gradient! : undefined;
  const inputs = (backward?.inputs ?? op.inputs)(problem);
  const described: Op = { ...op, inputs: () => inputs };
  const arrays = (cache.of ??= inputArrays(described, problem, source));
  if (first) {
    const own = Object.fromEntries(Object.entries(inputs).filter(([, { upload }]) => upload));
    return createTensors(device, { ...op, inputs: () => own, outputs: () => ({}) }, problem, variant.name, arrays);
  }
  const tensors = createTensors(device, described, problem, variant.name, arrays);
  if (!backward) return tensors;
  const add = (name: string, shape: readonly number[]) => {
    tensors[`d_${name}`] = device.tensor(shape, 'f32', `d_${name}`, source.normal(product(shape), 1));
  };
  if (!backward.loss) for (const [name, shape] of Object.entries(op.outputs(problem))) add(name, shape);
  for (const name of Object.keys(backward.of(problem))) add(name, inputs[name].shape);
  for (const [name, indices] of Object.entries(backward.derived?.(arrays, problem) ?? {})) {
    tensors[name] = device.tensor([indices.length], 'u32', name, indices);
  }
  return tensors;
}
