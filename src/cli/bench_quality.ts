/** `emigm bench nfe --quality`: how good the images of each setting are, beside how long they take. */
import { statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { EmigmError } from '../errors.ts';
import { fullName, INCEPTION_NAME } from '../evaluation/extractor.ts';
import { checkExtractor, figures, statisticsOf } from '../evaluation/figures.ts';
import { extractorFacts, type ShardAbout } from '../evaluation/shard_file.ts';
import { readStatistics } from '../evaluation/statistics_file.ts';
import { crc32 } from '../formats/crc32.ts';
import { type Point, pointId } from '../measurement/point.ts';
import type { Line, Quality } from '../measurement/schema.ts';
import { settingsOf, type Workbench } from '../measurement/workbench.ts';
import { presets } from '../models/config.ts';
import { collectGenerated } from './eval_generate.ts';
import { chooseExtractor, type ExtractorFlags, INCEPTION } from './extractor_flags.ts';
import type { Io } from './io.ts';
import { makeFolder } from './open.ts';

export interface QualityFlags extends ExtractorFlags {
  quality?: number;
  reference?: string;
  seed: number;
  vae?: string;
  out: string;
  quiet?: boolean;
}

/** Images between two times that sums are kept, and splits of the score. */
const SAVE_EVERY = 2000;
const SPLITS = 10;

/** Told before anything is measured. @throws EmigmError 'input', 'file' */
export async function checkQuality(points: readonly Point[], flags: QualityFlags): Promise<void> {
  if (!flags.quality) {
    const { reference, inception, extractor = INCEPTION } = flags;
    const flag = reference ? '--reference' : inception ? '--inception' : extractor !== INCEPTION ? '--extractor' : '';
    if (flag) throw new EmigmError('input', `${flag} counts with --quality: add that, or leave ${flag} out`);
    return;
  }
  const random = points.find(({ model }) => presets[model]);
  if (random) throw new EmigmError('input', `--quality needs trained weights; ${random.model} has random ones`);
  if (flags.quality < 2) throw new EmigmError('input', '--quality needs two images or more');
  if (!flags.reference && flags.quality < SPLITS) {
    throw new EmigmError('input', `--quality without --reference needs ${SPLITS} images or more, for the score`);
  }
  const { source } = await chooseExtractor(flags);
  if (flags.reference) checkExtractor(source, await readStatistics(flags.reference));
}

/**
 * Measures each setting once; points that differ in their batch alone have the same images. What is there already, of as
 * many images and this reference, is not measured again, and a setting that was stopped goes on.
 * @throws EmigmError as drawing does
 */
export async function measureQuality(
  bench: Workbench,
  points: readonly Point[],
  lines: readonly Line[],
  add: (line: Line) => void,
  flags: QualityFlags,
  io: Io,
): Promise<void> {
  const images = flags.quality!;
  const chosen = await chooseExtractor(flags);
  const { weights, source } = chosen;
  const features = fullName(source);
  const reference = flags.reference === undefined ? undefined : await readStatistics(flags.reference);
  const against = flags.reference === undefined ? '' : basename(flags.reference);
  const isKnown = (id: string) =>
    lines.some((line) => {
      if (line.kind !== 'quality' || line.id !== id) return false;
      return line.quality.every(
        ({ extractor = INCEPTION_NAME, ...one }) =>
          one.images === images && one.reference === against && extractor === features,
      );
    });
  const groups = new Map<string, Point[]>();
  for (const point of points) {
    if (isKnown(pointId(point))) continue;
    const key = pointId({ ...point, batch: 1 });
    groups.set(key, [...(groups.get(key) ?? []), point]);
  }
  const sums = join(flags.out, 'quality');
  if (groups.size > 0) makeFolder(sums);
  for (const [key, group] of groups) {
    const [point] = group;
    const model = await bench.model(point);
    const { device, config, info, tokenizer } = model;
    const extractor = await chosen.load(device);
    try {
      const settings = settingsOf(point, info, flags.seed);
      const run = {
        point: key,
        model: { file: basename(point.model), bytes: statSync(point.model).size },
        config,
        vae: flags.vae && basename(flags.vae),
        settings: { ...settings, seed: String(settings.seed) },
      };
      const about: ShardAbout = {
        ...{ version: 1, extractor: extractorFacts(extractor), weights: weights.hash, run: JSON.stringify(run) },
        ...{ images, first: 0, end: images },
      };
      const name = crc32(new TextEncoder().encode([key, images, ...(source.isInception ? [] : [features])].join(' ')))
        .toString(16)
        .padStart(8, '0');
      const options = {
        ...{ settings, tokenizer, file: join(sums, `${name}.npz`), saveEvery: SAVE_EVERY, quiet: flags.quiet },
        batch: chosen.batch(device),
        drawBatch: Math.max(...group.map(({ batch }) => batch)),
        label: `quality of ${key}`,
      };
      const { set } = await collectGenerated(extractor, { ...model, info }, about, options, io);
      const found = await figures(extractor, set, statisticsOf(extractor, set), reference, { splits: SPLITS });
      const quality: Quality[] = found.map((figure) => ({
        name: figure.name,
        value: figure.value,
        images,
        reference: against,
        extractor: features,
      }));
      for (const one of group) add({ kind: 'quality', id: pointId(one), quality });
    } finally {
      extractor.dispose();
    }
  }
}
