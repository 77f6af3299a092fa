/** How figures are told. */
import { type ExtractorFacts, figureNames, fullName } from '../evaluation/extractor.ts';
import type { Figure, Reference } from '../evaluation/figures.ts';
import type { Device } from '../gpu/device.ts';
import { WEIGHTS_HASH, type Weights } from './extractor_flags.ts';
import type { Io } from './io.ts';
import { grouped, table } from './options.ts';
import { duration } from './progress.ts';

/** Images that published figures are of. */
const PUBLISHED_COUNT = 50_000;
/** ADM's suite takes three neighbours. */
export const NEIGHBOURS = 3;

export interface ReportFlags {
  reference?: string;
  out?: string;
  splits: number;
  order: 'shuffled' | 'given';
  precisionRecall?: boolean;
  json?: boolean;
  quiet?: boolean;
}

export interface Result {
  extractor: ExtractorFacts;
  weights: Pick<Weights, 'hash'> & Partial<Weights>;
  /** Undefined where sums of earlier runs were added up. */
  device: Device | undefined;
  /** Where the images came from, for JSON. */
  source: Readonly<Record<string, unknown>>;
  count: number;
  /** Images that this process put through the network, those of the reference too; default: count. */
  passed?: number;
  reference: Reference | undefined;
  found: readonly Figure[];
  seconds: number;
}

/** Prints figures, and what is to be known of them. */
export function report(flags: ReportFlags, io: Io, result: Result): void {
  const { extractor, weights, device, source, count, reference, found, seconds } = result;
  const notes = notesOn(flags, result);
  if (flags.json) {
    const json = {
      features: fullName(extractor),
      weights: {
        file: weights.path,
        sha256: weights.hash,
        published: extractor.isInception ? weights.hash.startsWith(WEIGHTS_HASH) : undefined,
      },
      images: { ...source, count },
      reference: reference && { path: flags.reference, count: reference.statistics.count },
      figures: Object.fromEntries(found.map(({ name, value, deviation }) => [name, { value, deviation }])),
      settings: {
        splits: flags.splits,
        order: flags.order,
        neighbours: flags.precisionRecall ? NEIGHBOURS : undefined,
      },
      notes,
      statistics: flags.out,
      adapter: device?.name,
      driver: device?.driver,
      seconds,
    };
    io.out(JSON.stringify(json, null, 2));
    return;
  }
  const rows = found.map(({ name, value, deviation }) => [
    name,
    deviation === undefined ? value.toFixed(4) : `${value.toFixed(4)} ± ${deviation.toFixed(4)}`,
  ]);
  const against = reference ? ` against ${flags.reference}` : '';
  rows.push(['features', `${fullName(extractor)}, ${grouped(count)} images${against}`]);
  if (flags.out) rows.push(['statistics', flags.out]);
  io.out(table(rows));
  if (flags.quiet) return;
  for (const note of notes) io.err(`note: ${note}`);
  if (!device) return;
  const { passed = count } = result;
  io.err(`${device.name}: ${(passed / seconds).toFixed(1)} images a second, ${duration(seconds)} in all`);
}

/** What keeps the figures from being compared with published ones, or with each other. */
function notesOn(flags: ReportFlags, { extractor, weights, count, found }: Result): string[] {
  const notes: string[] = [];
  const { distance, score } = figureNames(extractor);
  const { isInception } = extractor;
  if (found.some(({ name }) => name === distance)) {
    if (!isInception) {
      notes.push(
        `this is no FID: it compares with distances by the same classifier, of ${grouped(count)} images too, and with no other`,
      );
    } else if (count < PUBLISHED_COUNT) {
      notes.push(
        `${distance} falls with the number of images: ${grouped(count)} here, ${grouped(PUBLISHED_COUNT)} in published figures`,
      );
    }
  }
  if (!found.some(({ name }) => name === score)) {
    notes.push(`no ${score}: ${flags.splits} splits need as many images`);
  }
  if (isInception && !weights.hash.startsWith(WEIGHTS_HASH)) {
    notes.push(
      `${weights.path ?? 'what the features were computed by'} is not the published file of Inception's weights, by its SHA-256`,
    );
  }
  return notes;
}
