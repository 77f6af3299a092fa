/**
 * Time truncation: training draws no mask at times below tMin (eMIGM, arXiv 2503.07197, section 3.2; float32
 * arithmetic). After it comes the margin: p = (1 - margin) t + margin, the official code's 0.999 t + 0.001.
 */
import { EmigmError } from '../errors.ts';
import { named } from './named.ts';

export interface TimeTruncation {
  /** The time of a uniform number u in [0, 1). */
  time(u: number, tMin: number): number;
  doc: string;
}

const { fround } = Math;

/** Both forms of time truncation by name. */
export const timeTruncations = {
  clamp: {
    time: (u, tMin) => Math.max(u, fround(tMin)),
    doc: 'the official code: t = max(u, tMin), so that a share tMin of all times is tMin itself',
  },
  interval: {
    time: (u, tMin) => fround(fround(tMin) + fround(fround(1 - fround(tMin)) * u)),
    doc: 'the paper: t is uniform on [tMin, 1]',
  },
} as const satisfies Record<string, TimeTruncation>;

export type TimeTruncationName = keyof typeof timeTruncations;

/** @throws EmigmError('input') for an unknown name */
export function timeTruncation(name: string): TimeTruncation {
  return named<TimeTruncation>(timeTruncations, name, 'time truncation');
}

/** The margin of the official code. */
export const TIME_MARGIN = 1e-3;

export interface TimeOptions {
  truncation?: string;
  /** 0 is no truncation. */
  tMin?: number;
  margin?: number;
}

/**
 * The masking time p of a uniform number u in [0, 1), float32.
 * @throws EmigmError('input') for a tMin or margin that is no share
 */
export function maskTime(
  u: number,
  { truncation = 'clamp', tMin = 0, margin = TIME_MARGIN }: TimeOptions = {},
): number {
  if (!(tMin >= 0 && tMin <= 1)) throw new EmigmError('input', `tMin ${tMin} is no time from 0 to 1`);
  if (!(margin >= 0 && margin < 1))
    throw new EmigmError('input', `time margin ${margin} is no share from 0 to below 1`);
  const t = timeTruncation(truncation).time(u, tMin);
  return fround(fround(fround(1 - margin) * t) + fround(margin));
}
