/** Times of every op by the device's own timestamps, in every variant, beside the reference. */
import { EmigmError } from '../src/errors.ts';
import type { Device, DeviceOptions } from '../src/gpu/device.ts';
import { openDevice } from '../src/ops/open_device.ts';
import type { Row } from '../src/measurement/kernels/schema.ts';
import { measureJobs } from '../src/measurement/kernels/run.ts';
import { type Job, jobsOf } from '../src/measurement/kernels/time.ts';
import type { Op } from '../src/ops/op.ts';
import { ops } from '../src/ops/registry.ts';
import type { OpRow } from './result.ts';

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

/** @throws EmigmError 'adapter' when the adapter has no timestamps, 'input' when no op has such a name */
export async function benchOps(options: OpsOptions): Promise<OpRow[]> {
  const { quick, signal } = options;
  const pattern = new RegExp(options.pattern ?? '');
  const chosen = ops.filter(({ name }) => pattern.test(name));
  if (chosen.length === 0) {
    throw new EmigmError('input', `no op matches ${options.pattern}; there are ${ops.map((op) => op.name).join(', ')}`);
  }
  const groups: Job[][] = [];
  const probe = await openDevice(options.device);
  for (const op of chosen) {
    for (const pass of ['forward', 'backward'] as const) groups.push(opJobs(probe, op, pass, options));
  }
  probe.dispose();
  const limits = quick ? { once: 1, each: 0.1 } : { once: 4, each: 0.6 };
  const { device, onProgress } = options;
  return withRatios((await measureJobs(groups, { device, limits, onProgress, signal })).map(opRow));
}

function opJobs(device: Device, op: Op, pass: Job['pass'], { quick, variants }: OpsOptions): Job[] {
  const sorted = [...op.problems.bench].sort((a, b) => op.flops(a) - op.flops(b));
  const choose = (usable: readonly string[]) => (variants === 'best' ? usable.slice(0, 1) : usable);
  return jobsOf(device, op, pass, sorted.slice(0, quick ? 1 : undefined), choose);
}

function opRow({ op, pass, problem, variant, kernels, seconds, flops, bytes, skipped }: Row): OpRow {
  const row = { op, pass, problem, variant, kernels, ...(skipped && { skipped }) };
  if (!seconds) return row;
  const { median, spread, samples } = seconds;
  const gflops = flops > 0 ? (flops / median) * 1e-9 : undefined;
  return { ...row, ms: median * 1e3, spread, samples: samples.length, gflops, gbps: (bytes / median) * 1e-9 };
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
