/** Which points `emigm bench nfe` measures: a list of values for each axis. */
import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import { axisPresets } from '../masking/axes.ts';
import { type RevealCounts, revealCountRules } from '../masking/reveal.ts';
import { drawsCodes, modelPoints, type Point, pointId, sizeConfig } from '../measurement/point.ts';
import { settingsOf } from '../measurement/workbench.ts';
import { openModel } from '../models/checkpoint.ts';
import { type ModelConfig, preset, presetName, presets } from '../models/config.ts';
import { MOST_CODES } from '../models/discrete/config.ts';
import { openDiscreteModel } from '../models/discrete/file.ts';
import type { ModelInfo } from '../models/info.ts';
import { modelKind } from '../models/kind.ts';
import { checkTokenizer, describeTokenizer } from '../models/tokenizer.ts';
import type { Stored } from '../ops/matmul_kernels.ts';
import { refuseSavings } from '../sampling/savings.ts';
import { addKernel } from './device_flags.ts';
import type { Io } from './io.ts';
import { shippedModel } from './open.ts';
import { didYouMean, finiteNumber, interval, oneOf, positiveInteger } from './options.ts';
import { resolveFile } from './pull.ts';

/** Steps that the question is usually asked for. */
const STEPS = [4, 6, 8, 12, 16, 24, 32, 64, 128];

export interface PointFlags {
  model?: string[];
  preset: Point['preset'][];
  codes?: number[];
  steps: number[];
  headSteps?: Point['headSteps'][];
  headSampler?: Point['headSampler'][];
  cfg?: number[];
  cfgInterval?: [number, number][];
  headStepsLast?: number[];
  shareEarly?: number[];
  reuseEncoder?: number[];
  counts?: RevealCounts[];
  batch: number[];
  stored?: Stored[];
  kernel?: Record<string, string>[];
  vae?: string;
  pull?: boolean;
  seed: number;
  quiet?: boolean;
}

/** For commander: a list of values, each once. */
function list<T>(parse: (text: string) => T): (text: string) => T[] {
  return (text) => [...new Set(text.split(',').map((part) => parse(part.trim())))];
}

/** For commander. */
function codeCount(text: string): number {
  const count = positiveInteger(text);
  if (count > MOST_CODES) throw new InvalidArgumentError(`It must be ${MOST_CODES} at most.`);
  return count;
}

/** For commander: `default`, or implementations joined by `+`; may be repeated. */
function rung(text: string, before: Record<string, string>[] = []): Record<string, string>[] {
  if (text === 'default') return [...before, {}];
  return [...before, text.split('+').reduce<Record<string, string>>((all, one) => addKernel(one, all), {})];
}

/** Flags whose values are combined. */
export function addPointFlags(command: Command): Command {
  const option = (flags: string, text: string, parse: (text: string) => unknown) =>
    new Option(flags, text).argParser(parse);
  const rules = Object.keys(revealCountRules) as RevealCounts[];
  return command
    .optionsGroup('What is measured, every combination:')
    .addOption(
      option(
        '-m, --model <list>',
        `model files, or sizes with random weights: ${Object.keys(presets).slice(0, 3).join(', ')} ... (default: clothing32)`,
        list((name) => name),
      ),
    )
    .addOption(
      option(
        '--preset <list>',
        `networks and ways of sampling: ${Object.keys(axisPresets).join(', ')}`,
        list(oneOf(Object.keys(axisPresets) as (keyof typeof axisPresets)[])),
      ).default([undefined], 'as the model file says'),
    )
    .addOption(
      option(
        '--codes <list>',
        'codes of the random codebook of sizes with --preset maskgit or mdm (default: 1024)',
        list(codeCount),
      ),
    )
    .addOption(option('--steps <list>', 'steps of revealing', list(positiveInteger)).default(STEPS, STEPS.join(',')))
    .addOption(
      option(
        '--head-steps <list>',
        'steps of the diffusion head; with ddpm also ddim25 and the like',
        list((text) => (/^\d+$/.test(text) ? Number(text) : text)),
      ),
    )
    .addOption(option('--head-sampler <list>', 'dpm-solver, ddpm', list(oneOf(['dpm-solver', 'ddpm']))))
    .addOption(option('--cfg <list>', 'guidance scales; 1 is none', list(finiteNumber)))
    .addOption(
      new Option('--cfg-interval <low,high>', 'guided while low < s <= high; may be repeated').argParser(
        (text: string, before: [number, number][] = []) => [...before, interval(text)],
      ),
    )
    .addOption(
      option(
        '--head-steps-last <list>',
        'faster, approximate: head steps fall to so many in the last step',
        list(positiveInteger),
      ),
    )
    .addOption(
      option(
        '--share-early <list>',
        'the same: one evaluation for steps of together at most so many tokens; 1 is exact',
        list(positiveInteger),
      ),
    )
    .addOption(
      option(
        '--reuse-encoder <list>',
        'the same: all known tokens encoded anew in every n-th step alone; 1 is exact',
        list(positiveInteger),
      ),
    )
    .addOption(option('--counts <list>', `tokens a step: ${rules.join(', ')}`, list(oneOf(rules))))
    .addOption(option('-b, --batch <list>', 'images at once', list(positiveInteger)).default([1], '1'))
    .addOption(
      option('--stored <list>', 'weights on the device: f32, f16, int8', list(oneOf<Stored>(['f32', 'f16', 'int8']))),
    )
    .addOption(
      new Option(
        '--kernel <rung>',
        'implementations: default, matmul=reference, matmul=tiled+attention=flash; may be repeated',
      ).argParser(rung),
    );
}

interface Asked {
  points: Point[];
  /** Path of the tokenizer. */
  vae?: string;
}

/**
 * The points that the flags ask for, their settings and files checked before anything is measured.
 * @throws EmigmError 'input', 'file', 'model'
 */
export async function pointsOf(flags: PointFlags, io: Io): Promise<Asked> {
  const { seed, pull, quiet } = flags;
  const vae = flags.vae && (await resolveFile(flags.vae, io, { flag: '--vae', pull, quiet }));
  const tokenizer = vae && (await describeTokenizer(vae));
  if (vae && !tokenizer) throw new EmigmError('input', `--vae ${vae} is no KL-16 or DC-AE autoencoder`);
  const models: string[] = [];
  for (const name of flags.model ?? [shippedModel()]) models.push(await modelOf(name, flags, io));
  const names = models.map((model) => basename(model));
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice) throw new EmigmError('input', `--model names two models ${twice}; give the files different names`);
  const points: Point[] = [];
  for (const model of models) {
    const file = presets[model] ? undefined : await aboutFile(model);
    const own = modelPoints(axesOf(model, flags), file?.isDiscrete ?? false);
    for (const point of own) {
      const isOfCodes = file?.isDiscrete || (point.preset && drawsCodes(point.preset));
      if (vae && !file && isOfCodes) {
        throw new EmigmError(
          'input',
          `--vae decodes latents, preset ${point.preset} draws codes: leave one of the two out`,
        );
      }
      if (tokenizer) checkTokenizer(file?.config ?? (sizeConfig(presets[model], point) as ModelConfig), tokenizer, vae);
      try {
        settingsOf(point, file?.info, seed);
      } catch (error) {
        if (!(error instanceof EmigmError)) throw error;
        throw new EmigmError(error.code, `${pointId(point)}: ${error.message}`, { cause: error });
      }
    }
    points.push(...own);
  }
  if (flags.codes && !points.some(({ codes }) => codes)) {
    throw new EmigmError('input', '--codes counts for sizes with --preset maskgit or mdm: add these, or leave it out');
  }
  for (const saving of ['headStepsLast', 'shareEarly', 'reuseEncoder'] as const) {
    if (!points.some((point) => point[saving])) refuseSavings({ [saving]: flags[saving]?.[0] });
  }
  return { points, vae };
}

function axesOf(model: string, flags: PointFlags): Parameters<typeof modelPoints>[0] {
  const some = <T>(values: readonly T[] | undefined): readonly (T | undefined)[] => values ?? [undefined];
  return {
    model: [model],
    preset: flags.preset,
    codes: some(flags.codes),
    stored: some(flags.stored),
    kernel: some(flags.kernel),
    headSampler: some(flags.headSampler),
    headSteps: some(flags.headSteps),
    cfg: some(flags.cfg),
    cfgInterval: some(flags.cfgInterval),
    headStepsLast: some(flags.headStepsLast),
    shareEarly: some(flags.shareEarly),
    reuseEncoder: some(flags.reuseEncoder),
    counts: some(flags.counts),
    batch: flags.batch,
    steps: flags.steps,
  };
}

/** What a model's file says of itself. @throws EmigmError 'file', 'model' */
async function aboutFile(path: string) {
  const kind = await modelKind(path);
  const isDiscrete = kind === 'discrete';
  if (!isDiscrete && kind !== 'continuous') throw new EmigmError('model', `${path} is a ${kind}, no model that draws`);
  const { config, info, close } = await (isDiscrete ? openDiscreteModel(path) : openModel(path));
  await close();
  return { isDiscrete, config, info: info as Partial<ModelInfo> };
}

/** A size's usual name, or a file's path. @throws EmigmError 'input' when it is neither */
async function modelOf(name: string, { pull, quiet }: PointFlags, io: Io): Promise<string> {
  if (presets[name]) return name;
  try {
    return presetName(preset(name)) ?? name;
  } catch {
    const path = await resolveFile(name, io, { flag: '--model', pull, quiet });
    if (existsSync(path)) return path;
    const sizes = Object.keys(presets);
    throw new EmigmError(
      'input',
      `--model ${name}: no such file, nor a size; sizes are ${sizes.join(', ')}.${didYouMean(name, sizes)}`,
    );
  }
}
