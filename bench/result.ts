/** What a benchmark run leaves behind: numbers, and all that is needed to see where they come from. */
import { mkdirSync } from 'node:fs';
import { basename, dirname, isAbsolute } from 'node:path';
import { commit, processorText, versions } from '../src/cli/versions.ts';
import { reportJson, writeText } from '../src/cli/write_report.ts';
import type { Device } from '../src/gpu/device.ts';
import type { Problem } from '../src/ops/op.ts';

export const SCHEMA = 1;

/** One op on one problem in one variant. */
export interface OpRow {
  op: string;
  pass: 'forward' | 'backward';
  problem: Problem;
  variant: string;
  /** Kernel files, in the order of their dispatches. */
  kernels: string[];
  /** Median of the device's own time; undefined when skipped. */
  ms?: number;
  spread?: number;
  samples?: number;
  gflops?: number;
  /** Bytes of all operands, each counted once, over the time. */
  gbps?: number;
  /** Time of the reference variant on this problem over the time of this one. */
  overReference?: number;
  /** Why there is no time. */
  skipped?: string;
}

/** A cost on the host. */
export interface HostRow {
  name: string;
  microseconds: number;
  /** Relative margin of error (benchmark.js), or distance of the quartiles over the median (loop). */
  spread: number;
  samples: number;
  method: 'benchmark.js' | 'loop';
}

/** One sampling run. */
export interface SamplingRow {
  model: string;
  images: number;
  batch: number;
  steps: number;
  headSteps: number | string;
  nfe: number;
  headEvaluations: number;
  /** Dispatches of a batch. */
  dispatches: number;
  seconds: {
    load: number;
    prepare: number;
    total: number;
    anImage: number;
    host: number;
    /** Device time by part of the model; `idle` is what is left of the total. */
    parts: Record<string, number>;
  };
  /** Host time for encoding and submitting, of a step, and over the total. */
  host: { microsecondsAStep: number; microsecondsADispatch: number; share: number };
  /** Bytes: the most that was taken on the device, and by the whole process (on CPU drivers that includes the former). */
  memory: { device: number; process: number };
}

/** Training steps of one configuration; seconds of forward, backward and optimizer are the device's own. */
export interface TrainingRow {
  config: string;
  batch: number;
  secondsAStep: number;
  imagesASecond: number;
  gflops: number;
  forward: number;
  backward: number;
  /** Norm, AdamW with averaging, renewal of weight copies; `update` is AdamW with averaging alone. */
  optimizer: number;
  update: number;
  /** Share of the device's time by op, largest first. */
  shares: Record<string, number>;
  memory: { device: number; process: number };
}

export interface BenchResult {
  schema: typeof SCHEMA;
  date: string;
  command: string;
  adapter: string;
  driver: string;
  cpu: string;
  versions: Record<string, string>;
  commit: string;
  ops: OpRow[];
  host: HostRow[];
  sampling: SamplingRow[];
  training: TrainingRow[];
}

/** When, how and on what a benchmark was run; `script` is what its arguments follow. */
export function resultHead(device: Pick<Device, 'name' | 'driver'>, argv: readonly string[], script: string) {
  return {
    schema: SCHEMA,
    date: new Date().toISOString(),
    command: [script, ...argv.map((word) => (isAbsolute(word) ? basename(word) : word))].join(' '),
    adapter: device.name,
    driver: device.driver,
    cpu: processorText(),
    versions: versions(),
    commit: commit() ?? 'unknown',
  } as const;
}

export function emptyResult(device: Pick<Device, 'name' | 'driver'>, argv: readonly string[]): BenchResult {
  return { ...resultHead(device, argv, 'npm run bench --'), ops: [], host: [], sampling: [], training: [] };
}

/** Writes a result of one list, a line a row, so that results can be compared by diff. @throws EmigmError 'file' */
export async function writeRows<T extends { readonly rows: readonly object[] }>(
  path: string,
  result: T,
): Promise<void> {
  mkdirSync(dirname(path), { recursive: true });
  await writeText(path, reportJson(result));
}

/** @throws EmigmError 'file' */
export async function writeResult(path: string, result: BenchResult): Promise<void> {
  mkdirSync(dirname(path), { recursive: true });
  const { ops, host, sampling, training, ...head } = result;
  const list = (rows: readonly object[]) =>
    rows.length === 0 ? '[]' : `[\n${rows.map((row) => `    ${JSON.stringify(row)}`).join(',\n')}\n  ]`;
  const fields = Object.entries(head).map(([name, value]) => `  ${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  const rows = Object.entries({ ops, host, sampling, training }).map(([name, value]) => `  "${name}": ${list(value)}`);
  const text = `{\n${[...fields, ...rows].join(',\n')}\n}\n`; // a line a row, so that results can be compared by diff
  await writeText(path, text);
}
