/** What a model file says about itself beside its configuration: names, scale, recommended settings, origin. */
import { z } from 'zod';
import { EmigmError } from '../errors.ts';
import { areMarArgs, marSize, type ModelConfig, presetName } from './config.ts';

/** Settings that `sample` takes where the caller gives none. */
export interface RecommendedSampling {
  steps?: number;
  /** Steps of the head's sampler, or DDPM's respacing string. */
  headSteps?: number | string;
  headSampler?: 'ddpm' | 'dpm-solver';
  cfg?: number;
  cfgSchedule?: string;
  /** Guided while low < s <= high. */
  cfgInterval?: [number, number];
  maskSchedule?: string;
  counts?: string;
  order?: string;
  choiceTemperature?: number;
  topK?: number;
  topP?: number;
  temperature?: number;
}

export interface ModelInfo {
  name?: string;
  description?: string;
  /** Where the weights come from. */
  source?: string;
  license?: string;
  /** How they were trained, for people. */
  training?: string;
  /** One a class, in the order of the class numbers. */
  classNames?: string[];
  /** Pixel models: the network sees (pixel / 127.5 - 1) * dataScale. */
  dataScale?: number;
  /** Which weights of the checkpoint these are. */
  weights?: 'model' | 'model_ema' | 'plain';
  /** With mask guidance: whether the shared mask token is the raw one, as official evaluation has it, or the average. */
  maskToken?: 'raw' | 'averaged';
  /** Whose axes of masked generation it was trained on: maskgit, mdm, mar or emigm. */
  preset?: string;
  /** All axes, or those that differ from the preset's (`masking/axes.ts`). */
  axes?: Readonly<Record<string, string | number>>;
  sampling?: RecommendedSampling;
}

const count = z.int().min(1);
const time = z.number().min(0).max(1);
const sampling = z.strictObject({
  steps: count.optional(),
  headSteps: z.union([count, z.string().min(1)]).optional(),
  headSampler: z.enum(['ddpm', 'dpm-solver']).optional(),
  cfg: z.number().optional(),
  cfgSchedule: z.string().optional(),
  cfgInterval: z.tuple([time, time]).optional(),
  maskSchedule: z.string().optional(),
  counts: z.string().optional(),
  order: z.string().optional(),
  choiceTemperature: z.number().min(0).optional(),
  topK: count.optional(),
  topP: z.number().positive().max(1).optional(),
  temperature: z.number().positive().optional(),
});
const schema = z.strictObject({
  name: z.string().optional(),
  description: z.string().optional(),
  source: z.string().optional(),
  license: z.string().optional(),
  training: z.string().optional(),
  classNames: z.array(z.string().min(1)).optional(),
  dataScale: z.number().positive().optional(),
  weights: z.enum(['model', 'model_ema', 'plain']).optional(),
  maskToken: z.enum(['raw', 'averaged']).optional(),
  preset: z.string().optional(),
  axes: z.record(z.string(), z.union([z.string(), z.number()])).optional(),
  sampling: sampling.optional(),
});

/**
 * Checks the information of a model file against its configuration. `where` names the source in errors.
 * @throws EmigmError 'model' naming the first field that cannot be
 */
export function checkInfo(value: unknown, config: Pick<ModelConfig, 'classes'>, where: string): ModelInfo {
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const path = issue.path.join('.');
    const at = path ? `${path}: ` : '';
    throw new EmigmError('model', `${where}: ${at}${issue.message.split('\n')[0]}`);
  }
  const info = parsed.data;
  const names = info.classNames;
  if (names && names.length !== config.classes) {
    throw new EmigmError('model', `${where}: ${names.length} class names for a model of ${config.classes} classes`);
  }
  const twice = names?.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new EmigmError('model', `${where}: class name "${twice}" stands twice`);
  const [low, high] = info.sampling?.cfgInterval ?? [0, 1];
  if (low > high) {
    throw new EmigmError('model', `${where}: sampling.cfgInterval ${low},${high} is reversed; give ${high},${low}`);
  }
  return info;
}

/** The settings of the paper's 16-step rows (table 5) for official sizes; for others nothing is known. */
export function officialSampling(config: ModelConfig): RecommendedSampling | undefined {
  const name = presetName(config);
  if (!name) return undefined;
  const cfgInterval: [number, number] =
    config.imageSize === 512 ? [0.15, 0.35] : name.startsWith('h-') ? [0.2, 0.4] : [0.1, 0.3];
  return {
    steps: 16,
    headSteps: 8,
    headSampler: 'dpm-solver',
    cfg: 4,
    cfgSchedule: 'constant',
    cfgInterval,
    maskSchedule: 'exp',
    temperature: 1,
  };
}

/** Guidance scales of MAR's published figures (its README: 256 steps, 100 head steps of DDPM, linear guidance). */
const MAR_CFG: Readonly<Record<string, number>> = { b: 2.9, l: 3, h: 3.2 };

/** Preset, name and settings of an official MAR; undefined where nothing says that it is one. */
function marInfo(args: Readonly<Record<string, unknown>>, config: ModelConfig): ModelInfo | undefined {
  const size = marSize(config);
  if (!areMarArgs(args) && (size === undefined || args.model !== undefined)) return undefined;
  if (size === undefined) return { preset: 'mar' };
  const sampling: RecommendedSampling = {
    steps: 256,
    headSteps: 100,
    headSampler: 'ddpm',
    cfg: MAR_CFG[size],
    cfgSchedule: 'linear',
    cfgInterval: [0, 1],
    temperature: 1,
  };
  return { name: `MAR-${size.toUpperCase()}`, preset: 'mar', sampling };
}

/** What the arguments of an official checkpoint tell: class names, data scale, mask schedule; of MAR's that it is one. */
export function infoFromArgs(args: Readonly<Record<string, unknown>>, config: ModelConfig): ModelInfo {
  const mar = marInfo(args, config);
  const info: ModelInfo = { ...mar };
  const official = presetName(config);
  if (official) info.name = `eMIGM-${official.toUpperCase()}`;
  const names = args.classes;
  if (Array.isArray(names) && names.length === config.classes && names.every((name) => typeof name === 'string')) {
    info.classNames = names;
  }
  if (typeof args.data_scale === 'number' && args.data_scale > 0) info.dataScale = args.data_scale;
  if (mar) return info;
  const settings: RecommendedSampling = { ...officialSampling(config) };
  if (typeof args.mask_strategy === 'string') settings.maskSchedule = args.mask_strategy;
  if (Object.keys(settings).length > 0) info.sampling = settings;
  return info;
}
