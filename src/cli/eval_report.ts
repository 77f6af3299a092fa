/** Where Inception's weights come from, and how figures are told. */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { EmigmError } from '../errors.ts';
import { type ExtractorFacts, figureNames } from '../evaluation/extractor.ts';
import type { Figure, Reference } from '../evaluation/figures.ts';
import type { Device } from '../gpu/device.ts';
import type { Io } from './io.ts';
import { grouped, table } from './options.ts';
import { duration } from './progress.ts';

/** Where the weights are published, and the first digits of their SHA-256. */
export const WEIGHTS_URL =
  'https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth';
const WEIGHTS_HASH = '6726825d';
/** Images that published figures are of. */
const PUBLISHED_COUNT = 50_000;
/** ADM's suite takes three neighbours. */
export const NEIGHBOURS = 3;

/** A file of Inception's weights. */
export interface Weights {
  path: string;
  /** SHA-256 of the file. */
  hash: string;
}

/** The file that the flag or EMIGM_INCEPTION names. @throws EmigmError 'input', 'file' saying where to get it */
export async function findWeights(flag: string | undefined): Promise<Weights> {
  const path = flag ?? process.env.EMIGM_INCEPTION;
  const get = `download ${WEIGHTS_URL} and name the file by --inception or EMIGM_INCEPTION`;
  if (!path) throw new EmigmError('input', `Inception's weights are needed: ${get}`);
  if (!existsSync(path)) throw new EmigmError('file', `${path}: no such file; for Inception's weights ${get}`);
  const hash = createHash('sha256');
  try {
    for await (const chunk of createReadStream(path)) hash.update(chunk);
  } catch (cause) {
    throw new EmigmError('file', `${path}: ${(cause as Error).message}`, { cause });
  }
  return { path, hash: hash.digest('hex') };
}

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
  /** Images of this process, where earlier ones did a part. */
  drawn?: number;
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
      features: extractor.name,
      weights: { file: weights.path, sha256: weights.hash, published: weights.hash.startsWith(WEIGHTS_HASH) },
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
  rows.push(['features', `${extractor.name}, ${grouped(count)} images${against}`]);
  if (flags.out) rows.push(['statistics', flags.out]);
  io.out(table(rows));
  if (flags.quiet) return;
  for (const note of notes) io.err(`note: ${note}`);
  if (!device) return;
  const { drawn = count } = result;
  io.err(`${device.name}: ${(drawn / seconds).toFixed(1)} images a second, ${duration(seconds)} in all`);
}

/** What keeps the figures from being compared with published ones. */
function notesOn(flags: ReportFlags, { extractor, weights, count, found }: Result): string[] {
  const notes: string[] = [];
  const { distance, score } = figureNames(extractor);
  if (found.some(({ name }) => name === distance) && count < PUBLISHED_COUNT) {
    notes.push(
      `${distance} falls with the number of images: ${grouped(count)} here, ${grouped(PUBLISHED_COUNT)} in published figures`,
    );
  }
  if (!found.some(({ name }) => name === score)) {
    notes.push(`no ${score}: ${flags.splits} splits need as many images`);
  }
  if (!weights.hash.startsWith(WEIGHTS_HASH)) {
    notes.push(
      `${weights.path ?? 'what the features were computed by'} is not the published file of Inception's weights, by its SHA-256`,
    );
  }
  return notes;
}
