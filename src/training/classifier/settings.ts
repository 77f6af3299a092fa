/** Hyper-parameters of a classifier's training, each with its default and what it does. */
import { z } from 'zod';
import { EmigmError } from '../../errors.ts';
import type { OptimizerSettings } from '../optimizer.ts';

const count = z.int().min(1);
const whole = z.int().min(0);
const rate = z.number().min(0).max(0.95);

export const classifierHyperparameters = {
  imageSize: [count.default(32), 'pixels of a side that it looks at'],
  stem: [z.array(count).default([48, 96]), 'channels of the convolutions before the last: each halves the sides'],
  width: [count.default(128), 'width of the transformer, and number of features'],
  depth: [count.default(3), 'transformer blocks'],
  heads: [count.default(4), 'attention heads'],
  mlpRatio: [count.default(2), "width of the blocks' hidden layers over the width"],
  epochs: [z.number().positive().default(60), 'passes over the data'],
  steps: [count.optional(), 'optimizer steps in all; default: epochs'],
  batch: [count.default(64), 'images a step'],
  seed: [whole.default(0), 'of initial weights, data order, augmentation and dropout'],
  learningRate: [z.number().positive().default(2e-3), 'peak learning rate; falls along a cosine'],
  warmupEpochs: [z.number().min(0).default(4), 'epochs of linear warm-up; at most an eighth of the run'],
  weightDecay: [z.number().min(0).default(0.05), 'AdamW: decay of matrices'],
  gradientClip: [z.number().min(0).default(1), 'largest global norm of the gradient; 0: none'],
  emaDecay: [z.number().min(0).max(1).default(0.995), 'decay of the moving average of the weights, which is kept'],
  labelSmoothing: [rate.default(0.1), 'share of the target that is spread over all classes'],
  dropout: [rate.default(0.1), "dropout of the blocks' projections and MLPs"],
  padding: [whole.default(4), 'pixels by which images are shifted at random'],
  colour: [z.number().min(0).max(0.9).default(0.2), 'share by which brightness and contrast are changed at random'],
  erase: [z.number().min(0).max(1).default(0.25), 'share of images of which a random rectangle is covered'],
  flip: [z.boolean().default(true), 'mirror half of the images'],
} as const satisfies Record<string, readonly [z.ZodType, string]>;

export type ClassifierHyperparameterName = keyof typeof classifierHyperparameters;

const schema = z.strictObject(
  Object.fromEntries(Object.entries(classifierHyperparameters).map(([name, [type]]) => [name, type])) as {
    [K in ClassifierHyperparameterName]: (typeof classifierHyperparameters)[K][0];
  },
);

export type ClassifierHyperparameters = z.output<typeof schema>;
export type ClassifierHyperparameterInput = z.input<typeof schema>;

/** With what follows from the size of the data set. */
export interface ClassifierSettings extends ClassifierHyperparameters, OptimizerSettings {
  steps: number;
}

/** @throws EmigmError 'input' naming the hyper-parameter that is unknown or impossible, or when no batch can be made */
export function resolveClassifierSettings(given: ClassifierHyperparameterInput, images: number): ClassifierSettings {
  const parsed = schema.safeParse(given);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new EmigmError('input', `classifier settings: ${issue.path.join('.')}: ${issue.message}`);
  }
  const settings = parsed.data;
  const stepsPerEpoch = Math.floor(images / settings.batch);
  if (stepsPerEpoch < 1) {
    throw new EmigmError(
      'input',
      `a batch of ${settings.batch} needs as many images; there are ${images} (try --batch ${images})`,
    );
  }
  const steps = settings.steps ?? Math.round(settings.epochs * stepsPerEpoch);
  return {
    ...settings,
    steps,
    warmupSteps: Math.round(Math.min(settings.warmupEpochs * stepsPerEpoch, steps / 8)),
    learningRateSchedule: 'cosine',
    minLearningRate: settings.learningRate / 100,
    beta1: 0.9,
    beta2: 0.98,
  };
}
