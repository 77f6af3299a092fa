/** Many jobs after each other, each group on a device of its own. */
import { EmigmError } from '../../errors.ts';
import type { DeviceOptions } from '../../gpu/device.ts';
import { openDevice } from '../../ops/open_device.ts';
import type { Row } from './schema.ts';
import { type Job, type Limits, type Rates, timeJob, workOf } from './time.ts';

export interface MeasureOptions {
  device?: DeviceOptions;
  limits: Limits;
  /** Called before each job with the share of the work that is done. */
  onProgress?: (done: number, what: string) => void;
  signal?: AbortSignal;
}

/** Times all jobs; a group, one pass of an op, has a device of its own, which frees whatever the op has taken. */
export async function measureJobs(groups: readonly (readonly Job[])[], options: MeasureOptions): Promise<Row[]> {
  const { limits, onProgress, signal } = options;
  // Stands for the time that it will take.
  const cost = (job: Job) => job.variants.length * (1 + workOf(job) / 2e9);
  const total = groups.flat().reduce((sum, job) => sum + cost(job), 0);
  const rates: Rates = new Map();
  const rows: Row[] = [];
  let done = 0;
  for (const group of groups.filter(({ length }) => length > 0)) {
    const device = await openDevice(options.device);
    try {
      for (const job of group) {
        if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
        onProgress?.(done / total, job.op.name);
        rows.push(...(await timeJob(device, job, limits, rates, signal)));
        done += cost(job);
      }
    } finally {
      device.dispose();
    }
  }
  return rows;
}
