/** The training loop: batches in, steps submitted ahead of their results, records out, checkpoints between. */
import { EmigmError } from '../errors.ts';
import type { Batch, TrainingData } from './data/types.ts';
import type { StepResult } from './trainer.ts';

/** What the loop asks of a trainer. */
export interface Trainable {
  readonly settings: { readonly batch: number };
  learningRate(step: number): number;
  submit(step: number, batch: Batch): Promise<{ result: Promise<StepResult> }>;
  findNonFinite(step: number, batch: Batch): Promise<string>;
}

/** One line of the log. */
export interface StepRecord extends StepResult {
  /** Steps taken, this one included: 1, 2, ... */
  step: number;
  epoch: number;
  lr: number;
  /** Since the record before. */
  images_per_second: number;
  /** Share of that time in which the loop waited for data. */
  data_wait: number;
}

export interface LoopOptions {
  data: TrainingData;
  /** Steps taken before. */
  from: number;
  /** Steps in all. */
  until: number;
  /** Called in order, once for each step. */
  onStep(record: StepRecord): void | Promise<void>;
  /** Called when `step` steps are taken and recorded: the place to save. */
  onPause(step: number): Promise<void>;
  /** Steps after which to call it, besides the last and an aborted one. */
  pauseAt(step: number): boolean;
  signal?: AbortSignal;
}

/** Steps that may be in the queue before the result of the oldest is awaited. */
const AHEAD = 3;

/**
 * Trains until `until` steps are taken or `signal` is aborted; in both cases ends after `onPause`. Returns the steps
 * taken. @throws EmigmError 'numeric' naming step and op when a loss is not finite
 */
export async function train(trainer: Trainable, options: LoopOptions): Promise<number> {
  const { data, from, until, onStep, onPause, pauseAt, signal } = options;
  const queue: { step: number; result: Promise<StepResult>; waited: number }[] = [];
  let clock = performance.now();

  const settle = async () => {
    const { step, result, waited } = queue.shift()!;
    const done = await result;
    if (!Number.isFinite(done.loss) || !Number.isFinite(done.gradient_norm)) {
      const batch = await data.batch(step);
      const op = await trainer.findNonFinite(step, batch);
      throw new EmigmError(
        'numeric',
        `step ${step + 1}: the loss is ${done.loss}, the gradient norm ${done.gradient_norm}; ${op}`,
      );
    }
    const now = performance.now();
    const seconds = (now - clock) / 1000;
    clock = now;
    await onStep({
      step: step + 1,
      epoch: (step + 1) / data.stepsPerEpoch,
      lr: trainer.learningRate(step),
      ...done,
      images_per_second: trainer.settings.batch / seconds,
      data_wait: Math.min(1, waited / seconds),
    });
  };

  let step = from;
  while (step < until && !signal?.aborted) {
    const began = performance.now();
    const batch = await data.batch(step);
    const waited = (performance.now() - began) / 1000;
    const { result } = await trainer.submit(step, batch);
    queue.push({ step, result, waited });
    step++;
    if (queue.length > AHEAD) await settle();
    if (!pauseAt(step) || step === until) continue;
    while (queue.length > 0) await settle();
    await onPause(step);
    clock = performance.now();
  }
  while (queue.length > 0) await settle();
  if (step > from) await onPause(step);
  return step;
}
