/** Flags of every command that draws: the sampling settings. What is not given the model file recommends. */
import { type Command, Option } from 'commander';
import { guidanceSchedules } from '../masking/guidance.ts';
import { type RevealCounts, revealCountRules } from '../masking/reveal.ts';
import { maskSchedules } from '../masking/schedules.ts';
import type { SampleSettings } from '../sampling/settings.ts';
import { finiteNumber, interval, oneOf, positiveInteger, wholeNumber } from './options.ts';

export interface SettingsFlags {
  seed?: number;
  steps?: number;
  headSteps?: string;
  headSampler?: SampleSettings['headSampler'];
  temperature?: number;
  cfg?: number;
  cfgSchedule?: string;
  cfgInterval?: [number, number];
  maskSchedule?: string;
  counts?: SampleSettings['counts'];
  order?: SampleSettings['order'];
  batch: number;
}

export function addSettingsFlags(command: Command): Command {
  const option = (flags: string, text: string, parse: (text: string) => unknown) =>
    new Option(flags, text).argParser(parse);
  return command
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
    .addOption(option('--order <name>', 'random, halton or checkerboard', oneOf(['random', 'halton', 'checkerboard'])))
    .addOption(
      option('-b, --batch <n>', 'images at once; changes speed and memory, not the images', positiveInteger).default(
        16,
      ),
    );
}

/** The settings that were given. */
export function askedSettings(flags: SettingsFlags): Partial<SampleSettings> {
  const { seed, steps, headSteps, headSampler, temperature, maskSchedule, counts, order } = flags;
  const { cfg, cfgSchedule, cfgInterval } = flags;
  return {
    seed,
    steps,
    headSteps: headSteps !== undefined && /^\d+$/.test(headSteps) ? Number(headSteps) : headSteps,
    headSampler,
    temperature,
    cfg,
    cfgSchedule,
    cfgInterval,
    maskSchedule,
    counts,
    order,
  };
}
