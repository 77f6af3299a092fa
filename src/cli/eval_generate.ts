/** `emigm eval fid --generate`: figures of images that are drawn for it, in shards where there are many. */
import { existsSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
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
import type { RgbImage } from '../formats/rgb.ts';
import type { Device } from '../gpu/device.ts';
import { settingsFor } from '../index.ts';
import { checkTokenizer, type Tokenizer } from '../models/tokenizer.ts';
import { generatePictures } from '../sampling/generate.ts';
import type { SampleSettings } from '../sampling/settings.ts';
import { type Shard, shardName, shardRange, WHOLE } from '../sampling/shards.ts';
import type { Io } from './io.ts';
import { type ModelFlags, openOptions } from './model_flags.ts';
import { type DrawingModel, loadAny, makeFolder } from './open.ts';
import { grouped } from './options.ts';
import { createProgress } from './progress.ts';
import { resolveFile } from './pull.ts';
import { askedSettings, type SettingsFlags } from './settings_flags.ts';
import { openVae, type VaeFlags } from './vae_flags.ts';

export interface GenerateFlags extends ModelFlags, VaeFlags, Omit<SettingsFlags, 'batch' | 'order'> {
  generate?: number;
  model: string;
  drawBatch: number;
  revealOrder?: SettingsFlags['order'];
  state?: string;
  saveEvery: number;
  precisionRecall?: boolean;
}

export interface Generated {
  set: ImageSet;
  /** Images that this process drew; the others were there. */
  drawn: number;
  /** What was drawn, for JSON. */
  source: Record<string, unknown>;
}

/** What `--generate` cannot be combined with. @throws EmigmError 'input' */
export function checkGenerate(flags: GenerateFlags, shard: Shard | undefined): void {
  if (shard && !flags.state) {
    throw new EmigmError(
      'input',
      `shard ${shard.index} of ${shard.count} needs a folder for its sums: --state <folder>, the same for all shards`,
    );
  }
  if (flags.state && flags.precisionRecall) {
    throw new EmigmError('input', '--precision-recall needs the features of all images at once; leave out --state');
  }
}

/**
 * Draws the images of the shard (or all) and adds up their features. With `--state` the sums are kept from time to time,
 * and a run that was stopped or killed goes on from there.
 * @throws EmigmError 'input', 'file', 'memory', 'aborted'
 */
export async function generateSet(
  extractor: FeatureExtractor,
  device: Device,
  weights: string,
  flags: GenerateFlags,
  { shard = WHOLE, batch }: { shard?: Shard; batch: number },
  io: Io,
): Promise<Generated> {
  const images = flags.generate!;
  const { quiet, state, saveEvery } = flags;
  const path = await resolveFile(flags.model, io, { flag: '--model', pull: flags.pull, quiet });
  const model = await loadAny(path, { ...openOptions(flags), device, stored: flags.stored });
  try {
    const tokenizer = flags.vae === undefined ? undefined : await openVae(flags, device, io);
    try {
      if (tokenizer) checkTokenizer(model.config, tokenizer, flags.vae!);
      const settings = settingsFor(model, { ...askedSettings({ ...flags, batch, order: flags.revealOrder }) });
      const { first, end } = shardRange(images, shard);
      const about: ShardAbout = {
        version: 1,
        extractor: extractorFacts(extractor),
        weights,
        run: JSON.stringify({
          ...describeModel(model, path, flags),
          settings: { ...settings, seed: String(settings.seed) },
        }),
        images,
        first,
        end,
      };
      if (state) makeFolder(state);
      const file = state && join(state, shardName(shard, 'npz'));
      const keeping = { file, saveEvery, keepFeatures: flags.precisionRecall, quiet };
      const drawing = { settings, tokenizer, batch, drawBatch: flags.drawBatch };
      const { set, drawn } = await collectGenerated(extractor, model, about, { ...keeping, ...drawing }, io);
      return { set, drawn, source: { generated: images, ...JSON.parse(about.run) } };
    } finally {
      tokenizer?.dispose();
    }
  } finally {
    model.dispose();
  }
}

export interface CollectGeneratedOptions {
  settings: SampleSettings;
  tokenizer?: Tokenizer;
  /** Images at once: through the extractor, and drawn. */
  batch: number;
  drawBatch: number;
  /** Where sums are kept and taken up. */
  file?: string;
  saveEvery: number;
  keepFeatures?: boolean;
  label?: string;
  quiet?: boolean;
}

/** The images about.first .. about.end - 1, those that the file's sums have left; `drawn` counts them. */
export async function collectGenerated(
  extractor: FeatureExtractor,
  model: Parameters<typeof generatePictures>[0],
  about: ShardAbout,
  options: CollectGeneratedOptions,
  io: Io,
): Promise<{ set: ImageSet; drawn: number }> {
  const { file, settings, tokenizer, saveEvery, batch, drawBatch, keepFeatures, label = 'drawing', quiet } = options;
  const { first, end } = about;
  const kept = file && existsSync(file) ? await takeUp(file, about) : undefined;
  let set = kept ?? emptySet(extractor);
  const before = set.count;
  const progress = createProgress(io, { label, total: end - first - before, quiet });
  const drawing = { settings, first: first + before, end, batch: drawBatch, tokenizer, signal: io.signal };
  const pictures = generatePictures(model, drawing);
  try {
    while (first + set.count < end) {
      const done = set.count;
      const each = file ? saveEvery : end - first;
      const part = await collect(extractor, take(pictures, Math.min(each, end - first - done)), {
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
    await pictures.return(undefined);
  }
  return { set, drawn: set.count - before };
}

/** What the images depend on besides the settings. */
function describeModel({ config, info, network }: DrawingModel, path: string, flags: GenerateFlags) {
  return {
    model: { file: basename(path), bytes: statSync(path).size },
    name: info.name,
    weights: info.weights,
    config,
    stored: network.stored,
    vae: flags.vae && basename(flags.vae),
  };
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
