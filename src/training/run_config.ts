/** The configuration file of a training run: network, hyper-parameters, recommended sampling. */
import { z } from 'zod';
import { EmigmError } from '../errors.ts';
import { checkConfig, type ModelConfig, preset } from '../models/config.ts';
import type { ModelInfo, RecommendedSampling } from '../models/info.ts';
import { checkHyperparameters, type HyperparameterInput, type Hyperparameters } from './settings.ts';

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

export interface RunConfig {
  info: ModelInfo;
  /** Without `classes` when the data decides. */
  model: Omit<ModelConfig, 'classes'> & { classes?: number };
  dataScale?: number;
  hyperparameters: Hyperparameters;
}

/**
 * Reads the text of a configuration file; `overrides` are hyper-parameters given by flags.
 * @throws EmigmError 'input' or 'model' naming the field that is wrong
 */
export function parseRunConfig(text: string, overrides: HyperparameterInput, where: string): RunConfig {
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
  const fields = typeof model === 'string' ? preset(model) : (model as Partial<ModelConfig>);
  // Any number of classes does for the check of the other fields.
  const checked = checkConfig({ classes: 1, ...fields }, `${where}: model`);
  return {
    info: { ...about, ...(sampling && { sampling: sampling as RecommendedSampling }) },
    model: { ...checked, classes: fields.classes },
    dataScale,
    hyperparameters: checkHyperparameters({ ...training, ...withoutUndefined(overrides) }, `${where}: training`),
  };
}

function withoutUndefined<T extends object>(value: T): Partial<T> {
  return Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined)) as Partial<T>;
}

/** The network for this data. @throws EmigmError 'input' when it has another number of classes */
export function modelFor({ model }: RunConfig, classes: readonly string[]): ModelConfig {
  if (model.classes !== undefined && model.classes !== classes.length) {
    throw new EmigmError('input', `the model has ${model.classes} classes, the data ${classes.length}`);
  }
  return { ...model, classes: classes.length };
}
