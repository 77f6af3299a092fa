/**
 * The axes on which masked image generation models differ (eMIGM, arXiv 2503.07197, table 1; SPEC section 1), and the
 * known models as presets: points on them. Every axis can be set by itself.
 */
import { z } from 'zod';
import { EmigmError } from '../errors.ts';
import { maskDistributions, maskedCount } from './distributions.ts';
import type { Draws } from './draws.ts';
import { guidanceSchedules } from './guidance.ts';
import { named } from './named.ts';
import { revealOrders } from './orders.ts';
import { type RandomMask, randomMasking, randomMaskingPerRow } from './random_masking.ts';
import { revealCountRules } from './reveal.ts';
import { maskSchedule, maskSchedules, trainingSchedules } from './schedules.ts';
import { maskTime, timeTruncations } from './truncation.ts';
import { lossWeightings } from './weightings.ts';

type Documented = Readonly<Record<string, { doc: string }>>;

/** What the network predicts of a token. */
export const conditionals = {
  categorical: { doc: 'a code of a codebook: softmax and cross-entropy' },
  diffusion: { doc: 'a continuous token: a diffusion head, as MAR' },
} as const;

export const networks = {
  mae: { doc: 'an encoder of visible tokens, a decoder that puts mask tokens back' },
  single: { doc: 'one encoder that sees mask tokens' },
} as const;

/** What the network sees instead of a class when it is not told one. */
export const unconditionalInputs = {
  mask: { doc: 'the mask token (CFG with mask)' },
  'fake-class': { doc: 'a class embedding of its own' },
} as const;

/** Orders in which tokens are revealed: those that the host plans, and the one that follows the network. */
export const generationOrders = {
  ...revealOrders,
  confidence: { doc: 'MaskGIT: the codes with the largest probability first, with annealed Gumbel noise' },
} as const;

const names = <T extends object>(table: T) => z.enum(Object.keys(table) as [keyof T & string]);

/** Type, meaning and named choices of every axis. */
export const axisTypes = {
  maskDistribution: [names(maskDistributions), 'how masked tokens are drawn', maskDistributions],
  schedule: [names(trainingSchedules), 'mask ratio gamma(t) in training', trainingSchedules],
  weighting: [names(lossWeightings), 'weight w(t) of the loss', lossWeightings],
  timeTruncation: [names(timeTruncations), 'how tMin bounds the times of training', timeTruncations],
  tMin: [z.number().min(0).max(1), 'no times below it in training', undefined],
  timeMargin: [z.number().min(0).max(0.5), 'p = (1 - margin) t + margin in training', undefined],
  conditional: [names(conditionals), 'distribution of a token', conditionals],
  network: [names(networks), 'what sees mask tokens', networks],
  unconditional: [names(unconditionalInputs), 'unconditional input for guidance', unconditionalInputs],
  samplingSchedule: [names(maskSchedules), 'mask ratio gamma(t) in sampling', maskSchedules],
  counts: [names(revealCountRules), 'tokens revealed in a step', revealCountRules],
  order: [names(generationOrders), 'which tokens are revealed first', generationOrders],
  choiceTemperature: [z.number().min(0), 'noise of the confidence order, annealed to 0', undefined],
  guidanceSchedule: [names(guidanceSchedules), 'guidance scale over the revealed fraction', guidanceSchedules],
} as const satisfies Record<string, readonly [z.ZodType, string, Documented | object | undefined]>;

export type Axis = keyof typeof axisTypes;

/** All axes, for flags, help and tables: what an axis is, and its choices where they have names. */
export const axes: Readonly<Record<Axis, { doc: string; choices?: Documented }>> = Object.fromEntries(
  Object.entries(axisTypes).map(([axis, [, doc, choices]]) => [axis, { doc, choices: choices as Documented }]),
) as Record<Axis, { doc: string; choices?: Documented }>;

const schema = z.strictObject(
  Object.fromEntries(Object.entries(axisTypes).map(([axis, [type]]) => [axis, type])) as {
    [A in Axis]: (typeof axisTypes)[A][0];
  },
);

/** A point on all axes: plain data that goes into checkpoints and sidecars as it is. */
export type Axes = z.output<typeof schema>;

const official = { timeTruncation: 'clamp', choiceTemperature: 4.5 } as const;

/** The known models (SPEC section 1). */
export const axisPresets = {
  maskgit: {
    ...official,
    maskDistribution: 'fixed-count',
    schedule: 'cosine',
    weighting: 'uniform',
    tMin: 0,
    timeMargin: 0,
    conditional: 'categorical',
    network: 'single',
    unconditional: 'fake-class',
    samplingSchedule: 'cosine',
    counts: 'floor',
    order: 'confidence',
    guidanceSchedule: 'constant',
  },
  mdm: {
    ...official,
    maskDistribution: 'independent',
    schedule: 'linear',
    weighting: 'elbo',
    tMin: 0,
    timeMargin: 1e-3,
    conditional: 'categorical',
    network: 'single',
    unconditional: 'fake-class',
    samplingSchedule: 'linear',
    counts: 'official',
    order: 'random',
    guidanceSchedule: 'constant',
  },
  mar: {
    ...official,
    maskDistribution: 'fixed-count',
    schedule: 'truncated-normal',
    weighting: 'uniform',
    tMin: 0,
    timeMargin: 0,
    conditional: 'diffusion',
    network: 'mae',
    unconditional: 'fake-class',
    samplingSchedule: 'cosine',
    counts: 'floor',
    order: 'random',
    guidanceSchedule: 'linear',
  },
  emigm: {
    ...official,
    maskDistribution: 'independent',
    schedule: 'exp',
    weighting: 'uniform',
    tMin: 0.2,
    timeMargin: 1e-3,
    conditional: 'diffusion',
    network: 'mae',
    unconditional: 'mask',
    samplingSchedule: 'exp',
    counts: 'official',
    order: 'random',
    guidanceSchedule: 'constant',
  },
} as const satisfies Record<string, Axes>;

export type AxisPreset = keyof typeof axisPresets;

/**
 * Checks a point on the axes, from a file or put together. `where` names the source in errors. Aliases of schedules
 * become their names.
 * @throws EmigmError('input') naming the first axis that is missing, unknown or impossible, or two that do not fit
 */
export function parseAxes(value: unknown, where = 'axes'): Axes {
  const parsed = schema.safeParse(withoutAliases(value));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    if (issue.code === 'unrecognized_keys') {
      const known = Object.keys(axes).join(', ');
      throw new EmigmError('input', `${where}: "${issue.keys[0]}" is no axis; there are ${known}`);
    }
    const axis = String(issue.path[0] ?? '');
    const choices = axes[axis as Axis]?.choices;
    const given = JSON.stringify((value as Record<string, unknown> | undefined)?.[axis]);
    const message = choices ? `${given} is unknown; choose one of ${Object.keys(choices).join(', ')}` : issue.message;
    throw new EmigmError('input', `${where}: ${axis ? `${axis}: ` : ''}${message}`);
  }
  const { order, conditional } = parsed.data;
  if (order === 'confidence' && conditional !== 'categorical') {
    throw new EmigmError(
      'input',
      `${where}: order "confidence" needs probabilities of codes; choose conditional "categorical" or another order`,
    );
  }
  return parsed.data;
}

function withoutAliases(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  const replaced: Record<string, unknown> = { ...value };
  for (const axis of ['schedule', 'samplingSchedule'] as const) {
    const found = Object.entries(maskSchedules).find(([, { aliases }]) => aliases?.includes(String(replaced[axis])));
    if (found) replaced[axis] = found[0];
  }
  return replaced;
}

/**
 * A preset with some axes set otherwise, as `overrideAxes`.
 * @throws EmigmError('input') as `parseAxes`, and for an unknown preset
 */
export function resolveAxes(
  preset: string,
  overrides: Readonly<Record<string, unknown>> = {},
  where = `preset ${preset}`,
): Axes {
  return overrideAxes(named<Axes>(axisPresets, preset, 'preset'), overrides, where);
}

/**
 * A point with some axes set otherwise; overrides that are undefined leave it as it is. A new training schedule is the
 * sampling schedule too, unless that is given or the schedule serves training alone.
 * @throws EmigmError('input') as `parseAxes`
 */
export function overrideAxes(point: Axes, overrides: Readonly<Record<string, unknown>>, where = 'axes'): Axes {
  const merged: Record<string, unknown> = { ...point };
  for (const [axis, value] of Object.entries(overrides)) if (value !== undefined) merged[axis] = value;
  const { schedule, samplingSchedule } = overrides;
  if (schedule !== undefined && samplingSchedule === undefined && !trainingSchedules[String(schedule)]?.trainingOnly) {
    merged.samplingSchedule = schedule;
  }
  return parseAxes(merged, where);
}

/** The axes as lines for people: name, choice, what it means. */
export function describeAxes(point: Axes): string[] {
  const width = Math.max(...Object.keys(axes).map((axis) => axis.length));
  const chosen = Math.max(...Object.values(point).map((value) => String(value).length));
  return Object.entries(axes).map(([axis, { doc, choices }]) => {
    const value = String(point[axis as Axis]);
    return `${axis.padEnd(width)}  ${value.padEnd(chosen)}  ${choices?.[value]?.doc ?? doc}`;
  });
}

/** The axes that masks in training depend on. */
export type MaskAxes = Pick<
  Axes,
  'maskDistribution' | 'schedule' | 'weighting' | 'timeTruncation' | 'tMin' | 'timeMargin' | 'network'
>;

/** The axes in a line: `maskDistribution independent, schedule exp, ...`. */
export function listAxes(point: Axes): string {
  return Object.keys(axes)
    .map((axis) => `${axis} ${point[axis as Axis]}`)
    .join(', ');
}

/**
 * Training masks on these axes. One time and one count for all images, unless a single encoder is trained with a
 * weighted loss, when each image has its own (as the official code, whose clamp of times is not applied there either).
 */
export function drawMasks(
  draws: Draws,
  point: MaskAxes,
  { batch, seqLen }: { batch: number; seqLen: number },
): RandomMask {
  const { schedule, timeTruncation: truncation, tMin } = point;
  const options = {
    schedule,
    batch,
    seqLen,
    truncation,
    distribution: point.maskDistribution,
    margin: point.timeMargin,
  };
  const perImage = point.network === 'single' && point.weighting !== 'uniform';
  if (!perImage) return randomMasking(draws, { ...options, tMin });
  return randomMaskingPerRow(draws, { ...options, tMin: truncation === 'clamp' ? 0 : tMin });
}

/**
 * Tokens that a mask of these axes has at the least; where their number is random, a bound that fewer than one mask in
 * ten thousand passes (four standard deviations below the mean at the earliest time).
 */
export function fewestMasked(
  { schedule, maskDistribution: distribution, tMin, timeTruncation: truncation, timeMargin: margin }: MaskAxes,
  seqLen: number,
): number {
  const gamma = Math.max(0, maskSchedule(schedule).gamma(maskTime(0, { truncation, tMin, margin })));
  const { fewest } = maskDistributions[distribution];
  if (distribution === 'fixed-count') return Math.max(fewest, maskedCount(gamma, seqLen));
  const bound = seqLen * gamma - 4 * Math.sqrt(seqLen * gamma * (1 - gamma));
  return Math.min(seqLen, Math.max(fewest, Math.floor(bound)));
}

/**
 * Temperature of the Gumbel noise that is added to the log-probabilities by which the `confidence` order chooses, in a
 * step counted from 0: annealed to 0 in the last (Chang et al. 2022, MaskGIT; its code).
 */
export function annealedTemperature(choiceTemperature: number, step: number, steps: number): number {
  return choiceTemperature * (1 - (step + 1) / steps);
}
