/** The configuration file of a training run: network, hyper-parameters, recommended sampling. */
import { z } from 'zod';
import { EmigmError } from '../errors.ts';
import { checkConfig, type ModelConfig, preset } from '../models/config.ts';
import type { ModelInfo, RecommendedSampling } from '../models/info.ts';
import { settingsOfAxes } from '../sampling/axes.ts';
import {
  checkHyperparameters,
  flatHyperparameters,
  type HyperparameterInput,
  type Hyperparameters,
} from './settings.ts';

const schema = z.strictObject({
  name: z.string().optional(),
  description: z.string().optional(),
  source: z.string().optional(),
  license: z.string().optional(),
  /** Name of a preset, or all fields of a configuration; `classes` may be left out and then follows the data. */
  model: z.union([z.string(), z.record(z.string(), z.unknown())]),
  /** Pixel models: (pixel / 127.5 - 1) times this; left out, what gives the pixels unit variance. */
  dataScale: z.number().positive().optional(),
  training: z.record(z.string(), z.unknown()).default({}),
  sampling: z.record(z.string(), z.unknown()).optional(),
});

/** A configuration with its network as the file has it: which fields that has depends on `axes.conditional`. */
export interface ReadRunConfig {
  info: ModelInfo;
  /** Name of a preset, or fields; of masked generation (mae, maskGuidance) the axes decide. */
  network: string | Readonly<Record<string, unknown>>;
  dataScale?: number;
  hyperparameters: Hyperparameters;
}

export interface RunConfig extends Omit<ReadRunConfig, 'network'> {
  /** Without `classes` when the data decides. */
  model: Omit<ModelConfig, 'classes'> & { classes?: number };
}

/**
 * Reads the text of a configuration file; `overrides` are hyper-parameters given by flags. The axes of masked generation
 * are the preset's, then what the file says (as hyper-parameters, or as fields of the network and recommended sampling
 * settings), then the flags; a preset given by a flag puts the file's axes and its recommended settings aside.
 * @throws EmigmError 'input' naming the field that is wrong
 */
export function readRunConfig(text: string, overrides: HyperparameterInput, where: string): ReadRunConfig {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new EmigmError('input', `${where}: is no JSON: ${(cause as Error).message}`, { cause });
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const at = issue.path.join('.');
    const message = issue.code === 'unrecognized_keys' ? `"${issue.keys[0]}" is no field of a run` : issue.message;
    throw new EmigmError('input', `${where}: ${at ? `${at}: ` : ''}${message}`);
  }
  const { model, dataScale, training, sampling, ...about } = parsed.data;
  const fields = typeof model === 'string' ? {} : model;
  const said = {
    network: fields.mae === undefined ? undefined : fields.mae ? 'mae' : 'single',
    unconditional: fields.maskGuidance === undefined ? undefined : fields.maskGuidance ? 'mask' : 'fake-class',
    samplingSchedule: sampling?.maskSchedule,
    guidanceSchedule: sampling?.cfgSchedule,
    counts: sampling?.counts,
    order: sampling?.order,
    choiceTemperature: sampling?.choiceTemperature,
  };
  const hyperparameters = checkHyperparameters({ ...said, ...training }, `${where}: training`, overrides);
  const { preset, axes } = hyperparameters;
  // The preset samples in its own way; the scale of guidance is a matter of the model.
  const kept = overrides.preset ? sampling && { cfg: sampling.cfg } : sampling;
  const of = settingsOfAxes(axes) as Record<string, unknown>;
  const recommended = kept && Object.fromEntries(Object.entries(kept).map(([name, x]) => [name, of[name] ?? x]));
  return {
    info: { ...about, preset, axes, ...(recommended && { sampling: recommended as RecommendedSampling }) },
    network: model,
    dataScale,
    hyperparameters,
  };
}

/**
 * A configuration of a model of continuous tokens, with its network checked.
 * @throws EmigmError 'input' or 'model' naming the field that is wrong
 */
export function parseRunConfig(text: string, overrides: HyperparameterInput, where: string): RunConfig {
  const { network, ...rest } = readRunConfig(text, overrides, where);
  const { axes } = rest.hyperparameters;
  if (axes.conditional !== 'diffusion') {
    throw new EmigmError('input', `${where}: conditional "${axes.conditional}" needs a model of codes`);
  }
  const fields = {
    ...(typeof network === 'string' ? preset(network) : (network as Partial<ModelConfig>)),
    mae: axes.network === 'mae',
    maskGuidance: axes.unconditional === 'mask',
  };
  // Any number of classes does for the check of the other fields.
  const checked = checkConfig({ classes: 1, ...fields }, `${where}: model`);
  return { ...rest, model: { ...checked, classes: fields.classes } };
}

/** The configuration with what flags changed, as text for a file that `readRunConfig` reads to the same. */
export function writeRunConfig(text: string, run: ReadRunConfig | RunConfig): string {
  const { info, hyperparameters, dataScale } = run;
  const before = JSON.parse(text);
  const { network, unconditional } = hyperparameters.axes;
  const model =
    typeof before.model === 'string'
      ? before.model
      : { ...before.model, mae: network === 'mae', maskGuidance: unconditional === 'mask' };
  const training = flatHyperparameters(hyperparameters);
  const after = { ...before, model, dataScale, training, sampling: info.sampling };
  return `${JSON.stringify(after, null, 2)}\n`;
}

/** The network for this data. @throws EmigmError 'input' when it has another number of classes */
export function modelFor({ model }: RunConfig, classes: readonly string[]): ModelConfig {
  return { ...model, classes: classesFor(model.classes, classes) };
}

/** The number of classes of the data. @throws EmigmError 'input' when the model has another one */
export function classesFor(wanted: number | undefined, { length }: readonly string[]): number {
  if (wanted !== undefined && wanted !== length) {
    throw new EmigmError('input', `the model has ${wanted} classes, the data ${length}`);
  }
  return length;
}
