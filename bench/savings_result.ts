import { table } from '../src/cli/options.ts';
import { frechetDistance } from '../src/evaluation/frechet.ts';
import { Moments, type Statistics } from '../src/evaluation/moments.ts';
import { quantile } from '../src/measurement/statistics.ts';
import type { SampleSettings } from '../src/sampling/settings.ts';

/** Settings beside the exact ones. */
export interface SavingPoint {
  name: string;
  settings: Partial<SampleSettings>;
}

export const EXACT = 'exact';

/** One batch of one point. */
export interface Batch {
  point: string;
  round: number;
  images: number;
  seconds: number;
  /** Sums over all 8-bit values of the absolute and of the squared difference from the exact images. */
  absolute: number;
  squared: number;
  values: number;
  /** Images that the classifier takes for the class asked for. */
  right: number;
  /** [images, dimensions], little-endian float32 in base64. */
  features: string;
}

/** What a point runs, known without a clock. */
export interface Work {
  /** Network evaluations an image; a step whose encoder is reused counts as one. */
  nfe: number;
  /** Rows through the head, an image. */
  headEvaluations: number;
  /** Of an image, in all and by part. */
  gflops: number;
  parts: Record<string, number>;
}

export interface SavingRow extends Work {
  point: string;
  settings: Partial<SampleSettings>;
  images: number;
  /** Medians over rounds, in which every point draws the same images; `ratio`: exact over this, and its quartiles. */
  secondsAnImage: number;
  faster: number;
  quartiles: [number, number];
  /** From the exact images of the same seed, in grey levels of 255: mean absolute difference, root of the mean square. */
  difference: { mean: number; rms: number };
  /** Share of images taken for the class asked for. */
  agreement: number;
  /** To the photographs; its difference from the exact setting's, with a delete-a-round jackknife's deviation. */
  frechet?: { distance: number; more: number; deviation: number };
}

const FLOATS = 4;

function decode(features: string): Float32Array {
  const bytes = Buffer.from(features, 'base64');
  return Float32Array.from({ length: bytes.length / FLOATS }, (_, i) => bytes.readFloatLE(FLOATS * i));
}

export const encode = (features: Float32Array): string =>
  Buffer.from(features.buffer, features.byteOffset, features.byteLength).toString('base64');

function statistics(batches: readonly Batch[], dimensions: number, range: number): Statistics {
  const moments = new Moments(dimensions, range);
  for (const { features } of batches) moments.add(decode(features));
  return moments.statistics();
}

/**
 * Figures of each point over the rounds that all points have. `reference`: statistics of photographs' features, of the
 * network that made those of the batches.
 */
export function rowsOf(
  points: readonly SavingPoint[],
  works: ReadonlyMap<string, Work>,
  batches: readonly Batch[],
  reference: Statistics | undefined,
  features: { dimensions: number; range: number },
): SavingRow[] {
  const of = (point: string) => batches.filter((batch) => batch.point === point);
  const rounds = [...new Set(batches.map(({ round }) => round))].filter((round) =>
    points.every(({ name }) => of(name).some((batch) => batch.round === round)),
  );
  const whole = (point: string) => of(point).filter(({ round }) => rounds.includes(round));
  const exact = whole(EXACT).sort((a, b) => a.round - b.round);
  const distance = (own: readonly Batch[]) =>
    frechetDistance(statistics(own, features.dimensions, features.range), reference!);
  const without = (own: readonly Batch[], round: number) => own.filter((batch) => batch.round !== round);
  const exactWithout = new Map(reference ? rounds.map((round) => [round, distance(without(exact, round))]) : []);
  return points.map(({ name, settings }): SavingRow => {
    const own = whole(name).sort((a, b) => a.round - b.round);
    const sum = (field: 'images' | 'absolute' | 'squared' | 'values' | 'right') =>
      own.reduce((total, batch) => total + batch[field], 0);
    const ratios = own.map(({ seconds }, i) => exact[i].seconds / seconds);
    const seconds = own.map((batch) => batch.seconds / batch.images);
    let frechet: SavingRow['frechet'];
    if (reference) {
      const left = rounds.map((round) => distance(without(own, round)) - exactWithout.get(round)!);
      const mean = left.reduce((a, b) => a + b, 0) / left.length;
      const spread = left.reduce((total, value) => total + (value - mean) ** 2, 0);
      const whole = distance(own);
      frechet = {
        distance: whole,
        more: whole - distance(exact),
        deviation: Math.sqrt((spread * (left.length - 1)) / left.length),
      };
    }
    return {
      point: name,
      settings,
      ...works.get(name)!,
      images: sum('images'),
      secondsAnImage: quantile(seconds, 0.5),
      faster: quantile(ratios, 0.5),
      quartiles: [quantile(ratios, 0.25), quantile(ratios, 0.75)],
      difference: { mean: sum('absolute') / sum('values'), rms: Math.sqrt(sum('squared') / sum('values')) },
      agreement: sum('right') / sum('images'),
      frechet,
    };
  });
}

const signed = (value: number, digits: number) => `${value < 0 ? '-' : '+'}${Math.abs(value).toFixed(digits)}`;

export function savingsTable(rows: readonly SavingRow[]): string {
  const head = [
    'point',
    'NFE',
    'head rows',
    'GFLOP',
    's an image',
    'x faster',
    'mean diff.',
    'rms',
    'agreement',
    'FD',
    '',
  ];
  const cells = rows.map((row) => [
    row.point,
    String(row.nfe),
    String(row.headEvaluations),
    row.gflops.toFixed(3),
    row.secondsAnImage.toFixed(3),
    `${row.faster.toFixed(2)} (${row.quartiles.map((q) => q.toFixed(2)).join('-')})`,
    row.difference.mean.toFixed(1),
    row.difference.rms.toFixed(1),
    `${(100 * row.agreement).toFixed(1)} %`,
    row.frechet ? row.frechet.distance.toFixed(2) : '-',
    row.frechet ? `${signed(row.frechet.more, 2)} ± ${row.frechet.deviation.toFixed(2)}` : '',
  ]);
  return table([head, ...cells], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
}

/** GFLOPs of an image by part, and all of the exact over all of it. */
export function workTable(works: ReadonlyMap<string, Work>): string {
  const parts = [...new Set([...works.values()].flatMap((work) => Object.keys(work.parts)))];
  const exact = works.get(EXACT)!.gflops;
  const cells = [...works].map(([name, { nfe, headEvaluations, gflops, parts: own }]) => [
    name,
    String(nfe),
    String(headEvaluations),
    ...parts.map((part) => (own[part] ?? 0).toFixed(1)),
    gflops.toFixed(1),
    (exact / gflops).toFixed(2),
  ]);
  const head = ['point', 'NFE', 'head rows', ...parts, 'GFLOP', 'x less'];
  return table([head, ...cells], head.map((_, i) => i).slice(1));
}
