/** Memory of a sampling run, counted on a device that takes none: the model is loaded and the batch recorded there. */
import { EmigmError } from '../errors.ts';
import { type Abilities, Device, mib } from '../gpu/device.ts';
import { type ModelConfig, parameterShapes } from '../models/config.ts';
import { Emigm } from '../models/emigm.ts';
import type { WeightSource } from '../nn/weights.ts';
import type { Stored } from '../ops/matmul_kernels.ts';
import { type BatchInput, BatchSampler, type KeptTokens } from './batch.ts';
import { HeadSampler } from './head_sampler.ts';
import { listEntries, listsTooLong, mostImages } from './lists.ts';
import { planBatch } from './plan.ts';
import { resolveSettings, type SampleSettings } from './settings.ts';

/** Bytes on the device. */
export interface SamplingMemory {
  /** All parameters, as the kernels want them laid out. */
  weights: number;
  /** What a batch takes besides: tokens, indices, and the arena that all intermediate results share. */
  activations: number;
  /** The largest single buffer of the activations. */
  largest: number;
  total: number;
}

export interface SamplingMemoryOptions {
  /** Images at once. */
  batch: number;
  /** How weights of linear layers are stored. */
  stored: Stored;
  /** The device that is meant; default: a GPU. */
  device?: Partial<Abilities>;
  /** Default: the defaults of `sample`. */
  settings?: Partial<SampleSettings>;
}

/** The CPU drivers' abilities, for plans: lavapipe on AVX2; SwiftShader differs by a few kilobytes of padding. */
export const CPU_DRIVER: Partial<Abilities> = { isCpu: true, lanes: 8, hasF16: false, hasSubgroups: true };

/**
 * Device memory for sampling `batch` images at once, each of its own class while there are as many. Exact for the
 * device that is described, because the programs are recorded as for a run. Needs no driver.
 */
export async function samplingMemory(config: ModelConfig, options: SamplingMemoryOptions): Promise<SamplingMemory> {
  const { batch, stored, device = {} } = options;
  const settings = resolveSettings(options.settings);
  const { model, weights, dispose } = await planModel(config, stored, device);
  try {
    const images = Array.from({ length: batch }, (_, i) => i);
    const classes = images.map((i) => i % config.classes);
    const { total: activations, largest } = batchMemory(model, settings, planBatch(model, settings, classes, images));
    return { weights, activations, largest, total: weights + activations };
  } finally {
    await dispose();
  }
}

/** The model on a device that only counts; nothing can run on it. */
export async function planModel(config: ModelConfig, stored: Stored, abilities: Partial<Abilities>) {
  const device = await Device.plan(abilities);
  const model = await Emigm.load(device, config, emptySource(config), { stored });
  const weights = device.allocated;
  const dispose = async (): Promise<void> => {
    // Compilers still at work would outlive the device.
    await Promise.allSettled([...device.kernels].map(({ ready }) => ready));
    device.dispose();
  };
  return { model, weights, dispose };
}

/** Parameters of the right shapes whose numbers do not matter: all share one array. */
function emptySource(config: ModelConfig): WeightSource {
  const shapes = parameterShapes(config);
  const size = (name: string) => shapes.get(name)!.reduce((a, b) => a * b, 1);
  const zeros = new Float32Array(Math.max(...[...shapes.keys()].map(size)));
  return { shape: (name) => shapes.get(name)!, read: async (name) => zeros.subarray(0, size(name)) };
}

function batchMemory(model: Emigm, settings: SampleSettings, input: BatchInput): BatchSampler['memory'] {
  const sampler = new BatchSampler(model, input, { seed: settings.seed, head: new HeadSampler(settings) });
  const { memory } = sampler;
  sampler.dispose();
  return memory;
}

/**
 * Records a batch and takes its memory.
 * @throws EmigmError 'memory' when that fails, saying how much it was and which batch size fits
 */
export async function prepareBatch(
  model: Emigm,
  settings: SampleSettings,
  input: BatchInput,
  outputScale?: number,
): Promise<BatchSampler> {
  const { device } = model;
  const taken = device.allocated;
  let sampler: BatchSampler | undefined;
  try {
    sampler = new BatchSampler(model, input, { seed: settings.seed, head: new HeadSampler(settings), outputScale });
    await sampler.prepare();
    await device.done();
    return sampler;
  } catch (cause) {
    sampler?.dispose();
    if (!(cause instanceof EmigmError) || cause.code !== 'memory') throw cause;
    const { needed, advice } = await adviseBatch(model, settings, input, taken);
    const what = `a batch of ${input.classRows.length} needs ${mib(needed)} besides the weights`;
    throw new EmigmError('memory', `${what}: ${cause.message}; ${advice}`, { cause });
  }
}

/**
 * Has the kernels of a run compiled while something else goes on, such as the reading of weights: records the first, a
 * middle and the last step of a batch, and keeps nothing of it.
 */
export function precompile(
  model: Emigm,
  settings: SampleSettings,
  classes: readonly (number | undefined)[],
  indices: readonly number[],
): void {
  if (classes.length > mostImages(entriesAnImage(model, settings, classes, indices))) return; // refused by the run
  const input = planBatch(model, settings, classes, indices);
  const { steps } = input;
  const kinds = [...new Set([0, Math.floor(steps.length / 2), steps.length - 1])].map((i) => steps[i]);
  try {
    batchMemory(model, settings, { ...input, steps: kinds });
  } catch (error) {
    // The run itself will say which batch fits.
    if (!(error instanceof EmigmError) || error.code !== 'memory') throw error;
  }
}

/**
 * Told before any list is built, which would end the process.
 * @throws EmigmError 'memory' for a batch whose lists are too long, naming a batch size that fits
 */
export async function checkBatchSize(
  model: Emigm,
  settings: SampleSettings,
  classes: readonly (number | undefined)[],
  indices: readonly number[],
  kept?: KeptTokens,
): Promise<void> {
  const entries = entriesAnImage(model, settings, classes, indices, kept);
  const most = mostImages(entries);
  if (classes.length <= most) return;
  const { device } = model;
  const plan = await planModel(model.config, model.stored, device);
  try {
    let size = 1;
    for (; 2 * size <= most; size *= 2) {
      const input = planBatch(model, settings, classes.slice(0, 2 * size), indices.slice(0, 2 * size), kept);
      const part = batchMemory(plan.model, settings, input);
      if (part.largest > device.largestBuffer || part.total > device.memory - device.allocated) break;
    }
    throw listsTooLong(classes.length, entries, `use --batch ${size}`);
  } finally {
    await plan.dispose();
  }
}

function entriesAnImage(
  model: Emigm,
  settings: SampleSettings,
  classes: readonly (number | undefined)[],
  indices: readonly number[],
  kept?: KeptTokens,
): number {
  const one = planBatch(model, settings, classes.slice(0, 1), indices.slice(0, 1), kept);
  return listEntries(model.config, model.sequenceLength, one);
}

/** What a refused batch needs, and the largest power of two below it that fits beside the `taken` bytes. */
async function adviseBatch(model: Emigm, settings: SampleSettings, input: BatchInput, taken: number) {
  const { device, config } = model;
  // Not on the device itself: once a driver has run out of memory it is lost.
  const plan = await planModel(config, model.stored, device);
  try {
    const { total: needed, largest } = batchMemory(plan.model, settings, input);
    const limited = largest > device.largestBuffer || Number.isFinite(device.memory);
    // A driver that ran out does not say how much it had: half is a guess.
    const room = limited ? device.memory - taken : needed / 2;
    let size = 2 ** (Math.ceil(Math.log2(input.classRows.length)) - 1);
    for (; size >= 1; size /= 2) {
      const part = batchMemory(plan.model, settings, firstImages(input, size));
      if (part.largest <= device.largestBuffer && part.total <= room) break;
    }
    if (size < 1) return { needed, advice: 'this model is too large for this adapter at any batch size' };
    return { needed, advice: `${limited ? 'use' : 'try'} --batch ${size}` };
  } finally {
    await plan.dispose();
  }
}

function firstImages({ classRows, imageIndices, steps, kept }: BatchInput, size: number): BatchInput {
  return {
    kept,
    classRows: classRows.slice(0, size),
    imageIndices: imageIndices.slice(0, size),
    steps: steps.map((step) => ({ ...step, positions: step.positions.slice(0, size) })),
  };
}
