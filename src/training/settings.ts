/** Hyper-parameters of training, each with its official default and what it does; the command line derives from them. */
import { z } from 'zod';
import { EmigmError } from '../errors.ts';
import { type Axes, type Axis, type AxisPreset, axisPresets, axisTypes, overrideAxes } from '../masking/axes.ts';

const count = z.int().min(1);
const whole = z.int().min(0);
const share = z.number().min(0).max(1);
const rate = z.number().min(0).max(0.95);

/** An axis of masked generation as a hyper-parameter: no default, as the preset has one. */
function axis<A extends Axis>(name: A) {
  const [type, doc, choices] = axisTypes[name];
  const text = choices ? `${doc}: ${Object.keys(choices).join(', ')}` : doc;
  return [type.optional() as z.ZodOptional<(typeof axisTypes)[A][0]>, `${text}; default: the preset's`] as const;
}

/** Schedules have aliases, which the axes resolve. */
const schedule = (name: 'schedule' | 'samplingSchedule') => [z.string().optional(), axis(name)[1]] as const;

const presets = Object.keys(axisPresets) as [AxisPreset];

/** Every hyper-parameter: its type with its default (SPEC section 3, the official `main_emigm.py`), and its help text. */
export const hyperparameters = {
  steps: [count.optional(), 'optimizer steps in all; default: epochs'],
  epochs: [z.number().positive().default(800), 'passes over the data'],
  batch: [count.default(2048), 'images a step'],
  microBatch: [count.optional(), 'images at once; their gradients are summed to a batch; default: at most 64'],
  seed: [z.int().min(0).default(0), 'of initial weights, data order, masks, noise and dropout'],
  baseLearningRate: [z.number().positive().default(1e-4), 'learning rate for 256 images a step, scaled with the batch'],
  learningRate: [z.number().positive().optional(), 'peak learning rate as it is'],
  minLearningRate: [z.number().min(0).default(0), 'where the cosine schedule ends'],
  learningRateSchedule: [z.enum(['constant', 'cosine']).default('constant'), 'after the warm-up: constant or cosine'],
  warmupEpochs: [z.number().min(0).default(100), 'epochs of linear warm-up; at most an eighth of the run'],
  warmupSteps: [whole.optional(), 'steps of linear warm-up'],
  beta1: [rate.max(1).default(0.9), 'AdamW: decay of the first moment'],
  beta2: [z.number().min(0).max(0.9999).default(0.95), 'AdamW: decay of the second moment'],
  weightDecay: [z.number().min(0).default(0.02), 'AdamW: decay of matrices outside the head'],
  gradientClip: [z.number().min(0).default(3), 'largest global norm of the gradient; 0: none'],
  emaDecay: [share.default(0.9999), 'decay of the moving average of the weights'],
  labelDrop: [share.default(0.1), 'share of labels replaced by the unconditional input'],
  attentionDropout: [rate.default(0.1), 'dropout of attention weights'],
  projectionDropout: [rate.default(0.1), "dropout of the blocks' projections and MLPs"],
  preset: [
    z.enum(presets).optional(),
    `all axes as this model has them: ${presets.join(', ')}; default: emigm, or that of the configuration`,
  ],
  maskDistribution: axis('maskDistribution'),
  maskSchedule: schedule('schedule'),
  weighting: axis('weighting'),
  timeTruncation: axis('timeTruncation'),
  tMin: axis('tMin'),
  timeMargin: axis('timeMargin'),
  conditional: axis('conditional'),
  network: axis('network'),
  unconditional: axis('unconditional'),
  samplingSchedule: schedule('samplingSchedule'),
  counts: axis('counts'),
  order: axis('order'),
  choiceTemperature: axis('choiceTemperature'),
  guidanceSchedule: axis('guidanceSchedule'),
  diffusionBatchMul: [count.default(4), 'diffusion times and noises drawn for each masked token'],
  labelSmoothing: [share.optional(), 'codes: share of the target spread over the whole codebook; default: 0'],
  flip: [z.boolean().default(true), 'mirror half of the images'],
  checkpointing: [
    z.boolean().default(false),
    'keep only the inputs of blocks, recompute the rest in the backward pass',
  ],
  saveEvery: [count.default(1000), 'steps between checkpoints'],
  sampleEvery: [whole.default(1000), 'steps between contact sheets drawn from the averaged weights; 0: none'],
  keep: [count.default(2), 'checkpoints kept'],
} as const satisfies Record<string, readonly [z.ZodType, string]>;

export type HyperparameterName = keyof typeof hyperparameters;

const schema = z.strictObject(
  Object.fromEntries(Object.entries(hyperparameters).map(([name, [type]]) => [name, type])) as {
    [K in HyperparameterName]: (typeof hyperparameters)[K][0];
  },
);

/** Axes among the hyper-parameters, by their names there. */
const AXIS_OF = {
  maskDistribution: 'maskDistribution',
  maskSchedule: 'schedule',
  weighting: 'weighting',
  timeTruncation: 'timeTruncation',
  tMin: 'tMin',
  timeMargin: 'timeMargin',
  conditional: 'conditional',
  network: 'network',
  unconditional: 'unconditional',
  samplingSchedule: 'samplingSchedule',
  counts: 'counts',
  order: 'order',
  choiceTemperature: 'choiceTemperature',
  guidanceSchedule: 'guidanceSchedule',
} as const satisfies { [Name in HyperparameterName]?: Axis } & { [A in Exclude<Axis, 'schedule'>]: A };

type AxisName = keyof typeof AXIS_OF;

/** Hyper-parameters with defaults filled in, and the axes resolved. */
export interface Hyperparameters extends Omit<z.output<typeof schema>, AxisName | 'preset'> {
  /** What the axes were before some were set by themselves. */
  preset: AxisPreset;
  axes: Axes;
}
export type HyperparameterInput = z.input<typeof schema>;

/** What follows from the hyper-parameters and the size of the data set. */
export interface TrainingSettings extends Hyperparameters {
  steps: number;
  microBatch: number;
  learningRate: number;
  warmupSteps: number;
  stepsPerEpoch: number;
}

/** Image count at which the base learning rate holds as it is. */
const BASE_BATCH = 256;
const MOST_AT_ONCE = 64;

/**
 * Checks hyper-parameters, and resolves the axes: the preset, then what is set by itself. A preset in `overrides` (flags)
 * puts aside all axes of `value` (a file). `where` names the source in errors.
 * @throws EmigmError 'input' naming the first that is unknown or impossible
 */
export function checkHyperparameters(
  value: object,
  where = 'training settings',
  overrides: HyperparameterInput = {},
): Hyperparameters {
  const layers: Record<string, unknown>[] = [withoutUndefined(value), withoutUndefined(overrides)];
  const parsed = schema.safeParse({ ...layers[0], ...layers[1] });
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    if (issue.code === 'unrecognized_keys') {
      throw new EmigmError('input', `${where}: "${issue.keys[0]}" is no hyper-parameter`);
    }
    const name = issue.path.join('.');
    throw new EmigmError('input', `${where}: ${name ? `${name}: ` : ''}${issue.message}`);
  }
  const preset = parsed.data.preset ?? 'emigm';
  const axes = (layers[1].preset ? layers.slice(1) : layers).reduce<Axes>(
    (point, layer) => overrideAxes(point, axesAmong(layer), where),
    axisPresets[preset],
  );
  if (parsed.data.labelSmoothing && axes.conditional !== 'categorical') {
    throw new EmigmError(
      'input',
      `${where}: labelSmoothing is of conditional "categorical", not "${axes.conditional}"`,
    );
  }
  const isAxis = (name: string) => Object.hasOwn(AXIS_OF, name);
  const rest = Object.fromEntries(Object.entries(parsed.data).filter(([name]) => !isAxis(name)));
  return { ...(rest as Omit<z.output<typeof schema>, AxisName>), preset, axes };
}

function axesAmong(layer: Readonly<Record<string, unknown>>): Partial<Record<Axis, unknown>> {
  return Object.fromEntries(Object.entries(AXIS_OF).map(([name, axis]) => [axis, layer[name]]));
}

function withoutUndefined(value: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined));
}

/** Resolved axes by their names among the hyper-parameters. */
export function flatAxes(axes: Axes): Record<AxisName, string | number> {
  return Object.fromEntries(Object.entries(AXIS_OF).map(([name, axis]) => [name, axes[axis]])) as Record<
    AxisName,
    string | number
  >;
}

/** Hyper-parameters as a configuration file has them. */
export function flatHyperparameters({ axes, ...rest }: Hyperparameters): HyperparameterInput {
  return { ...rest, ...flatAxes(axes) } as HyperparameterInput;
}

/** Fills in what depends on the number of images. @throws EmigmError 'input' when a batch cannot be made of them */
export function resolveSettings(given: Hyperparameters, images: number): TrainingSettings {
  const { batch, epochs, baseLearningRate } = given;
  const stepsPerEpoch = Math.floor(images / batch);
  if (stepsPerEpoch < 1) {
    throw new EmigmError(
      'input',
      `a batch of ${batch} needs as many images; there are ${images} (try --batch ${images})`,
    );
  }
  const steps = given.steps ?? Math.round(epochs * stepsPerEpoch);
  const microBatch = given.microBatch ?? largestDivisor(batch, MOST_AT_ONCE);
  if (batch % microBatch !== 0) {
    throw new EmigmError('input', `batch ${batch} is no multiple of microBatch ${microBatch}`);
  }
  return {
    ...given,
    steps,
    microBatch,
    stepsPerEpoch,
    learningRate: given.learningRate ?? (baseLearningRate * batch) / BASE_BATCH,
    warmupSteps: given.warmupSteps ?? Math.round(Math.min(given.warmupEpochs * stepsPerEpoch, steps / 8)),
  };
}

function largestDivisor(n: number, most: number): number {
  for (let d = Math.min(n, most); d > 1; d--) if (n % d === 0) return d;
  return 1;
}
