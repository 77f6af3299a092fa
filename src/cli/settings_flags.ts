/** Flags of every command that draws: the sampling settings. What is not given the model file recommends. */
import { type Command, Option } from 'commander';
import { type AxisPreset, axisPresets, generationOrders } from '../masking/axes.ts';
import { guidanceSchedules } from '../masking/guidance.ts';
import { type RevealCounts, revealCountRules } from '../masking/reveal.ts';
import { maskSchedules } from '../masking/schedules.ts';
import { presetSettings } from '../sampling/axes.ts';
import type { SampleSettings } from '../sampling/settings.ts';
import { SETTING } from '../sampling/setting_error.ts';
import { finiteNumber, interval, kebab, oneOf, positiveInteger, wholeNumber } from './options.ts';

export interface SettingsFlags {
  preset?: AxisPreset;
  seed?: number;
  steps?: number;
  headSteps?: string;
  headSampler?: SampleSettings['headSampler'];
  headStepsLast?: number;
  shareEarly?: number;
  reuseEncoder?: number;
  temperature?: number;
  cfg?: number;
  cfgSchedule?: string;
  cfgInterval?: [number, number];
  maskSchedule?: string;
  counts?: SampleSettings['counts'];
  order?: SampleSettings['order'];
  choiceTemperature?: number;
  topK?: number;
  topP?: number;
  batch: number;
}

export function addSettingsFlags(command: Command): Command {
  const option = (flags: string, text: string, parse: (text: string) => unknown) =>
    new Option(flags, text).argParser(parse);
  const presets = Object.keys(axisPresets) as AxisPreset[];
  const orders = Object.keys(generationOrders) as SampleSettings['order'][];
  return command
    .addOption(
      option('--preset <name>', `sample as ${presets.join(', ')} do; other flags go before it`, oneOf(presets)),
    )
    .addOption(option('--seed <n>', 'an image depends on the seed, its class and its number alone', wholeNumber))
    .addOption(option('--steps <n>', 'steps of revealing', positiveInteger))
    .option('--head-steps <n>', 'steps of the diffusion head a token; with ddpm also ddim25 and the like')
    .addOption(option('--head-sampler <name>', 'dpm-solver or ddpm', oneOf(['dpm-solver', 'ddpm'])))
    .addOption(option('--temperature <x>', "scales ddpm's noise", finiteNumber))
    .addOption(option('--cfg <x>', 'guidance scale; 1 is none', finiteNumber))
    .addOption(option('--cfg-interval <low,high>', 'guided while low < s <= high', interval))
    .addOption(
      option('--cfg-schedule <name>', Object.keys(guidanceSchedules).join(', '), oneOf(Object.keys(guidanceSchedules))),
    )
    .option('--mask-schedule <name>', Object.keys(maskSchedules).join(', '))
    .addOption(
      option(
        '--counts <kind>',
        "tokens a step: official (random), expected, or floor (MAR's and MaskGIT's)",
        oneOf(Object.keys(revealCountRules) as RevealCounts[]),
      ),
    )
    .addOption(option('--order <name>', orders.join(', '), oneOf(orders)))
    .addOption(option('--choice-temperature <x>', "noise of the confidence order (MaskGIT's)", finiteNumber))
    .addOption(option('--top-k <n>', 'codes: drawn from the n likeliest', positiveInteger))
    .addOption(option('--top-p <x>', 'codes: drawn from the likeliest of together probability x', finiteNumber))
    .addOption(
      option('--head-steps-last <n>', 'faster, approximate: head steps fall to n in the last step', positiveInteger),
    )
    .addOption(
      option('--share-early <n>', 'the same: one evaluation for steps of together at most n tokens', positiveInteger),
    )
    .addOption(
      option(
        '--reuse-encoder <n>',
        'the same: all known tokens encoded anew in every n-th step alone',
        positiveInteger,
      ),
    )
    .addOption(
      option('-b, --batch <n>', 'images at once; changes speed and memory, not the images', positiveInteger).default(
        16,
      ),
    );
}

/** The settings that were given: those of the preset, then those that have flags of their own. */
export function askedSettings(flags: Partial<SettingsFlags>): Partial<SampleSettings> {
  const { preset, seed, steps, headSteps, headSampler, temperature, maskSchedule, counts, order } = flags;
  const { cfg, cfgSchedule, cfgInterval, choiceTemperature, topK, topP } = flags;
  const { headStepsLast, shareEarly, reuseEncoder } = flags;
  const given: Partial<SampleSettings> = {
    seed,
    steps,
    headSteps: headSteps !== undefined && /^\d+$/.test(headSteps) ? Number(headSteps) : headSteps,
    headSampler,
    headStepsLast,
    shareEarly,
    reuseEncoder,
    temperature,
    cfg,
    cfgSchedule,
    cfgInterval,
    maskSchedule,
    counts,
    order,
    choiceTemperature,
    topK,
    topP,
  };
  const own = Object.entries(given).filter(([, value]) => value !== undefined);
  return { ...(preset && presetSettings(preset)), ...Object.fromEntries(own) };
}

/** The message with the flag of a sampling setting, or the preset, as `argv` has it, in place of the setting's name. */
export function namedByFlag(message: string, argv: readonly string[]): string {
  return message.replace(SETTING, (all, name: string) => {
    const given = (flag: string) => argv.some((arg) => arg === flag || arg.startsWith(`${flag}=`));
    const flag = name === 'order' && argv[0] === 'eval' ? '--reveal-order' : `--${kebab(name)}`;
    if (given(flag)) return `${flag}: `;
    const preset = Object.keys(axisPresets).find(
      (one) => argv.includes(`--preset=${one}`) || (given('--preset') && argv.includes(one)),
    );
    const isOfPreset = preset && name in presetSettings(preset as AxisPreset);
    return isOfPreset ? `--preset ${preset}: ${name} ` : all;
  });
}
