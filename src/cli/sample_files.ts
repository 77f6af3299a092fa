/** What drawing all images and drawing a shard of them have in common: flags, names of files, the JSON beside them. */
import type { GeneratedImage } from '../index.ts';
import { tuningText } from '../gpu/tuning.ts';
import { isDiscrete } from '../models/discrete/config.ts';
import type { DrawingModel } from '../models/load_any.ts';
import type { Tokenizer } from '../models/tokenizer.ts';
import { axesOfRun, modelAxes } from '../sampling/axes.ts';
import { decodePictures } from '../sampling/decode.ts';
import type { SampleStats } from '../sampling/sample.ts';
import type { SampleSettings } from '../sampling/settings.ts';
import type { Io } from './io.ts';
import type { OpenFlags } from './open.ts';
import type { FirstImage } from './sample_start.ts';
import type { SettingsFlags } from './settings_flags.ts';
import type { ShardFlags } from './shard_flags.ts';
import type { VaeFlags } from './vae_flags.ts';
import { versions } from './versions.ts';

export interface SampleFlags extends OpenFlags, SettingsFlags, VaeFlags, ShardFlags {
  class: string;
  count: number;
  firstIndex: number;
  out: string;
  saveSteps?: boolean;
  sheetOnly?: boolean;
  quiet?: boolean;
}

/** An image to draw: its class, and its number among those of the class. */
export interface Job {
  classNumber: number;
  number: number;
}

/** A tokenizer, and what became of it in the run. */
export interface Decoding {
  tokenizer: Tokenizer;
  file: string;
  /** Seconds for the images themselves, without those of --save-steps. */
  seconds: number;
}

/** The images of a batch, with pictures of latents as they are decoded. */
export async function* withPictures(
  batch: readonly GeneratedImage[],
  model: DrawingModel,
  vae: Decoding | undefined,
  io: Io,
): AsyncGenerator<GeneratedImage> {
  if (!vae) return yield* batch;
  const { tokenizer } = vae;
  let before = tokenizer.seconds.decode;
  let next = 0;
  const latents = batch.map((image) => image.latents);
  for await (const image of decodePictures(model, tokenizer, latents, io.signal)) {
    vae.seconds += tokenizer.seconds.decode - before;
    before = tokenizer.seconds.decode;
    yield { ...batch[next++], image };
  }
}

/** `t-shirt-0003.png`; characters that file systems refuse become `_`. */
export function fileName(className: string, number: number, extension = 'png'): string {
  return `${className.replace(/[^\p{L}\p{N}._-]+/gu, '_')}-${String(number).padStart(4, '0')}.${extension}`;
}

/** Models of codes have no diffusion head. */
function withoutHead({ headSteps: _, headSampler: __, ...rest }: SampleSettings): Partial<SampleSettings> {
  return rest;
}

/** Everything that makes the images again, and how long they took. */
export function describe(
  flags: SampleFlags,
  model: DrawingModel,
  settings: SampleSettings,
  stats: SampleStats,
  drawn: readonly Job[],
  name: (number: number) => string,
  vae: Decoding | undefined,
  firstImage: FirstImage | undefined,
): Record<string, unknown> {
  const { device, info, config } = model;
  const { parts } = stats.seconds;
  const timed = Object.values(parts).reduce((a, b) => a + b, 0);
  const total = stats.seconds.total + (vae?.seconds ?? 0);
  return {
    model: { file: flags.model, name: info.name, maskToken: info.maskToken, stored: flags.stored ?? 'default' },
    vae: vae && {
      file: vae.file,
      kind: vae.tokenizer.kind,
      scale: info.dataScale ?? vae.tokenizer.scale,
    },
    config,
    settings: { ...(isDiscrete(config) ? withoutHead(settings) : settings), seed: Number(settings.seed) },
    preset: flags.preset,
    axes: axesOfRun(modelAxes(config, info), settings),
    batch: flags.batch,
    adapter: device.name,
    driver: device.driver,
    // Images of other kernels differ in their last bits.
    kernels: { choice: tuningText(device.tuning), asked: flags.kernel },
    versions: versions(),
    date: new Date().toISOString(),
    command: ['emigm', ...process.argv.slice(2)].join(' '),
    nfe: stats.nfe,
    headEvaluations: stats.headEvaluations,
    dispatches: stats.dispatches,
    seconds: {
      ...stats.seconds,
      total,
      anImage: stats.images > 0 ? total / stats.images : undefined,
      // The rest is the device's other kernels and the time between them.
      parts:
        timed > 0 || vae
          ? { ...parts, rest: stats.seconds.total - timed + (parts.rest ?? 0), decode: vae?.seconds }
          : undefined,
      firstImage,
    },
    images: drawn.map(({ classNumber, number }) => ({
      file: flags.sheetOnly ? undefined : fileName(name(classNumber), number),
      class: name(classNumber),
      classNumber,
      index: number,
    })),
  };
}
