/** What the ablation leaves behind: all measurements as JSON, and from them the rows of the report. */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { reportJson } from '../../src/cli/write_report.ts';
import { EmigmError } from '../../src/errors.ts';
import { reason } from '../../src/formats/files.ts';
import { BASE, type Case, pointId, type StudyAxis } from './axes.ts';
import { type Line, type LineOf, ofKind, parseLines } from './log.ts';

const FORMAT = 'emigm-ablation';

/** A mean over the seeds, and the standard deviation of a seed (n - 1). */
export interface Spread {
  mean: number;
  deviation: number;
  values: number[];
}

/** A case with what was measured of it, of as many seeds as there are. */
export interface MeasuredCase {
  values: Case['values'];
  training: string;
  cfg: number;
  seeds: number;
  nfe?: Spread;
  headEvaluations?: Spread;
  distance?: Spread;
  agreement?: Spread;
  /** Of other trainings than the base: in how many seeds its distance is larger than the base's, sampled alike. */
  worse?: { seeds: number; of: number };
}

export function spread(values: number[]): Spread | undefined {
  if (values.length === 0) return undefined;
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, deviation: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 0, values };
}

/** The rows of an axis in its order; what is not measured yet has no numbers. */
export function measuredCases({ cases }: StudyAxis, lines: readonly Line[]): MeasuredCase[] {
  const points = ofKind(lines, 'point');
  const of = (point: Pick<Case, 'training' | 'sampling'>) => points.filter(({ id }) => id === pointId(point));
  return cases.map((one) => {
    const found = of(one);
    const field = (name: 'nfe' | 'headEvaluations' | 'distance' | 'agreement') =>
      spread(found.map((point) => point[name]));
    // The base samples by the schedule that it was trained with.
    const base = of({ training: BASE, sampling: { ...one.sampling, maskSchedule: 'exp' } });
    const pairs = found.flatMap((point) => {
      const other = base.find(({ seed }) => seed === point.seed);
      return other ? [point.distance > other.distance] : [];
    });
    return {
      values: one.values,
      training: one.training,
      cfg: one.sampling.cfg,
      seeds: found.length,
      nfe: field('nfe'),
      headEvaluations: field('headEvaluations'),
      distance: field('distance'),
      agreement: field('agreement'),
      worse:
        one.training === BASE || pairs.length === 0
          ? undefined
          : { seeds: pairs.filter(Boolean).length, of: pairs.length },
    };
  });
}

/** The file that is kept: a line a training and a point. */
export function resultJson(lines: readonly Line[]): string {
  const [header] = ofKind(lines, 'header');
  const starts = ofKind(lines, 'start');
  const rows = [...ofKind(lines, 'judge'), ...ofKind(lines, 'training'), ...ofKind(lines, 'point')];
  const [{ machine, command }] = starts;
  return reportJson({
    ...{ format: FORMAT, version: header.version, date: starts.at(-1)!.date, command },
    ...{ machine, options: header.options, starts, rows },
  });
}

/** The lines of a kept file. @throws EmigmError 'file' when it is none */
export function readResult(path: string): Line[] {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, 'utf8'));
  } catch (cause) {
    throw new EmigmError('file', `${path}: ${reason(cause)}`, { cause });
  }
  const shape = z.looseObject({
    format: z.literal(FORMAT),
    version: z.int(),
    options: z.unknown(),
    starts: z.array(z.unknown()),
    rows: z.array(z.unknown()),
  });
  const parsed = shape.safeParse(value);
  if (!parsed.success) throw new EmigmError('file', `${path}: no result of bench/ablation/run.ts`);
  const { version, options, starts, rows } = parsed.data;
  return parseLines([{ kind: 'header', version, options }, ...starts, ...rows], path);
}

/** The start that a report names: the last. */
export const lastStart = (lines: readonly Line[]): LineOf<'start'> => ofKind(lines, 'start').at(-1)!;
