/** Training steps: images a second, forward and backward apart, share of the optimizer, memory. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { EmigmError } from '../src/errors.ts';
import type { Device, DeviceOptions } from '../src/gpu/device.ts';
import { openDevice } from '../src/ops/open_device.ts';
import { packageFolder } from '../src/gpu/node.ts';
import type { ProfileRow } from '../src/gpu/recorder.ts';
import { latentSize } from '../src/models/config.ts';
import type { Batch } from '../src/training/data/types.ts';
import { initialParameters } from '../src/training/initialize.ts';
import { Parameters } from '../src/training/parameters.ts';
import { modelFor, parseRunConfig } from '../src/training/run_config.ts';
import { resolveSettings } from '../src/training/settings.ts';
import { Trainer } from '../src/training/trainer.ts';
import { numbers } from '../src/measurement/random_weights.ts';
import type { TrainingRow } from './result.ts';
import { summarise } from '../src/measurement/statistics.ts';

export interface TrainingOptions {
  device?: DeviceOptions;
  /** Name of a file in `configs`. */
  config: string;
  /** Images a step, all at once. */
  batch: number;
  /** Measured steps. */
  repeats: number;
  onProgress?: (done: number, what: string) => void;
  signal?: AbortSignal;
}

/** @throws EmigmError 'memory' when the run does not fit, 'numeric' when a loss is not finite */
export async function benchTraining(options: TrainingOptions): Promise<TrainingRow> {
  const { config: name, batch, repeats, onProgress, signal } = options;
  const path = join(packageFolder(), 'configs', `${name}.json`);
  const given = parseRunConfig(readFileSync(path, 'utf8'), { batch, microBatch: batch }, name);
  const classes = Array.from({ length: given.model.classes ?? 10 }, (_, i) => String(i));
  const config = modelFor(given, classes);
  const settings = resolveSettings(given.hyperparameters, 1_281_167);
  const device = await openDevice(options.device);
  const parameters = new Parameters(device, config);
  const trainer = Trainer.of(parameters, settings);
  try {
    await parameters.load(initialParameters(config, 0));
    await trainer.prepare();
    const data = randomBatch(batch, config.channels * latentSize(config) ** 2, classes.length);
    const seconds: number[] = [];
    for (let step = 0; step <= repeats; step++) {
      if (signal?.aborted) throw new EmigmError('aborted', 'the benchmark was stopped');
      const start = performance.now();
      // Step 0 again and again: the same masks, so that times can be compared.
      const { result } = await trainer.submit(0, data);
      const { loss } = await result;
      if (!Number.isFinite(loss)) throw new EmigmError('numeric', `the loss of ${name} is ${loss}`);
      if (step > 0) seconds.push((performance.now() - start) / 1000);
      onProgress?.((step + 1) / (repeats + 2), `${name}, batch ${batch}`);
    }
    const rows = device.hasTimestamps ? await trainer.profile() : [];
    return rowOf(name, options, summarise(seconds).median, rows, device);
  } finally {
    trainer.dispose();
    parameters.dispose();
    device.dispose();
  }
}

function randomBatch(batch: number, size: number, classes: number): Batch {
  return {
    images: numbers(1).normal(batch * size, 1) as Float32Array<ArrayBuffer>,
    labels: Int32Array.from({ length: batch }, (_, i) => i % classes),
    indices: Int32Array.from({ length: batch }, (_, i) => i),
  };
}

function rowOf(
  config: string,
  { batch }: TrainingOptions,
  seconds: number,
  rows: readonly ProfileRow[],
  device: Device,
): TrainingRow {
  const sum = (of: readonly ProfileRow[], key: 'seconds' | 'flops') => of.reduce((total, row) => total + row[key], 0);
  const total = sum(rows, 'seconds');
  const backward = rows.filter(({ part }) => part.endsWith(' backward'));
  const optimizer = rows.filter(({ part }) => part === 'optimizer');
  const forward = rows.filter((row) => !backward.includes(row) && !optimizer.includes(row));
  const shares: Record<string, number> = {};
  for (const row of rows) shares[row.op] = (shares[row.op] ?? 0) + row.seconds / total;
  return {
    config,
    batch,
    secondsAStep: seconds,
    imagesASecond: batch / seconds,
    gflops: sum(rows, 'flops') / seconds / 1e9,
    forward: sum(forward, 'seconds'),
    backward: sum(backward, 'seconds'),
    optimizer: sum(optimizer, 'seconds'),
    update: sum(
      optimizer.filter(({ op }) => op === 'adamw'),
      'seconds',
    ),
    shares: Object.fromEntries(Object.entries(shares).sort(([, a], [, b]) => b - a)),
    memory: { device: device.peak, process: process.resourceUsage().maxRSS * 1024 },
  };
}
