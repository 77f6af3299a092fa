/**
 * The reveal plan of the official sampler, draw for draw, for the replay of recorded trajectories.
 * Its order of draws is part of its behaviour; `reveal.ts` has the plan that samples by default.
 */
import type { Draws } from './draws.ts';
import { checkGuidance, type Guidance, type StepGuidance, stepGuidance } from './guidance.ts';
import { checkSteps, type MaskSchedule, revealProbability, samplingTimes } from './schedules.ts';

export interface OfficialRevealOptions {
  steps: number;
  schedule: string | MaskSchedule;
  batch: number;
  seqLen: number;
  guidance?: Guidance;
}

export interface OfficialRevealStep extends StepGuidance {
  /** Times at the start and the end of the step, float32. */
  t: number;
  s: number;
  /** Probability that a masked token is revealed in this step; 1 in the last. */
  probability: number;
  /** [batch * seqLen], 1 = masked. */
  maskBefore: Uint8Array;
  maskAfter: Uint8Array;
  /** [batch * seqLen] uniform numbers that decided the step. */
  randomValues: Float32Array;
  /** [batch * seqLen], 1 = predicted in this step. */
  maskToPredict: Uint8Array;
  /** No position was selected, so one of each row was. */
  fallback: boolean;
}

export interface OfficialRevealPlan {
  times: Float32Array;
  steps: OfficialRevealStep[];
  /** The step that found nothing left to predict; its draws are consumed. Undefined when all steps ran. */
  earlyBreak?: number;
}

/**
 * Plans all steps from `draws`, called in the official order for each step: rand(seqLen); randperm(seqLen) for
 * each row but the first (overwritten); for each of these rows randperm(visible), randperm(masked); when
 * nothing is selected randint(masked) for each row with more than one masked token.
 * Row i > 0 takes row 0's numbers, permuted within its visible and within its masked positions: all rows reveal
 * the same number of tokens.
 * @throws EmigmError('input') for unusable options
 */
export function officialRevealPlan(draws: Draws, options: OfficialRevealOptions): OfficialRevealPlan {
  const { steps, schedule, batch, seqLen, guidance = { cfg: 1 } } = options;
  checkSteps(steps);
  checkGuidance(guidance);
  const times = samplingTimes(steps);
  const plan: OfficialRevealPlan = { times, steps: [] };
  let mask = new Uint8Array(batch * seqLen).fill(1);
  for (let step = 0; step < steps; step++) {
    const [t, s] = times.subarray(step, step + 2);
    const last = step === steps - 1;
    const probability = last ? 1 : revealProbability(schedule, t, s);
    const randomValues = sharedValues(draws, mask, batch, seqLen);
    const selected = mask.map((masked, i) => (masked && randomValues[i] < probability ? 1 : 0));
    const fallback = !selected.includes(1);
    if (fallback) selectOnePerRow(draws, mask, selected, seqLen);
    const maskToPredict = last ? mask.slice() : selected;
    if (!maskToPredict.includes(1)) {
      plan.earlyBreak = step;
      break;
    }
    const maskAfter = mask.map((masked, i) => masked & ~maskToPredict[i]);
    const revealedAfter = seqLen - countOnes(maskAfter.subarray(0, seqLen));
    const guided = stepGuidance(guidance, s, revealedAfter, seqLen);
    plan.steps.push({
      t,
      s,
      probability,
      maskBefore: mask,
      maskAfter,
      randomValues,
      maskToPredict,
      fallback,
      ...guided,
    });
    mask = maskAfter;
  }
  return plan;
}

function sharedValues(draws: Draws, mask: Uint8Array, batch: number, seqLen: number): Float32Array {
  const values = new Float32Array(batch * seqLen);
  const first = draws.rand(seqLen);
  values.set(first);
  for (let row = 1; row < batch; row++) draws.randperm(seqLen);
  const sources = [0, 1].map((state) => positionsOf(mask.subarray(0, seqLen), state));
  for (let row = 1; row < batch; row++) {
    const rowMask = mask.subarray(row * seqLen, (row + 1) * seqLen);
    // Both orders are drawn before either is used; state 0 is visible, 1 masked.
    const targets = [0, 1].map((state) => {
      const positions = positionsOf(rowMask, state);
      return Array.from(draws.randperm(positions.length), (i) => positions[i]);
    });
    for (const state of [0, 1]) {
      targets[state].forEach((target, i) => {
        values[row * seqLen + target] = first[sources[state][i]];
      });
    }
  }
  return values;
}

function selectOnePerRow(draws: Draws, mask: Uint8Array, selected: Uint8Array, seqLen: number): void {
  for (let start = 0; start < mask.length; start += seqLen) {
    const masked = positionsOf(mask.subarray(start, start + seqLen), 1);
    if (masked.length === 0) continue;
    const choice = masked.length === 1 ? 0 : draws.randint(masked.length);
    selected[start + masked[choice]] = 1;
  }
}

function positionsOf(mask: Uint8Array, state: number): number[] {
  const positions: number[] = [];
  mask.forEach((value, i) => {
    if (value === state) positions.push(i);
  });
  return positions;
}

function countOnes(mask: Uint8Array): number {
  return mask.reduce((sum, value) => sum + value, 0);
}
