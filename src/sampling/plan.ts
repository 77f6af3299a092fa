/** What a batch does in each step, decided on the host before the device starts. */
import { stepGuidance } from '../masking/guidance.ts';
import type { RevealOrderName } from '../masking/orders.ts';
import { revealPlan } from '../masking/reveal.ts';
import { gridSize } from '../models/config.ts';
import type { Emigm } from '../models/emigm.ts';
import type { BatchInput, KeptTokens } from './batch.ts';
import { headStepsAt, reusingSteps, shareEvaluations } from './savings.ts';
import { settingError } from './setting_error.ts';
import type { SampleSettings } from './settings.ts';

/** @throws EmigmError 'input' for settings that need probabilities of codes, which a diffusion head does not give */
function plannedOrder({ order, topK, topP }: SampleSettings): RevealOrderName {
  const asked = topK !== undefined ? 'topK' : topP !== undefined ? 'topP' : undefined;
  if (order === 'confidence' || asked) {
    const what = asked ? '' : `"${order}" `;
    throw settingError(asked ?? 'order', `${what}needs probabilities of codes, and this model draws continuous tokens`);
  }
  return order;
}

/** Steps of a batch: positions by seed and image index, guidance by schedule and interval; with `kept` of the others. */
export function planBatch(
  model: Emigm,
  settings: SampleSettings,
  classes: readonly (number | undefined)[],
  indices: readonly number[],
  kept?: KeptTokens,
): BatchInput {
  const { seed, steps, maskSchedule, counts, cfg, cfgSchedule, cfgInterval } = settings;
  const seqLen = model.sequenceLength;
  const plan = revealPlan({
    seed,
    steps,
    seqLen,
    counts,
    order: plannedOrder(settings),
    schedule: maskSchedule,
    gridWidth: gridSize(model.config),
    imageIndices: indices,
    masked: kept?.masked,
  });
  const { headStepsLast, shareEarly = 1, reuseEncoder = 1 } = settings;
  if (reuseEncoder > 1 && !model.config.mae) {
    throw settingError('reuseEncoder', 'is for encoders of visible tokens alone (MAE); this one sees them all');
  }
  const shared = shareEvaluations(plan.steps, shareEarly);
  const guidance = shared.map(({ s, revealedForGuidance }) =>
    stepGuidance({ cfg, schedule: cfgSchedule, interval: cfgInterval }, s, revealedForGuidance, seqLen),
  );
  // With everything masked it is a drawing like any other.
  const hasKept = kept !== undefined && Array.from(kept.masked).includes(0);
  const reuse = reusingSteps(
    guidance.map(({ guided }) => guided),
    reuseEncoder,
    hasKept,
  );
  return {
    classRows: classes.map((number) => number ?? model.unconditional),
    imageIndices: [...indices],
    kept: hasKept ? kept : undefined,
    steps: shared.map(({ positions, parts }, step) => ({
      positions,
      guidance: guidance[step].guided ? guidance[step].scale : undefined,
      parts,
      headSteps: headStepsLast === undefined ? undefined : Number(headStepsAt(settings, step, shared.length)),
      reusesEncoder: reuse[step],
    })),
  };
}
