/**
 * The reveal plan: which tokens of which image are generated in which step, decided on the host before the GPU
 * starts. Counts are shared by all images of a run; an image's order depends on the seed and its index alone,
 * so an image is the same in whatever batch it is made.
 */
import { EmigmError } from '../errors.ts';
import { CounterRandom, STREAMS } from '../random.ts';
import { type RevealOrderName, revealOrders } from './orders.ts';
import { checkSteps, type MaskSchedule, maskSchedule, revealProbability, samplingTimes } from './schedules.ts';

/** 'official': random as in the official sampler; 'expected': the rounded expectation, nothing drawn. */
export type RevealCounts = 'official' | 'expected';

export interface RevealCountOptions {
  seed: number | bigint;
  seqLen: number;
  steps: number;
  schedule: string | MaskSchedule;
  counts?: RevealCounts;
}

export interface RevealPlanOptions extends RevealCountOptions {
  /** Indices of the images of this batch, unsigned 32-bit. */
  imageIndices: readonly number[];
  gridWidth: number;
  order?: RevealOrderName;
}

export interface RevealStep {
  /** Times at the start and the end of the step, float32. */
  t: number;
  s: number;
  /** Tokens revealed in each image, at least one. */
  count: number;
  /** The revealed tokens of each image, ascending. */
  positions: Int32Array[];
  /** Tokens of an image known after the step. */
  revealedAfter: number;
}

export interface RevealPlan {
  /** [steps + 1] sampling times, float32. */
  times: Float32Array;
  /** At most `steps`: the plan ends when every token is revealed. */
  steps: RevealStep[];
}

/**
 * Numbers of tokens revealed by the steps, each at least 1, of sum seqLen; fewer than `steps` when the tokens
 * run out. Depends on seed and step alone ('official') or on neither ('expected').
 *
 * 'official': from t to s each masked token is revealed with probability 1 - gamma(s)/gamma(t), one uniform
 * number for each; one token if that gives none; the last step reveals the rest.
 * 'expected': after the step round(seqLen * gamma(s)/gamma(1)) tokens stay masked, with at least one revealed in
 * each step and, where there are enough tokens, one left for every step to come.
 * @throws EmigmError('input') for unusable options
 */
export function revealCounts(options: RevealCountOptions): number[] {
  const { seed, seqLen, steps, schedule, counts: kind = 'official' } = options;
  checkSteps(steps);
  if (kind !== 'official' && kind !== 'expected') {
    throw new EmigmError('input', `reveal counts "${kind}" are unknown; choose official or expected`);
  }
  const times = samplingTimes(steps);
  const { gamma } = maskSchedule(schedule);
  const counts: number[] = [];
  let masked = seqLen;
  for (let step = 0; step < steps && masked > 0; step++) {
    const [t, s] = times.subarray(step, step + 2);
    let count: number;
    if (step === steps - 1) count = masked;
    else if (kind === 'official') {
      const probability = revealProbability(schedule, t, s);
      const random = new CounterRandom(seed, STREAMS.revealCount, step);
      count = 0;
      for (let i = 0; i < masked; i++) if (random.uniform(i) < probability) count++;
    } else {
      const expected = Math.round((seqLen * gamma(s)) / gamma(1));
      count = masked - Math.max(expected, steps - 1 - step);
    }
    count = Math.max(1, count);
    counts.push(count);
    masked -= count;
  }
  return counts;
}

/**
 * Plans the whole run of a batch.
 * @throws EmigmError('input') for unusable options
 */
export function revealPlan(options: RevealPlanOptions): RevealPlan {
  const { imageIndices, order = 'random', seqLen, gridWidth, steps } = options;
  if (!Object.hasOwn(revealOrders, order)) {
    const names = Object.keys(revealOrders).join(', ');
    throw new EmigmError('input', `reveal order "${order}" is unknown; choose one of ${names}`);
  }
  if (!Number.isInteger(seqLen / gridWidth)) {
    throw new EmigmError('input', `${seqLen} tokens do not fill rows of ${gridWidth}; give the width of the grid`);
  }
  const counts = revealCounts(options);
  const orders = imageIndices.map((index) => revealOrders[order].order(options, index));
  const times = samplingTimes(steps);
  let revealed = 0;
  const planned = counts.map((count, step) => {
    const positions = orders.map((tokens) => tokens.slice(revealed, revealed + count).sort());
    revealed += count;
    return { t: times[step], s: times[step + 1], count, positions, revealedAfter: revealed };
  });
  return { times, steps: planned };
}
