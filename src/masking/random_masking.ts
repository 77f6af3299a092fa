/**
 * Training masks: a time p for each image or one for all, and at its mask ratio gamma(p) the tokens that are masked
 * (eMIGM, arXiv 2503.07197; float32 arithmetic and draws as in the official code).
 */
import { EmigmError } from '../errors.ts';
import { maskDistribution } from './distributions.ts';
import type { Draws } from './draws.ts';
import { type MaskSchedule, maskSchedule } from './schedules.ts';
import { maskTime } from './truncation.ts';

export interface RandomMaskingOptions {
  schedule: string | MaskSchedule;
  batch: number;
  seqLen: number;
  /** A name of `maskDistributions`; default independent. */
  distribution?: string;
  /** A name of `timeTruncations`; default clamp. */
  truncation?: string;
  /** No times below it; default 0. */
  tMin?: number;
  /** p = (1 - margin) t + margin; default the official code's 0.001. */
  margin?: number;
}

export interface RandomMask {
  /** [batch * seqLen], 1 = masked. */
  mask: Float32Array;
  /** [batch] the time p of each row, from which the loss takes its weight. */
  p: Float32Array;
}

const { fround } = Math;

/**
 * One time and one count for the whole micro-batch, so that the encoder's length is the same for all rows: a mask is
 * drawn (again, with a new time, while fewer tokens are masked than the distribution's `fewest`) and permuted for each
 * row. Draws: rand(1) and what the distribution draws (independent: rand(seqLen); fixed-count: nothing), both repeated
 * on a retry; then randperm(seqLen) for each row.
 * @param clampTMin tMin under the name of the official code
 * @throws EmigmError('input') when no mask could have enough masked tokens
 */
export function randomMasking(draws: Draws, options: RandomMaskingOptions & { clampTMin?: number }): RandomMask {
  const { batch, seqLen, distribution = 'independent', clampTMin, tMin = clampTMin, ...time } = options;
  const { draw, fewest } = maskDistribution(distribution);
  if (seqLen < fewest) throw new EmigmError('input', `masking needs at least ${fewest} tokens, not ${seqLen}`);
  const schedule = maskSchedule(options.schedule);
  let p: number;
  let base: Float32Array;
  do {
    p = maskTime(draws.rand(1)[0], { ...time, tMin });
    base = draw(draws, seqLen, [schedule.gamma(p, fround)], true);
  } while (base.reduce((sum, masked) => sum + masked, 0) < fewest);
  const mask = new Float32Array(batch * seqLen);
  for (let row = 0; row < batch; row++) {
    const order = draws.randperm(seqLen);
    for (let i = 0; i < seqLen; i++) mask[row * seqLen + i] = base[order[i]];
  }
  return { mask, p: new Float32Array(batch).fill(p) };
}

/**
 * A time and a mask for each row, for networks that see mask tokens and losses that are weighted. Nothing is redrawn.
 * Draws: rand(batch), then what the distribution draws (independent: rand(batch * seqLen); fixed-count:
 * randperm(seqLen) for each row).
 */
export function randomMaskingPerRow(draws: Draws, options: RandomMaskingOptions): RandomMask {
  const { batch, seqLen, distribution = 'independent', ...time } = options;
  const schedule = maskSchedule(options.schedule);
  const p = draws.rand(batch).map((u) => maskTime(u, time));
  const gammas = p.map((t) => schedule.gamma(t, fround));
  return { mask: maskDistribution(distribution).draw(draws, seqLen, gammas, false), p };
}
