/** `emigm eval fid --generate`: figures of images that are drawn for it, in shards where there are many. */
import { statSync } from 'node:fs';
import { basename } from 'node:path';
import type { ImageSet } from '../evaluation/collect.ts';
import type { FeatureExtractor } from '../evaluation/extractor.ts';
import { extractorFacts, type ShardAbout } from '../evaluation/shard_file.ts';
import type { Device } from '../gpu/device.ts';
import { settingsFor } from '../index.ts';
import { type DrawingModel, loadAny } from '../models/load_any.ts';
import { checkTokenizer, type Tokenizer } from '../models/tokenizer.ts';
import { generatePictures } from '../sampling/generate.ts';
import type { SampleSettings } from '../sampling/settings.ts';
import { type Shard, shardRange, WHOLE } from '../sampling/shards.ts';
import { collectSums, type StateFlags, type SumsOptions, stateFile } from './eval_sums.ts';
import type { Io } from './io.ts';
import { type ModelFlags, openOptions } from './model_flags.ts';
import { resolveFile } from './pull.ts';
import { askedSettings, type SettingsFlags } from './settings_flags.ts';
import { openVae, type VaeFlags } from './vae_flags.ts';

export interface GenerateFlags extends ModelFlags, VaeFlags, StateFlags, Omit<SettingsFlags, 'batch' | 'order'> {
  generate?: number;
  model: string;
  drawBatch: number;
  revealOrder?: SettingsFlags['order'];
}

export interface Generated {
  set: ImageSet;
  /** Images that this process drew; the others were there. */
  drawn: number;
  /** What was drawn, for JSON. */
  source: Record<string, unknown>;
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
  const { quiet, saveEvery } = flags;
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
      const keeping = { file: stateFile(flags, shard), saveEvery, keepFeatures: flags.precisionRecall, quiet };
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

export interface CollectGeneratedOptions extends SumsOptions {
  settings: SampleSettings;
  tokenizer?: Tokenizer;
  /** Images drawn at once. */
  drawBatch: number;
}

/** The images about.first .. about.end - 1, those that the file's sums have left; `drawn` counts them. */
export async function collectGenerated(
  extractor: FeatureExtractor,
  model: Parameters<typeof generatePictures>[0],
  about: ShardAbout,
  { settings, tokenizer, drawBatch, label = 'drawing', ...options }: CollectGeneratedOptions,
  io: Io,
): Promise<{ set: ImageSet; drawn: number }> {
  const pictures = (first: number, end: number) =>
    generatePictures(model, { settings, first, end, batch: drawBatch, tokenizer, signal: io.signal });
  return collectSums(extractor, about, pictures, { ...options, label }, io);
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
