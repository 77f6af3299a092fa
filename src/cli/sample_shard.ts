/** `emigm sample --shard i/n`: a part of the images, in a folder that all parts share. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { EmigmError } from '../errors.ts';
import { reason, writeAtomically } from '../formats/files.ts';
import { writePng } from '../formats/images.ts';
import { writeSafetensors } from '../formats/safetensors.ts';
import { sampleStream } from '../index.ts';
import type { DrawingModel } from '../models/load_any.ts';
import { emptyStats } from '../sampling/sample.ts';
import type { SampleSettings } from '../sampling/settings.ts';
import { type Shard, shardName, shardRange } from '../sampling/shards.ts';
import type { Io } from './io.ts';
import { createProgress, duration } from './progress.ts';
import { type StartClock, startText } from './sample_start.ts';
import { type Decoding, describe, fileName, type Job, type SampleFlags, withPictures } from './sample_files.ts';

/** `shard-003-of-008.json`: what a shard draws, and whether it has. */
export interface ShardSidecar {
  /** All that the images depend on; the same in every shard of a run. */
  readonly run: Readonly<Record<string, unknown>>;
  readonly shard: Shard;
  readonly isDone: boolean;
  /** Files of this shard: pictures, or one of latents. */
  readonly images: readonly { file?: string; class: string; classNumber: number; index: number }[];
  /** Files of latents, for models that make them. */
  readonly latents?: string;
  readonly [more: string]: unknown;
}

/** @throws EmigmError 'input' for what needs all images at once */
export function checkShard(flags: SampleFlags): void {
  for (const name of ['saveSteps', 'sheetOnly'] as const) {
    const flag = name === 'saveSteps' ? '--save-steps' : '--sheet-only';
    if (flags[name]) throw new EmigmError('input', `${flag} needs all images at once; leave it out, or --shard`);
  }
}

interface ShardRun {
  flags: SampleFlags;
  model: DrawingModel;
  vae: Decoding | undefined;
  settings: SampleSettings;
  /** Of all shards together. */
  jobs: readonly Job[];
  name: (classNumber: number) => string;
  shard: Shard;
  start: StartClock;
}

/**
 * Draws the shard's images that are not there yet. Pictures are written as they are made and only whole, so that what a
 * killed run has made is not made again.
 * @throws EmigmError 'input' when the folder holds a shard of another run; as drawing does
 */
export async function drawShard(
  { flags, model, vae, settings, jobs, name, shard, start }: ShardRun,
  io: Io,
): Promise<void> {
  const began = performance.now();
  const { config, info } = model;
  const { out, quiet } = flags;
  const { first, end } = shardRange(jobs.length, shard);
  const own = jobs.slice(first, end);
  const pictures = (config.vaeStride === 1 && config.channels === 3) || vae !== undefined;
  const path = join(out, shardName(shard, 'json'));
  const sized = (file: string) => ({ file: basename(file), bytes: existsSync(file) ? statSync(file).size : undefined });
  const run = {
    model: { ...sized(flags.model), name: info.name, stored: model.network.stored },
    vae: vae && sized(vae.file),
    settings: { ...settings, seed: String(settings.seed) },
    images: jobs.length,
    classes: [...new Set(jobs.map(({ classNumber }) => classNumber))],
    firstIndex: flags.firstIndex,
  };
  const before = readSidecar(path);
  if (before && JSON.stringify(before.run) !== JSON.stringify(JSON.parse(JSON.stringify(run)))) {
    throw new EmigmError('input', `${path} is of another run; name another --out folder, or remove the shard's files`);
  }
  const file = (job: Job) => join(out, fileName(name(job.classNumber), job.number));
  const latents = shardName(shard, 'safetensors');
  const isThere = pictures ? (job: Job) => existsSync(file(job)) : () => existsSync(join(out, latents));
  // Pictures without a note of what they are may be of another run.
  const left = before ? own.filter((job) => !isThere(job)) : own;
  const stats = emptyStats();
  const note = (isDone: boolean) => {
    const { images, ...about } = describe(flags, model, settings, stats, own, name, vae, start.first);
    const listed = (images as ShardSidecar['images']).map((image) =>
      pictures ? image : { ...image, file: undefined },
    );
    const all = { run, shard, isDone, ...(!pictures && { latents }), images: listed, ...about };
    return writeAtomically(path, (put) => put(Buffer.from(`${JSON.stringify(all, null, 2)}\n`)));
  };
  if (!before) await note(false);
  const progress = createProgress(io, { label: 'drawing', total: left.length, quiet });
  const kept: Float32Array[] = [];
  try {
    const request = {
      ...settings,
      classes: left.map(({ classNumber }) => classNumber),
      indices: left.map(({ number }) => number),
      batch: flags.batch,
      signal: io.signal,
    };
    let done = 0;
    for await (const batch of left.length > 0 ? sampleStream(model, request, stats) : []) {
      for await (const { image, latents: drawn } of withPictures(batch, model, vae, io)) {
        if (image) await writePng(file(left[done]), image);
        else kept.push(drawn);
        start.image(stats.seconds.prepare);
        progress.update(++done, `${done} of ${left.length} images`);
      }
    }
  } finally {
    progress.stop();
  }
  if (!pictures && left.length > 0) await writeLatentShard(join(out, latents), kept, left, config.channels);
  if (left.length > 0 || !before?.isDone) await note(true);
  if (quiet) return;
  const there = own.length - left.length;
  const images = `${left.length} images${there > 0 ? `, ${there} were there` : ''}`;
  io.out(`shard ${shard.index} of ${shard.count}: ${images}; ${duration((performance.now() - began) / 1000)}`);
  if (start.first) io.out(startText(start.first));
  io.err(`when all shards are done: emigm merge ${out}`);
}

async function writeLatentShard(path: string, drawn: readonly Float32Array[], jobs: readonly Job[], channels: number) {
  const side = Math.sqrt(drawn[0].length / channels);
  const latents = new Float32Array(drawn.length * drawn[0].length);
  for (const [i, one] of drawn.entries()) latents.set(one, i * one.length);
  const labels = Int32Array.from(jobs, ({ classNumber }) => classNumber);
  await writeSafetensors(
    path,
    [
      { name: 'latents', dtype: 'F32', shape: [drawn.length, channels, side, side], data: latents },
      { name: 'labels', dtype: 'I32', shape: [drawn.length], data: labels },
    ],
    {},
  );
}

/** The note of a shard; undefined where there is none. @throws EmigmError 'file' when it is damaged */
export function readSidecar(path: string): ShardSidecar | undefined {
  if (!existsSync(path)) return undefined;
  try {
    const value: ShardSidecar = JSON.parse(readFileSync(path, 'utf8'));
    if (typeof value.isDone !== 'boolean' || !value.run || !Array.isArray(value.images)) {
      throw new SyntaxError('no note of a shard');
    }
    return value;
  } catch (cause) {
    throw new EmigmError('file', `${path}: ${reason(cause)}; remove it and run the shard again`, { cause });
  }
}
