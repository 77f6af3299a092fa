/** A run in its folder: begun or resumed, saved, exported, sampled from. */
import { EmigmError } from '../errors.ts';
import { contactSheet, type RgbImage, toBytes } from '../formats/rgb.ts';
import { checkpointSteps, pruneCheckpoints, runFile } from '../formats/run_folder.ts';
import type { Device } from '../gpu/device.ts';
import type { ModelConfig } from '../models/config.ts';
import { Emigm } from '../models/emigm.ts';
import type { ModelInfo } from '../models/info.ts';
import { recommendedSettings } from '../sampling/axes.ts';
import { sheetScale } from '../sampling/pictures.ts';
import { sampleBatches } from '../sampling/sample.ts';
import { resolveSettings } from '../sampling/settings.ts';
import {
  type CheckpointHeader,
  exportAverage,
  exportStateDict,
  loadCheckpoint,
  readCheckpointHeader,
  saveCheckpoint,
} from './checkpoint.ts';
import { initialParameters } from './initialize.ts';
import { Parameters } from './parameters.ts';
import { resolveAxes } from '../masking/axes.ts';
import { flatAxes, type TrainingSettings } from './settings.ts';
import { Trainer } from './trainer.ts';

/** What may differ between a run and its continuation: none of it changes a number of the steps they share. */
const FREE = ['steps', 'epochs', 'saveEvery', 'sampleEvery', 'keep', 'checkpointing', 'preset'];

export interface RunOptions {
  folder: string;
  config: ModelConfig;
  settings: TrainingSettings;
  info: ModelInfo;
  /** Facts of the data that a resumed run must share. */
  data: { size: number; classes: readonly string[]; scale: number };
}

export class TrainingRun {
  readonly trainer: Trainer;
  /** Steps that were taken before. */
  readonly from: number;
  private readonly options: RunOptions;
  private readonly parameters: Parameters;

  private constructor(options: RunOptions, parameters: Parameters, trainer: Trainer, from: number) {
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
    const { folder, config, settings } = options;
    const from = (await checkpointSteps(folder)).at(-1);
    if (from !== undefined && !resume) {
      throw new EmigmError(
        'input',
        `${folder} holds a run of ${from} steps; go on with --resume or name another folder`,
      );
    }
    if (from !== undefined) checkSame(await readCheckpointHeader(folder, from), options);
    const parameters = new Parameters(device, config);
    try {
      if (from !== undefined) await loadCheckpoint(folder, from, parameters);
      else await parameters.load(initialParameters(config, settings.seed));
      const trainer = Trainer.of(parameters, settings);
      await trainer.prepare();
      return new TrainingRun(options, parameters, trainer, from ?? 0);
    } catch (error) {
      parameters.dispose();
      throw error;
    }
  }

  /** Saves a checkpoint and the averaged weights, and removes what is older than the kept ones. */
  async save(step: number): Promise<string> {
    const { folder, info, config, settings } = this.options;
    const path = await saveCheckpoint(folder, this.parameters, { step, config, settings: comparable(this.options) });
    const trained = { ...info, training: describe(settings, step, this.options.data.size) };
    await exportAverage(runFile(folder, 'model.safetensors'), this.parameters, trained);
    await pruneCheckpoints(folder, settings.keep);
    return path;
  }

  /** Writes the averaged weights under the official names. */
  async exportOfficial(): Promise<string> {
    const path = runFile(this.options.folder, 'official.safetensors');
    await exportStateDict(path, this.parameters, 'average');
    return path;
  }

  /** Draws `count` images of each of the first ten classes from the averaged weights; pixel models only. */
  async sheet(count = 4): Promise<RgbImage | undefined> {
    const { config, info, data, settings } = this.options;
    if (config.vaeStride !== 1 || config.channels !== 3) return undefined;
    const { parameters } = this;
    const network = await Emigm.load(parameters.device, config, {
      shape: (name) => parameters.find(name).shape,
      read: (name) => parameters.read(name, 'average'),
    });
    try {
      const classes = data.classes.slice(0, 10).flatMap((_, number) => new Array<number>(count).fill(number));
      const asked = resolveSettings(recommendedSettings(info), { seed: settings.seed });
      const request = { ...asked, classes, indices: classes.map((_, i) => i % count), outputScale: 1 / data.scale };
      const images: RgbImage[] = [];
      for await (const batch of sampleBatches(network, request)) {
        for (const { latents } of batch) images.push(toBytes(latents, config.imageSize, config.imageSize));
      }
      return contactSheet(images, count, {
        scale: sheetScale(config.imageSize, count),
        labels: data.classes.slice(0, 10),
      });
    } finally {
      network.dispose();
    }
  }

  dispose(): void {
    this.trainer.dispose();
    this.parameters.dispose();
  }
}

/** Settings and facts that a run and its continuation share, as checkpoints have them. */
export function comparable({ settings: { axes, ...settings }, data }: RunOptions): Record<string, unknown> {
  const all = { ...settings, ...flatAxes(axes) };
  const kept = Object.entries(all).filter(([name, value]) => !FREE.includes(name) && value !== undefined);
  return { ...Object.fromEntries(kept), images: data.size, classes: data.classes, dataScale: data.scale };
}

/** What checkpoints say nothing of that were saved before there were axes: eMIGM's. */
function unsaid(config: ModelConfig): Record<string, unknown> {
  const { mae, maskGuidance } = config;
  const network = { network: mae ? 'mae' : 'single', unconditional: maskGuidance ? 'mask' : 'fake-class' };
  return flatAxes(resolveAxes('emigm', network));
}

/** @throws EmigmError 'input' naming the first setting in which the run differs from its checkpoint */
export function checkSame({ step, config, settings }: CheckpointHeader, options: RunOptions): void {
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
