/**
 * The reveal plan: which tokens of which image are generated in which step, decided on the host before the GPU
 * starts. Counts are shared by all images of a run; an image's order depends on the seed and its index alone,
 * so an image is the same in whatever batch it is made.
 */
import { EmigmError } from '../errors.ts';
import { CounterRandom, STREAMS } from '../random.ts';
import { named } from './named.ts';
import { type RevealOrder, type RevealOrderName, revealOrders } from './orders.ts';
import { checkSteps, type MaskSchedule, revealProbability, samplingSchedule, samplingTimes } from './schedules.ts';

/** How many tokens a step reveals. */
export const revealCountRules = {
  official: {
    doc: 'random as in the official sampler and in masked diffusion: each with probability 1 - gamma(s)/gamma(t)',
  },
  expected: { doc: 'the rounded expectation, nothing drawn' },
  floor: { doc: 'MaskGIT and MAR: floor(N gamma(1 - step/steps)) tokens stay masked after the step, nothing drawn' },
} as const;

export type RevealCounts = keyof typeof revealCountRules;

export interface RevealCountOptions {
  seed: number | bigint;
  seqLen: number;
  steps: number;
  schedule: string | MaskSchedule;
  counts?: RevealCounts;
}

/** Rounding errors of gamma are smaller than this, differences of N gamma from a whole number larger. */
const WHOLE = 1e-9;

export interface RevealPlanOptions extends RevealCountOptions {
  /** Indices of the images of this batch, unsigned 32-bit. */
  imageIndices: readonly number[];
  gridWidth: number;
  order?: RevealOrderName;
  /** [seqLen]: 1 where a token is to be revealed, 0 where it is known from the start. By default none is known. */
  masked?: ArrayLike<number>;
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
  /**
   * The same, as guidance that grows with the revealed fraction counts them: the official MAR takes one token as still
   * masked in its last step.
   */
  revealedForGuidance: number;
}

export interface RevealPlan {
  /** [steps + 1] sampling times, float32. */
  times: Float32Array;
  /** At most `steps`: the plan ends when every token is revealed. */
  steps: RevealStep[];
}

/**
 * Numbers of tokens revealed by the steps, each at least 1, of sum seqLen; fewer than `steps` when the tokens
 * run out. Depends on seed and step alone ('official') or on neither.
 *
 * 'official': from t to s each masked token is revealed with probability 1 - gamma(s)/gamma(t), one uniform
 * number for each; one token if that gives none; the last step reveals the rest.
 * 'expected': after the step round(seqLen * gamma(s)/gamma(1)) tokens stay masked, with at least one revealed in
 * each step and, where there are enough tokens, one left for every step to come.
 * 'floor': after step k of K floor(seqLen * gamma(1 - k/K)) tokens stay masked (cos(pi/2 k/K) with the cosine schedule),
 * but at least one, and at least one is revealed; the last step reveals the rest (Chang et al. 2022, MaskGIT,
 * section 3.2; the official MAR).
 * @throws EmigmError('input') for unusable options
 */
export function revealCounts(options: RevealCountOptions): number[] {
  const { seed, seqLen, steps, schedule, counts: kind = 'official' } = options;
  checkSteps(steps);
  named(revealCountRules, kind, 'rule of reveal counts');
  const times = samplingTimes(steps);
  const { gamma } = samplingSchedule(schedule);
  const counts: number[] = [];
  let masked = seqLen;
  for (let step = 0; step < steps && masked > 0; step++) {
    const [t, s] = times.subarray(step, step + 2);
    let count: number;
    if (step === steps - 1 || masked === 1) count = masked;
    else if (kind === 'floor') {
      const kept = Math.floor(seqLen * gamma(1 - (step + 1) / steps) + WHOLE);
      count = masked - Math.max(1, Math.min(masked - 1, kept));
    } else if (kind === 'official') {
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
  const { imageIndices, order = 'random', seqLen, gridWidth, steps, counts: kind } = options;
  const rule = named<RevealOrder>(revealOrders, order, 'reveal order');
  if (!Number.isInteger(seqLen / gridWidth)) {
    throw new EmigmError('input', `${seqLen} tokens do not fill rows of ${gridWidth}; give the width of the grid`);
  }
  const { masked } = options;
  const toReveal = masked ? Array.from(masked).filter((one) => one !== 0).length : seqLen;
  if ((masked && masked.length !== seqLen) || toReveal === 0) {
    throw new EmigmError('input', `${toReveal} of ${seqLen} tokens are to be revealed by a mask of ${masked?.length}`);
  }
  const counts = revealCounts({ ...options, seqLen: toReveal });
  const orders = imageIndices.map((index) => {
    const tokens = rule.order(options, index);
    return masked ? tokens.filter((token) => masked[token] !== 0) : tokens;
  });
  const times = samplingTimes(steps);
  let revealed = 0;
  const planned = counts.map((count, step) => {
    const positions = orders.map((tokens) => tokens.slice(revealed, revealed + count).sort());
    revealed += count;
    const last = kind === 'floor' && step === counts.length - 1;
    const revealedAfter = seqLen - toReveal + revealed;
    const revealedForGuidance = last ? seqLen - 1 : revealedAfter;
    return { t: times[step], s: times[step + 1], count, positions, revealedAfter, revealedForGuidance };
  });
  return { times, steps: planned };
}
