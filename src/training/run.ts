/** A run in its folder: begun or resumed, saved, exported, sampled from. */
import { EmigmError } from '../errors.ts';
import { contactSheet, type RgbImage, toBytes } from '../formats/rgb.ts';
import { checkpointSteps, pruneCheckpoints, runFile } from '../formats/run_folder.ts';
import type { Device } from '../gpu/device.ts';
import type { ModelInfo } from '../models/info.ts';
import type { TrunkConfig } from '../models/trunk.ts';
import { recommendedSettings } from '../sampling/axes.ts';
import { sheetScale } from '../sampling/pictures.ts';
import { resolveSettings } from '../sampling/settings.ts';
import { type CheckpointHeader, loadCheckpoint, readCheckpointHeader, saveCheckpoint } from './checkpoint.ts';
import type { ParameterStore } from './parameters.ts';
import { resolveAxes } from '../masking/axes.ts';
import type { RunModel, RunState } from './run_model.ts';
import { flatAxes, type TrainingSettings } from './settings.ts';
import type { Trainer } from './trainer.ts';

/** What may differ between a run and its continuation: none of it changes a number of the steps they share. */
const FREE = ['steps', 'epochs', 'saveEvery', 'sampleEvery', 'keep', 'checkpointing', 'preset'];

/** What a run and its continuation share. */
export interface RunFacts {
  folder: string;
  config: TrunkConfig;
  settings: TrainingSettings;
  /** Of the data; of codes also what tells their codebook from others. */
  data: { size: number; classes: readonly string[]; scale: number; codebook?: string };
}

export interface RunOptions extends Omit<RunFacts, 'config'> {
  model: RunModel;
  info: ModelInfo;
}

const factsOf = ({ model, ...rest }: RunOptions): RunFacts => ({ ...rest, config: model.config });

export class TrainingRun {
  readonly trainer: Trainer;
  /** Steps that were taken before. */
  readonly from: number;
  private readonly options: RunOptions;
  private readonly parameters: ParameterStore;

  private constructor(options: RunOptions, { parameters, trainer }: RunState, from: number) {
    this.options = options;
    this.parameters = parameters;
    this.trainer = trainer;
    this.from = from;
  }

  /**
   * Begins a run with new weights, or goes on from the newest checkpoint of its folder.
   * @throws EmigmError 'input' when the checkpoint was made with other settings, 'memory' when the run does not fit
   */
  static async open(device: Device, options: RunOptions, resume: boolean): Promise<TrainingRun> {
    const { folder, model, settings } = options;
    const from = (await checkpointSteps(folder)).at(-1);
    if (from !== undefined && !resume) {
      throw new EmigmError(
        'input',
        `${folder} holds a run of ${from} steps; go on with --resume or name another folder`,
      );
    }
    if (from !== undefined) checkSame(await readCheckpointHeader(folder, from), factsOf(options));
    const state = model.setUp(device, settings);
    const { parameters, trainer } = state;
    try {
      if (from !== undefined) await loadCheckpoint(folder, from, parameters);
      else await parameters.load(model.initial(settings.seed));
      await trainer.prepare();
      return new TrainingRun(options, state, from ?? 0);
    } catch (error) {
      trainer.dispose();
      parameters.dispose();
      throw error;
    }
  }

  /** Saves a checkpoint and the averaged weights, and removes what is older than the kept ones. */
  async save(step: number): Promise<string> {
    const { folder, info, model, settings } = this.options;
    const path = await saveCheckpoint(folder, this.parameters, {
      step,
      config: model.config,
      settings: comparable(this.options),
    });
    const trained = { ...info, training: describe(settings, step, this.options.data.size) };
    await model.save(runFile(folder, 'model.safetensors'), this.parameters, trained);
    await pruneCheckpoints(folder, settings.keep);
    return path;
  }

  /** Writes the averaged weights under the official names. @throws EmigmError 'input' for models that have none */
  async exportOfficial(): Promise<string> {
    const { folder, model } = this.options;
    if (!model.saveOfficial) throw new EmigmError('input', 'there are no official names for a model of codes');
    const path = runFile(folder, 'official.safetensors');
    await model.saveOfficial(path, this.parameters);
    return path;
  }

  /** Draws `count` images of each of the first ten classes from the averaged weights; pixel models only. */
  async sheet(count = 4): Promise<RgbImage | undefined> {
    const { model, info, data, settings } = this.options;
    const { config } = model;
    if (config.vaeStride !== 1 || config.channels !== 3) return undefined;
    const { parameters } = this;
    const average = {
      shape: (name: string) => parameters.find(name).shape,
      read: (name: string) => parameters.read(name, 'average'),
    };
    const classes = data.classes.slice(0, 10).flatMap((_, number) => new Array<number>(count).fill(number));
    const asked = resolveSettings(recommendedSettings(info), { seed: settings.seed });
    const request = { ...asked, classes, indices: classes.map((_, i) => i % count), outputScale: 1 / data.scale };
    const images: RgbImage[] = [];
    for await (const batch of model.draw(parameters.device, average, request)) {
      for (const { latents } of batch) images.push(toBytes(latents, config.imageSize, config.imageSize));
    }
    return contactSheet(images, count, {
      scale: sheetScale(config.imageSize, count),
      labels: data.classes.slice(0, 10),
    });
  }

  dispose(): void {
    this.trainer.dispose();
    this.parameters.dispose();
  }
}

/** Settings and facts that a run and its continuation share, as checkpoints have them. */
export function comparable({
  settings: { axes, ...settings },
  data,
}: Pick<RunFacts, 'settings' | 'data'>): Record<string, unknown> {
  const all = { ...settings, ...flatAxes(axes) };
  const kept = Object.entries(all).filter(([name, value]) => !FREE.includes(name) && value !== undefined);
  const { size: images, classes, scale: dataScale, codebook } = data;
  return { ...Object.fromEntries(kept), images, classes, dataScale, ...(codebook !== undefined && { codebook }) };
}

/** What checkpoints say nothing of that were saved before there were axes: eMIGM's. */
function unsaid(config: TrunkConfig): Record<string, unknown> {
  const { mae, maskGuidance } = config;
  const network = { network: mae ? 'mae' : 'single', unconditional: maskGuidance ? 'mask' : 'fake-class' };
  return flatAxes(resolveAxes('emigm', network));
}

/** @throws EmigmError 'input' naming the first setting in which the run differs from its checkpoint */
export function checkSame({ step, config, settings }: CheckpointHeader, options: RunFacts): void {
  const now = { ...comparable(options), ...options.config };
  const before: Record<string, unknown> = { ...unsaid(config), ...settings, ...config };
  for (const name of new Set([...Object.keys(now), ...Object.keys(before)])) {
    const [was, is] = [JSON.stringify(before[name]), JSON.stringify((now as Record<string, unknown>)[name])];
    if (was === is) continue;
    throw new EmigmError(
      'input',
      `${options.folder}: the run of ${step} steps has ${name} ${was}, now it is ${is}; a run goes on with the same settings`,
    );
  }
}

function describe(settings: TrainingSettings, step: number, images: number): string {
  const { batch, learningRate, learningRateSchedule, emaDecay, axes } = settings;
  return (
    `${images} images; ${step} steps of ${batch}, AdamW (${settings.beta1}, ${settings.beta2}), weight decay ` +
    `${settings.weightDecay}, peak learning rate ${learningRate}, ${learningRateSchedule}, clip ${settings.gradientClip}, ` +
    `EMA ${emaDecay}, masks ${axes.maskDistribution} by ${axes.schedule}, weighting ${axes.weighting}, ` +
    `seed ${settings.seed}`
  );
}
