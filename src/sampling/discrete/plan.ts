/** What a batch of a model of codes does in each step: counts by the schedule, tokens by the host or by confidence. */
import { annealedTemperature } from '../../masking/axes.ts';
import { stepGuidance } from '../../masking/guidance.ts';
import { revealPlan } from '../../masking/reveal.ts';
import { gridSize } from '../../models/config.ts';
import type { DiscreteConfig } from '../../models/discrete/config.ts';
import { checkCodeFilter } from '../../ops/categorical.ts';
import { refuseSavings } from '../savings.ts';
import type { SampleSettings } from '../settings.ts';

/** MaskGIT's, where the settings have none. */
const CHOICE_TEMPERATURE = 4.5;

export interface DiscreteStep {
  /** Tokens of each image that are masked before the step, and that it reveals. */
  masked: number;
  count: number;
  /** Grid positions to reveal in each image, ascending; undefined: the most confident, which the device finds. */
  positions?: ArrayLike<number>[];
  /** Noise of the confidence. */
  choiceTemperature: number;
  /** Guidance scale; undefined: the unconditional half is not evaluated. */
  guidance?: number;
}

export interface DiscreteInput {
  /** Row of the model's class inputs for each image. */
  classRows: number[];
  /** Index of each image in the run: what its noise and its order depend on. */
  imageIndices: number[];
  steps: DiscreteStep[];
}

/** What of a network a plan depends on. */
export interface PlannedNetwork {
  readonly config: DiscreteConfig;
  readonly sequenceLength: number;
  readonly unconditional: number;
}

/** @throws EmigmError 'input' for settings that cannot be */
export function planDiscrete(
  { config, sequenceLength: seqLen, unconditional }: PlannedNetwork,
  settings: SampleSettings,
  classes: readonly (number | undefined)[],
  indices: readonly number[],
): DiscreteInput {
  const { seed, steps, maskSchedule: schedule, counts, order, cfg, cfgSchedule, cfgInterval: interval } = settings;
  checkCodeFilter(settings);
  refuseSavings(settings);
  const confident = order === 'confidence';
  const plan = revealPlan({
    seed,
    steps,
    seqLen,
    counts,
    schedule,
    order: confident ? 'random' : order,
    gridWidth: gridSize(config),
    imageIndices: indices,
  });
  const noise = settings.choiceTemperature ?? CHOICE_TEMPERATURE;
  return {
    classRows: classes.map((number) => number ?? unconditional),
    imageIndices: [...indices],
    steps: plan.steps.map(({ count, positions, s, revealedAfter, revealedForGuidance }, step) => {
      const { guided, scale } = stepGuidance({ cfg, schedule: cfgSchedule, interval }, s, revealedForGuidance, seqLen);
      return {
        masked: seqLen - revealedAfter + count,
        count,
        positions: confident ? undefined : positions,
        choiceTemperature: confident ? Math.max(0, annealedTemperature(noise, step, steps)) : 0,
        guidance: guided ? scale : undefined,
      };
    }),
  };
}
