/** Sums of features that are kept in a file from time to time: of images that are drawn, or of a folder's. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join, relative, sep } from 'node:path';
import { EmigmError } from '../errors.ts';
import { collect, type ImageSet } from '../evaluation/collect.ts';
import type { FeatureExtractor } from '../evaluation/extractor.ts';
import {
  difference,
  emptySet,
  extractorFacts,
  joinSets,
  readShard,
  type ShardAbout,
  writeShard,
} from '../evaluation/shard_file.ts';
import { readImages } from '../formats/images.ts';
import type { RgbImage } from '../formats/rgb.ts';
import { type Shard, shardName, shardRange, WHOLE } from '../sampling/shards.ts';
import type { Io } from './io.ts';
import { makeFolder } from './open.ts';
import { grouped } from './options.ts';
import { createProgress } from './progress.ts';

export interface StateFlags {
  state?: string;
  saveEvery: number;
  precisionRecall?: boolean;
}

/** What shards and kept sums cannot be combined with. @throws EmigmError 'input' */
export function checkState(flags: StateFlags, shard: Shard | undefined): void {
  if (shard && !flags.state) {
    throw new EmigmError(
      'input',
      `shard ${shard.index} of ${shard.count} needs a folder for its sums: --state <folder>, the same for all shards ` +
        '(--shard 0/1: all images)',
    );
  }
  if (flags.state && flags.precisionRecall) {
    throw new EmigmError('input', '--precision-recall needs the features of all images at once; leave out --state');
  }
}

/** Where the shard's sums are kept, its folder made; undefined without `--state`. */
export function stateFile({ state }: StateFlags, shard: Shard = WHOLE): string | undefined {
  if (state === undefined) return undefined;
  makeFolder(state, '--state');
  return join(state, shardName(shard, 'npz'));
}

export interface SumsOptions {
  /** Images at once through the extractor. */
  batch: number;
  /** Where sums are kept and taken up. */
  file?: string;
  /** Images between two times that they are. */
  saveEvery: number;
  keepFeatures?: boolean;
  label?: string;
  quiet?: boolean;
}

/**
 * Adds up the features of the images about.first .. about.end - 1, those that the file's sums have left;
 * `drawn` counts them. `pictures` gives the images of a range in order.
 * @throws EmigmError 'input' when the file is of another run; 'aborted', and as the pictures do
 */
export async function collectSums(
  extractor: FeatureExtractor,
  about: ShardAbout,
  pictures: (first: number, end: number) => AsyncGenerator<RgbImage>,
  { batch, file, saveEvery, keepFeatures, label = 'images', quiet }: SumsOptions,
  io: Io,
): Promise<{ set: ImageSet; drawn: number }> {
  const { first, end } = about;
  const kept = file && existsSync(file) ? await takeUp(file, about) : undefined;
  let set = kept ?? emptySet(extractor);
  const before = set.count;
  const progress = createProgress(io, { label, total: end - first - before, quiet });
  const rest = pictures(first + before, end);
  try {
    while (first + set.count < end) {
      const done = set.count;
      const each = file ? saveEvery : end - first;
      const part = await collect(extractor, take(rest, Math.min(each, end - first - done)), {
        batch,
        keepFeatures,
        signal: io.signal,
        onProgress: (count) =>
          progress.update(done - before + count, `${grouped(done + count)} of ${grouped(end - first)}`),
      });
      set = joinSets(set, part);
      if (file) await writeShard(file, { about, set });
    }
    if (file && end === first) await writeShard(file, { about, set });
  } finally {
    progress.stop();
    await rest.return(undefined);
  }
  return { set, drawn: set.count - before };
}

/**
 * The shard's range of a folder's pictures (or all), added up as `collectSums` does.
 * @throws EmigmError 'input', 'file', 'aborted'
 */
export async function folderSet(
  extractor: FeatureExtractor,
  weights: string,
  { folder, paths }: { folder: string; paths: readonly string[] },
  flags: StateFlags & { quiet?: boolean },
  { shard = WHOLE, batch }: { shard?: Shard; batch: number },
  io: Io,
): Promise<{ set: ImageSet; drawn: number }> {
  const file = stateFile(flags, shard);
  const about: ShardAbout = {
    version: 1,
    extractor: extractorFacts(extractor),
    weights,
    run: JSON.stringify(file ? { pictures: await listDigest(folder, paths) } : {}),
    images: paths.length,
    ...shardRange(paths.length, shard),
  };
  const pictures = (first: number, end: number) => readImages(paths.slice(first, end), 2 * batch);
  const { saveEvery, precisionRecall, quiet } = flags;
  const options = { batch, file, saveEvery, keepFeatures: precisionRecall, quiet };
  return collectSums(extractor, about, pictures, options, io);
}

/** SHA-256 over names below the folder and sizes: shards of another state of the folder do not fit together. */
async function listDigest(folder: string, paths: readonly string[]): Promise<string> {
  const hash = createHash('sha256');
  for (const path of paths) {
    const name = relative(folder, path).split(sep).join('/');
    let size: number;
    try {
      ({ size } = await stat(path));
    } catch (cause) {
      throw new EmigmError('file', `${path}: no such file`, { cause });
    }
    hash.update(`${name}\0${size}\n`);
  }
  return hash.digest('hex');
}

/** The sums that are there. @throws EmigmError 'input' when they are of another run */
async function takeUp(file: string, about: ShardAbout): Promise<ImageSet> {
  const kept = await readShard(file);
  const other = difference(kept.about, about);
  if (other) {
    throw new EmigmError('input', `${file} is of another run (${other} differs); name another folder for the sums`);
  }
  return kept.set;
}

/** The next `count` images; the rest stays for the next call. */
async function* take(images: AsyncGenerator<RgbImage>, count: number): AsyncGenerator<RgbImage> {
  for (let i = 0; i < count; i++) {
    const { value, done } = await images.next();
    if (done) return;
    yield value;
  }
}
