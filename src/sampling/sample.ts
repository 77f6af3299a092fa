/** Sampling images: the run split into batches, each replayed step by step, with progress, timing and cancellation. */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import { PartTimer } from '../gpu/timer.ts';
import type { Emigm } from '../models/emigm.ts';
import type { BatchInput, BatchSampler, KeptTokens } from './batch.ts';
import { checkBatchSize, prepareBatch } from './memory.ts';
import { planBatch } from './plan.ts';
import { resolveSettings, type SampleSettings } from './settings.ts';

export interface SampleProgress {
  /** Images finished before this batch, and of how many. */
  imagesDone: number;
  images: number;
  /** Steps of this batch done, and of how many. */
  step: number;
  steps: number;
  /** Indices (into the run) of the images of this batch. */
  batch: readonly number[];
  /** Reads the latents of this batch as they are now, [batch, channels, side, side]; unrevealed tokens are 0. */
  latents(): Promise<Float32Array>;
  /** For each image of the batch, 1 where a grid position has been revealed. */
  revealed(): Promise<readonly Uint8Array[]>;
}

export interface SampleRequest extends Partial<SampleSettings> {
  /** Class number of each image; undefined: without a class. */
  classes: readonly (number | undefined)[];
  /** Images generated at once. */
  batch?: number;
  /** Index of each image, what (with the seed) its noise and order depend on. Default 0, 1, 2, ... */
  indices?: readonly number[];
  /** Multiplies the latents: 1 / data scale for pixel models. */
  outputScale?: number;
  /** Tokens that are there from the start, in every image. Default: none. */
  kept?: KeptTokens;
  /** Called after each step; awaited. */
  onStep?: (progress: SampleProgress) => void | Promise<void>;
  signal?: AbortSignal;
}

export interface SampledImage {
  index: number;
  classNumber: number | undefined;
  /** [channels, side, side] latents times the output scale; for pixel models RGB in about [-1, 1]. */
  latents: Float32Array;
}

/** What was run, counted and timed. */
export interface SampleStats {
  images: number;
  batches: number;
  /** Network evaluations an image: steps, plus guided steps. */
  nfe: number;
  /** Rows through the diffusion head, of all images together. */
  headEvaluations: number;
  /** Kernel dispatches of a batch. */
  dispatches: number;
  seconds: {
    /** From the first submit to the last read, without compiling kernels, recording and what `onStep` does. */
    total: number;
    /** Recording, planning, compiling. */
    prepare: number;
    /** Host time for encoding and submitting. */
    host: number;
    /** Device time by part, where the adapter has timestamps: encoder, decoder, head, rest. */
    parts: Record<string, number>;
  };
}

/** A batch that is set up on the device. */
export interface PreparedBatch<Input> {
  readonly stepCount: number;
  /** Network evaluations an image. */
  readonly nfe: number;
  readonly headEvaluations: number;
  readonly dispatches: number;
  /** Whether another batch can use this recording. */
  fits(input: Input): boolean;
  load(input: Input): void;
  begin(timer?: PartTimer): void;
  /** Submits step `i`. */
  step(i: number, timer?: PartTimer): void;
  /** The latents as they are now, [images, channels, side, side]. */
  images(): Promise<Float32Array>;
  dispose(): void;
}

/** How a kind of model draws a batch. */
export interface BatchMethod<Input, Batch extends PreparedBatch<Input>> {
  /** Looks at the largest batch before it is planned. @throws EmigmError 'memory' naming a batch size that fits */
  check(classes: readonly (number | undefined)[], indices: readonly number[]): Promise<void>;
  plan(classes: readonly (number | undefined)[], indices: readonly number[]): Input;
  prepare(input: Input): Promise<Batch>;
  /** What is revealed after the first `steps` steps: see `SampleProgress`. */
  revealed(batch: Batch, input: Input, steps: number): readonly Uint8Array[] | Promise<readonly Uint8Array[]>;
}

/** A model as the loop sees it. */
interface Drawable {
  readonly device: Device;
  readonly config: { readonly classes: number };
}

type LoopRequest = Pick<SampleRequest, 'classes' | 'batch' | 'indices' | 'onStep' | 'signal'>;

/**
 * Draws batch by batch by a method of drawing one.
 * @throws EmigmError 'input' for bad requests, 'memory', 'aborted'
 */
export async function* drawBatches<Input, Batch extends PreparedBatch<Input>>(
  model: Drawable,
  method: BatchMethod<Input, Batch>,
  { classes, batch = 16, indices = classes.map((_, i) => i), onStep, signal }: LoopRequest,
  stats: SampleStats,
): AsyncGenerator<SampledImage[], SampleStats> {
  check(model, classes, batch, indices);
  await method.check(classes.slice(0, batch), indices.slice(0, batch));
  const { device } = model;
  const timer = device.hasTimestamps ? new PartTimer(device) : undefined;
  let sampler: Batch | undefined;
  const abort = () => {
    if (signal?.aborted) throw new EmigmError('aborted', 'sampling was stopped');
  };
  try {
    for (let first = 0; first < classes.length; first += batch) {
      abort();
      const chosen = indices.slice(first, first + batch);
      let clock = performance.now();
      const lap = () => (performance.now() - clock) / 1000;
      const input = method.plan(classes.slice(first, first + batch), chosen);
      if (!sampler?.fits(input)) {
        sampler?.dispose();
        sampler = undefined;
        sampler = await method.prepare(input);
      }
      const running = sampler;
      running.load(input);
      stats.seconds.prepare += lap();

      const readTimer = async () => {
        for (const [part, seconds] of Object.entries((await timer?.read()) ?? {})) {
          stats.seconds.parts[part] = (stats.seconds.parts[part] ?? 0) + seconds;
        }
      };
      clock = performance.now();
      const began = clock;
      let elsewhere = 0;
      running.begin(timer);
      for (let step = 0; step < running.stepCount; step++) {
        abort();
        clock = performance.now();
        running.step(step, timer);
        stats.seconds.host += lap();
        await device.done();
        clock = performance.now();
        await onStep?.({
          imagesDone: first,
          images: classes.length,
          step: step + 1,
          steps: running.stepCount,
          batch: chosen,
          latents: async () => {
            await readTimer(); // lavapipe ends a pass when the next one begins: it would last as long as what follows here
            return running.images();
          },
          revealed: async () => method.revealed(running, input, step + 1),
        });
        elsewhere += lap();
      }
      const latents = await running.images();
      stats.seconds.total += (performance.now() - began) / 1000 - elsewhere;
      await readTimer();
      stats.images += chosen.length;
      stats.batches++;
      stats.nfe = running.nfe;
      stats.headEvaluations += running.headEvaluations;
      stats.dispatches = running.dispatches;
      const size = latents.length / chosen.length;
      yield chosen.map((index, i) => ({
        index,
        classNumber: classes[first + i],
        latents: latents.slice(i * size, (i + 1) * size),
      }));
    }
    return stats;
  } finally {
    sampler?.dispose();
    timer?.dispose();
  }
}

/** Masks [tokens] of what the planned steps have revealed of each image; `known`: what was there from the start. */
export function revealedMasks(
  steps: readonly { positions: readonly ArrayLike<number>[] }[],
  tokens: number,
  known: (position: number) => boolean = () => false,
): Uint8Array[] {
  return (steps[0]?.positions ?? []).map((_, image) => {
    const mask = Uint8Array.from({ length: tokens }, (_, position) => (known(position) ? 1 : 0));
    for (const { positions } of steps) for (const position of Array.from(positions[image])) mask[position] = 1;
    return mask;
  });
}

/**
 * Samples images batch by batch. Each depends on the seed, its index, its class and the settings alone, not on the
 * batch in which it is made.
 * @throws EmigmError 'input' for bad requests, 'memory' naming a batch size that fits, 'aborted'
 */
export async function* sampleBatches(
  model: Emigm,
  request: SampleRequest,
  stats: SampleStats = emptyStats(),
): AsyncGenerator<SampledImage[], SampleStats> {
  const { classes, batch, indices, outputScale, kept, onStep, signal, ...rest } = request;
  const settings = resolveSettings(rest);
  const method: BatchMethod<BatchInput, BatchSampler> = {
    check: (classes, indices) => checkBatchSize(model, settings, classes, indices, kept),
    plan: (classes, indices) => planBatch(model, settings, classes, indices, kept),
    prepare: (input) => prepareBatch(model, settings, input, outputScale),
    revealed: (_, input, steps) =>
      revealedMasks(input.steps.slice(0, steps), model.sequenceLength, (position) => kept?.masked[position] === 0),
  };
  return yield* drawBatches(model, method, { classes, batch, indices, onStep, signal }, stats);
}

/** Samples all images of the request and returns them with what was run. */
export async function sample(
  model: Emigm,
  request: SampleRequest,
): Promise<{ images: SampledImage[]; stats: SampleStats }> {
  const stats = emptyStats();
  const images: SampledImage[] = [];
  for await (const batch of sampleBatches(model, request, stats)) images.push(...batch);
  return { images, stats };
}

export function emptyStats(): SampleStats {
  const seconds = { total: 0, prepare: 0, host: 0, parts: {} };
  return { images: 0, batches: 0, nfe: 0, headEvaluations: 0, dispatches: 0, seconds };
}

function check(
  model: Drawable,
  classes: readonly (number | undefined)[],
  batch: number,
  indices: readonly number[],
): void {
  const bad = (message: string): never => {
    throw new EmigmError('input', message);
  };
  if (classes.length === 0) bad('nothing to sample: the list of classes is empty');
  if (!Number.isInteger(batch) || batch < 1) bad(`batch must be a positive integer, not ${batch}`);
  if (indices.length !== classes.length) bad(`${classes.length} classes but ${indices.length} image indices`);
  for (const number of classes) {
    if (number !== undefined && !(Number.isInteger(number) && number >= 0 && number < model.config.classes)) {
      bad(`class ${number} does not exist: this model has classes 0 to ${model.config.classes - 1}`);
    }
  }
  for (const index of indices) {
    if (!(Number.isInteger(index) && index >= 0 && index < 2 ** 32))
      bad(`image index ${index} is not in 0 .. 2^32 - 1`);
  }
}
