/** Costs on the host: planning, parsing, recording, and what a replayed step costs beside the device's work. */
import { readFileSync } from 'node:fs';
import Benchmark from 'benchmark';
import { dpmSolverPlan } from '../src/diffusion/dpm_solver.ts';
import { headerLength, parseHeader } from '../src/formats/safetensors_parse.ts';
import type { Device, DeviceOptions } from '../src/gpu/device.ts';
import { revealPlan } from '../src/masking/reveal.ts';
import { loadModel } from '../src/models/load.ts';
import { BatchSampler } from '../src/sampling/batch.ts';
import { HeadSampler } from '../src/sampling/head_sampler.ts';
import { planBatch } from '../src/sampling/plan.ts';
import { resolveSettings, type SampleSettings } from '../src/sampling/settings.ts';
import type { HostRow } from './result.ts';
import { summarise } from '../src/measurement/statistics.ts';

export interface HostOptions {
  device?: DeviceOptions;
  /** A model file. */
  model: string;
  quick?: boolean;
  onProgress?: (done: number, what: string) => void;
}

const BATCH = 16;

/** Runs all host benchmarks on one model. @throws EmigmError as `loadModel` does */
export async function benchHost(options: HostOptions): Promise<HostRow[]> {
  const rows: HostRow[] = [];
  const expected = 8;
  const next = (what: string) => options.onProgress?.(rows.length / expected, what);
  const time = async (name: string, run: () => void) => {
    next(name);
    await new Promise((resolve) => setTimeout(resolve)); // lets the progress be seen
    rows.push(timeSync(name, run, options.quick));
  };

  const images = Array.from({ length: BATCH }, (_, i) => i);
  const reveal = { seed: 0, seqLen: 256, steps: 16, schedule: 'exp', imageIndices: images, gridWidth: 16 };
  await time(`reveal plan: ${BATCH} images, 256 tokens, 16 steps`, () => revealPlan(reveal));
  await time('DPM-Solver schedule: 8 evaluations', () => dpmSolverPlan(8));
  const bytes = readFileSync(options.model);
  const length = headerLength(bytes.subarray(0, 8), bytes.length, options.model);
  const header = bytes.subarray(8, 8 + length);
  await time('safetensors header: parse and check', () => parseHeader(header, bytes.length, options.model));

  // Dawn's null backend takes commands and does nothing: what is left is the engine's own cost and Dawn's.
  const nothing = await Stage.open(options, { adapter: 'null' });
  await time(`record a batch of ${BATCH}`, () => new BatchSampler(...nothing.recording).dispose());
  await time('submit a step, null backend', () => nothing.submit());
  rows.push(perDispatch('one replayed dispatch, null backend', rows.at(-1)!, nothing.dispatches));
  nothing.dispose();

  const real = await Stage.open(options, options.device ?? {});
  const name = `submit a step, ${real.device.name}`;
  next(name);
  rows.push(await timeSubmits(name, real, options.quick ? 5 : 50));
  rows.push(perDispatch(`one replayed dispatch, ${real.device.name}`, rows.at(-1)!, real.dispatches));
  real.dispose();
  return rows;
}

/** A batch of the model, ready to replay the middle step of its run. */
class Stage {
  readonly device: Device;
  readonly recording: ConstructorParameters<typeof BatchSampler>;
  private readonly sampler: BatchSampler;
  private readonly step: number;
  private readonly free: () => void;

  private constructor(recording: Stage['recording'], free: () => void) {
    this.recording = recording;
    this.device = recording[0].device;
    this.sampler = new BatchSampler(...recording);
    this.step = Math.floor(this.sampler.stepCount / 2);
    this.free = free;
  }

  static async open({ model: path }: HostOptions, options: DeviceOptions): Promise<Stage> {
    const { network, config, info, dispose } = await loadModel(path, { device: options });
    const settings = resolveSettings(info.sampling as Partial<SampleSettings> | undefined);
    const images = Array.from({ length: BATCH }, (_, i) => i);
    const input = planBatch(
      network,
      settings,
      images.map((i) => i % config.classes),
      images,
    );
    const stage = new Stage([network, input, { seed: 0, head: new HeadSampler(settings) }], dispose);
    await stage.sampler.prepare();
    stage.sampler.load(input);
    stage.sampler.begin();
    await stage.device.done();
    return stage;
  }

  get dispatches(): number {
    return this.sampler.allPrograms[1 + this.step].dispatches.length; // the first program is the time embeddings
  }

  submit(): void {
    this.sampler.step(this.step);
  }

  dispose(): void {
    this.sampler.dispose();
    this.free();
  }
}

function timeSync(name: string, run: () => void, quick = false): HostRow {
  const effort = quick ? { maxTime: 0.02, minTime: 0.005, minSamples: 3 } : { maxTime: 1, minSamples: 20 };
  const bench = new Benchmark(name, run, effort);
  bench.run({ async: false });
  if (bench.error) throw bench.error;
  const { mean, rme, sample } = bench.stats;
  return { name, microseconds: mean * 1e6, spread: rme / 100, samples: sample.length, method: 'benchmark.js' };
}

/** Encodes and submits a step, then waits outside the clock so that no queue fills up. */
async function timeSubmits(name: string, stage: Stage, count: number): Promise<HostRow> {
  const seconds: number[] = [];
  for (let i = 0; i < count + 2; i++) {
    const start = performance.now();
    stage.submit();
    if (i >= 2) seconds.push((performance.now() - start) / 1000);
    await stage.device.done();
  }
  const { median, spread, samples } = summarise(seconds);
  return { name, microseconds: median * 1e6, spread, samples, method: 'loop' };
}

function perDispatch(name: string, row: HostRow, dispatches: number): HostRow {
  return { ...row, name: `${name} (of ${dispatches})`, microseconds: row.microseconds / dispatches };
}
