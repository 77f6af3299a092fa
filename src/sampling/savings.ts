/** Cheaper sampling at some cost in quality: what the settings `headStepsLast`, `shareEarly` and `reuseEncoder` do. */
import { EmigmError } from '../errors.ts';
import type { RevealStep } from '../masking/reveal.ts';
import { settingError } from './setting_error.ts';
import type { SampleSettings } from './settings.ts';

/**
 * Steps of the head in sampling step `step` of `steps`: from headSteps in the first in equal parts to headStepsLast in
 * the last, each rounded to the nearest whole number (halves up): round(H + (L - H) step / (steps - 1)). A single step
 * has headSteps. As more tokens are known, those that are left vary less (Zhao et al. 2025, DiSA, arXiv 2505.20297).
 */
export function headStepsAt(
  { headSteps, headStepsLast }: Pick<SampleSettings, 'headSteps' | 'headStepsLast'>,
  step: number,
  steps: number,
): SampleSettings['headSteps'] {
  if (headStepsLast === undefined || steps === 1) return headSteps;
  const first = Number(headSteps);
  return Math.round(first + ((headStepsLast - first) * step) / (steps - 1));
}

/** A step of a plan, or some that share an evaluation of the network. */
export interface SharedStep extends Omit<RevealStep, 't' | 'count'> {
  /** In the order of `positions`: the plan's steps that it is made of, and the tokens an image of each. */
  parts: { step: number; count: number }[];
}

/**
 * Steps that share evaluations: in their order, steps join the ones before them while these together reveal at most
 * `most` tokens of an image. All tokens of such a group are drawn given what was known before its first step; time and
 * guidance are those of its last. Each token keeps the order, and the noise, of its own step. Steps that reveal more than
 * `most` tokens stay alone; with `most` 1 all do.
 */
export function shareEvaluations(steps: readonly RevealStep[], most: number): SharedStep[] {
  const shared: SharedStep[] = [];
  let tokens = 0;
  for (const [step, { t: _, count, ...rest }] of steps.entries()) {
    const before = shared.at(-1);
    if (before && tokens + count <= most) {
      tokens += count;
      const positions = rest.positions.map((own, image) => Int32Array.of(...before.positions[image], ...own));
      shared[shared.length - 1] = { ...rest, positions, parts: [...before.parts, { step, count }] };
    } else {
      tokens = count;
      shared.push({ ...rest, parts: [{ step, count }] });
    }
  }
  return shared;
}

/**
 * For each step whether its encoder runs over the newly visible tokens alone. It runs over all that is visible in the
 * first two steps (the first sees nothing but the class), after `every` - 1 steps in which it did not, and where guidance
 * sets in, as the unconditional half has nothing kept then. `hasVisible`: some tokens are known from the start.
 */
export function reusingSteps(guided: readonly boolean[], every: number, hasVisible: boolean): boolean[] {
  let age: number | undefined;
  let keepsUnconditional = false;
  return guided.map((isGuided, step) => {
    if (age !== undefined && age + 1 < every && (keepsUnconditional || !isGuided)) {
      age++;
      keepsUnconditional = isGuided;
      return true;
    }
    if (step > 0 || hasVisible) age = 0;
    keepsUnconditional = isGuided;
    return false;
  });
}

/** @throws EmigmError 'input' for savings that do not go with the other settings */
export function checkSavings({ headSteps, headStepsLast }: SampleSettings): void {
  if (headStepsLast === undefined) return;
  const first = Number(headSteps);
  if (!Number.isInteger(first)) {
    throw settingError('headStepsLast', `needs head steps that are a number to fall from, not ${headSteps}`);
  }
  if (headStepsLast > first) {
    throw settingError('headStepsLast', `${headStepsLast} is more than ${first}, the head steps that it falls from`);
  }
}

/** The flag of each saving. */
export const savingFlags = {
  headStepsLast: '--head-steps-last',
  shareEarly: '--share-early',
  reuseEncoder: '--reuse-encoder',
} as const;

/** @throws EmigmError 'input' when a saving is asked for that models of codes do not have */
export function refuseSavings(settings: Partial<SampleSettings>): void {
  for (const name of Object.keys(savingFlags) as (keyof typeof savingFlags)[]) {
    if (settings[name] === undefined) continue;
    throw new EmigmError('input', `${savingFlags[name]} is for models with a diffusion head; this model draws codes`);
  }
}
