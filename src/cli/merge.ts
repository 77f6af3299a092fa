/** `emigm merge`: the shards of a run as one. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import { figures, statisticsOf } from '../evaluation/figures.ts';
import { mergeShards } from '../evaluation/shard_file.ts';
import { readStatistics, writeStatistics } from '../evaluation/statistics_file.ts';
import { writeAtomically } from '../formats/files.ts';
import { openSafetensors, writeSafetensors } from '../formats/safetensors.ts';
import { completeSet, unfinished } from '../sampling/shards.ts';
import { report } from './eval_report.ts';
import type { Io } from './io.ts';
import { checkOutFile } from './open.ts';
import { grouped, oneOf, positiveInteger } from './options.ts';
import { readSidecar, type ShardSidecar } from './sample_shard.ts';

export interface MergeFlags {
  out?: string;
  reference?: string;
  splits: number;
  order: 'shuffled' | 'given';
  json?: boolean;
  quiet?: boolean;
}

export function registerMerge(program: Command, io: Io): void {
  program
    .command('merge')
    .summary('put the shards of a run together')
    .description(
      'Of emigm eval fid --state: adds the sums of all shards, exactly, and prints the figures.\n' +
        'Of emigm sample: checks that all shards are done and writes sample.json, and one file of all latents.',
    )
    .argument('<folder>', 'the folder that the shards share')
    .option('-o, --out <file>', 'write the statistics of all images as .npz')
    .option('-r, --reference <file>', 'statistics to compare with (.npz with mu and sigma)')
    .option('--splits <n>', 'splits of the Inception Score', positiveInteger, 10)
    .addOption(
      new Option('--order <name>', 'images of the splits: shuffled as torch-fidelity does, or given')
        .argParser(oneOf(['shuffled', 'given']))
        .default('shuffled'),
    )
    .option('--json', 'print JSON')
    .option('-q, --quiet', 'print results and errors alone')
    .addHelpText(
      'after',
      '\nExamples:\n  emigm merge run --reference imagenet256.npz --out b-256.npz\n  emigm merge out',
    )
    .action((folder: string, flags: MergeFlags) => merge(folder, flags, io));
}

/** @throws EmigmError 'input' naming shards that are missing or of another run, 'file' */
export async function merge(folder: string, flags: MergeFlags, io: Io): Promise<void> {
  if (!existsSync(folder) || !statSync(folder).isDirectory()) {
    throw new EmigmError('file', `${folder}: no such folder`);
  }
  checkOutFile(flags.out);
  const names = readdirSync(folder);
  const sums = completeSet(names, 'npz', folder);
  const notes = completeSet(names, 'json', folder);
  if (sums && notes) throw new EmigmError('input', `${folder} has shards of sums and of pictures; keep them apart`);
  const paths = (list: readonly string[]) => list.map((name) => join(folder, name));
  if (sums) return mergeSums(folder, paths(sums), flags, io);
  if (notes) return mergePictures(folder, paths(notes), flags, io);
  throw new EmigmError('input', `${folder}: has no shards (shard-000-of-008.npz or .json)`);
}

async function mergeSums(folder: string, paths: readonly string[], flags: MergeFlags, io: Io): Promise<void> {
  const missing: number[] = [];
  const { about, set } = await mergeShards(paths, (index) => missing.push(index));
  if (missing.length > 0) throw unfinished(missing, paths.length, folder);
  if (set.count !== about.images) {
    throw new EmigmError('input', `${folder}: ${set.count} images in the shards of a run of ${about.images}`);
  }
  const { extractor } = about;
  const run: Record<string, unknown> = JSON.parse(about.run);
  const began = performance.now();
  const sample = statisticsOf(extractor, set);
  if (flags.out) await writeStatistics(flags.out, sample);
  const reference = flags.reference ? await readStatistics(flags.reference) : undefined;
  const found = await figures(extractor, set, sample, reference, flags);
  report(flags, io, {
    ...{ extractor, found, reference, device: undefined, count: set.count, weights: { hash: about.weights } },
    source: { ...(!('pictures' in run) && { generated: about.images }), shards: paths.length, ...run },
    seconds: (performance.now() - began) / 1000,
  });
}

async function mergePictures(folder: string, paths: readonly string[], flags: MergeFlags, io: Io): Promise<void> {
  const notes = paths.map((path) => readSidecar(path)!);
  const [first] = notes;
  const other = notes.findIndex(({ run }) => JSON.stringify(run) !== JSON.stringify(first.run));
  if (other >= 0) throw new EmigmError('input', `${paths[other]} is of another run than ${paths[0]}`);
  const lacks = ({ isDone, images, latents }: ShardSidecar) =>
    !isDone ||
    (images.length > 0 && latents !== undefined && !existsSync(join(folder, latents))) ||
    images.some(({ file }) => file !== undefined && !existsSync(join(folder, file)));
  const missing = notes.flatMap((note, i) => (lacks(note) ? [i] : []));
  if (missing.length > 0) throw unfinished(missing, notes.length, folder);
  const images = notes.flatMap((note) => note.images);
  const files = notes.flatMap((note) => (note.latents && note.images.length > 0 ? [join(folder, note.latents)] : []));
  if (files.length > 0) await mergeLatents(join(folder, 'latents.safetensors'), files);
  const { run, shard, isDone, latents, seconds, images: _, adapter, driver, date, ...about } = first;
  const shards = notes.map((note) => {
    return {
      images: note.images.length,
      adapter: note.adapter,
      driver: note.driver,
      seconds: note.seconds,
      date: note.date,
    };
  });
  const path = join(folder, 'sample.json');
  const sidecar = { ...about, shards, images };
  await writeAtomically(path, (put) => put(Buffer.from(`${JSON.stringify(sidecar, null, 2)}\n`)));
  if (flags.json) io.out(JSON.stringify({ images: images.length, shards: notes.length, sidecar: path }));
  else if (!flags.quiet) io.out(`${path} lists ${grouped(images.length)} images of ${notes.length} shards`);
}

/** One file of all latents and labels, read one shard after the other. */
async function mergeLatents(path: string, files: readonly string[]): Promise<void> {
  const parts: { latents: Float32Array; labels: Int32Array; shape: readonly number[] }[] = [];
  for (const file of files) {
    const shard = await openSafetensors(file);
    try {
      const latents = await shard.readFloat32('latents');
      const labels = (await shard.read('labels')).data as Int32Array;
      parts.push({ latents, labels, shape: shard.tensors.get('latents')!.shape });
    } finally {
      await shard.close();
    }
  }
  const count = parts.reduce((sum, { labels }) => sum + labels.length, 0);
  const [{ shape }] = parts;
  const size = shape.slice(1).reduce((a, b) => a * b, 1);
  const latents = new Float32Array(count * size);
  const labels = new Int32Array(count);
  let at = 0;
  for (const part of parts) {
    latents.set(part.latents, at * size);
    labels.set(part.labels, at);
    at += part.labels.length;
  }
  await writeSafetensors(
    path,
    [
      { name: 'latents', dtype: 'F32', shape: [count, ...shape.slice(1)], data: latents },
      { name: 'labels', dtype: 'I32', shape: [count], data: labels },
    ],
    {},
  );
}
