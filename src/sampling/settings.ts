/** What a sampling run is asked for, checked, with the field's usual names. */
import { z } from 'zod';
import { spacedTimesteps } from '../diffusion/respacing.ts';
import { EmigmError } from '../errors.ts';
import { generationOrders } from '../masking/axes.ts';
import { checkGuidance, guidanceSchedules } from '../masking/guidance.ts';
import { type RevealCounts, revealCountRules } from '../masking/reveal.ts';
import { samplingSchedule } from '../masking/schedules.ts';
import { checkSavings } from './savings.ts';
import { settingError } from './setting_error.ts';

const fields = z.strictObject({
  /** Sampling steps of the reveal loop. */
  steps: z.int().min(1).max(100_000),
  /** Evaluations of the head a step with DPM-Solver; with DDPM also a respacing string: `100`, `ddim25`. */
  headSteps: z.union([z.int().min(1).max(1000), z.string()]),
  headSampler: z.enum(['dpm-solver', 'ddpm']),
  /** Head steps fall to this many in the last step; default: they stay. Approximate, as the next two: savings.ts. */
  headStepsLast: z.int().min(1).max(1000).optional(),
  /** Steps share an evaluation of the network while they reveal at most so many tokens; default 1: none does. */
  shareEarly: z.int().min(1).max(100_000).optional(),
  /** The encoder runs over all visible tokens in every n-th step, else over the new ones; default 1: in every step. */
  reuseEncoder: z.int().min(1).max(100_000).optional(),
  /** Scales the noise of DDPM steps; DPM-Solver ignores it. */
  temperature: z.number().min(0),
  /** Guidance scale; 1 is none. */
  cfg: z.number(),
  cfgSchedule: z.enum(Object.keys(guidanceSchedules) as [string, ...string[]]),
  /** Guided while low < s <= high. */
  cfgInterval: z.tuple([z.number(), z.number()]),
  maskSchedule: z.string(),
  /** Tokens a step: drawn as the official sampler does, the rounded expectation, or MAR's and MaskGIT's. */
  counts: z.enum(Object.keys(revealCountRules) as [RevealCounts]),
  /** Which tokens come first. */
  order: z.enum(Object.keys(generationOrders) as [keyof typeof generationOrders]),
  /** Noise of the `confidence` order, annealed to 0; default 4.5. */
  choiceTemperature: z.number().min(0).optional(),
  /** Codes alone: drawn from the `topK` likeliest; from the likeliest of together `topP`. Default: from all. */
  topK: z.int().min(1).optional(),
  topP: z.number().positive().max(1).optional(),
  seed: z.union([z.int().min(0), z.bigint()]),
});

export type SampleSettings = z.infer<typeof fields>;

/** The official settings at 256 px: 16 steps, 8 head steps, guidance 4 over (0.1, 0.3]. */
export const defaultSettings: SampleSettings = {
  steps: 16,
  headSteps: 8,
  headSampler: 'dpm-solver',
  temperature: 1,
  cfg: 4,
  cfgSchedule: 'constant',
  cfgInterval: [0.1, 0.3],
  maskSchedule: 'exp',
  counts: 'official',
  order: 'random',
  seed: 0,
};

/**
 * The defaults, then what the model file recommends, then what is asked for; checked.
 * @throws EmigmError 'input' naming the first setting that is wrong
 */
export function resolveSettings(...layers: readonly (Partial<SampleSettings> | undefined)[]): SampleSettings {
  const merged: Record<string, unknown> = { ...defaultSettings };
  for (const layer of layers) {
    for (const [key, value] of Object.entries(layer ?? {})) if (value !== undefined) merged[key] = value;
  }
  const parsed = fields.safeParse(merged);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    if (issue.code === 'unrecognized_keys')
      throw new EmigmError('input', `sampling settings: there is no setting ${issue.keys[0]}`);
    const key = String(issue.path[0]) as keyof SampleSettings;
    throw settingError(key, `${issue.message}, not ${String(merged[key])}`);
  }
  const settings = parsed.data;
  const { cfg, cfgSchedule: schedule, cfgInterval: interval } = settings;
  checkSetting('maskSchedule', () => samplingSchedule(settings.maskSchedule));
  checkSetting('cfgInterval', () => checkGuidance({ cfg, schedule, interval }));
  checkSavings(settings);
  if (settings.headSampler === 'dpm-solver' && typeof settings.headSteps !== 'number') {
    const steps = Number(settings.headSteps);
    if (!Number.isInteger(steps) || steps < 1) {
      throw settingError('headSteps', `dpm-solver takes a positive whole number, not ${settings.headSteps}`);
    }
    return { ...settings, headSteps: steps };
  }
  if (settings.headSampler === 'ddpm') checkSetting('headSteps', () => spacedTimesteps(String(settings.headSteps)));
  return settings;
}

/** What a check says, said of the setting that it checks. */
function checkSetting(name: keyof SampleSettings, check: () => void): void {
  try {
    check();
  } catch (cause) {
    if (!(cause instanceof EmigmError)) throw cause;
    throw settingError(name, cause.message, cause);
  }
}
