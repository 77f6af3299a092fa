/** All figures of a set of images, by the names that their features allow. */
import { EmigmError } from '../errors.ts';
import type { ImageSet } from './collect.ts';
import { type ExtractorFacts, type FeatureSource, figureNames, fullName } from './extractor.ts';
import { frechetDistance } from './frechet.ts';
import { inceptionScore, type InceptionScoreOptions } from './inception_score.ts';
import type { Statistics } from './moments.ts';
import { points, precisionRecall, type PrecisionRecallOptions } from './precision_recall.ts';
import type { StatisticsFile } from './statistics_file.ts';

export interface Figure {
  /** `FID`; with another network than Inception a name that says which. */
  readonly name: string;
  readonly value: number;
  /** Over the splits, for scores. */
  readonly deviation?: number;
}

/** What images are compared with: a statistics file, or images. */
export interface Reference extends StatisticsFile {
  /** For precision and recall. */
  readonly features?: Float32Array;
}

export interface FigureOptions extends InceptionScoreOptions {
  /** Compute precision and recall too; both sets need their features. */
  precisionRecall?: PrecisionRecallOptions;
}

/** The statistics of a set, as they are written to a file and compared. */
export function statisticsOf(extractor: ExtractorFacts, set: ImageSet): Reference {
  return {
    statistics: set.moments.statistics(),
    spatial: set.spatial?.statistics(),
    extractor: fullName(extractor),
    features: set.features,
  };
}

/**
 * The figures that can be computed: distances with a reference, a score where the network classifies and there are as
 * many images as splits, precision and recall where asked for.
 * @throws EmigmError 'input' when the reference was made by another network, or has no images for precision and recall
 */
export async function figures(
  extractor: ExtractorFacts,
  set: ImageSet,
  sample: Reference,
  reference: Reference | undefined,
  { splits = 10, order, precisionRecall: neighbours }: FigureOptions = {},
): Promise<Figure[]> {
  const names = figureNames(extractor);
  const found: Figure[] = [];
  if (reference) {
    checkExtractor(extractor, reference);
    const distance = (a: Statistics, b: Statistics) => Math.max(0, frechetDistance(a, b)); // rounding may give -1e-14
    found.push({ name: names.distance, value: distance(sample.statistics, reference.statistics) });
    if (sample.spatial && reference.spatial) {
      found.push({ name: names.spatial, value: distance(sample.spatial, reference.spatial) });
    }
  }
  if (set.logits && extractor.classes && set.count >= splits) {
    const { mean, deviation } = inceptionScore(set.logits, extractor.classes, { splits, order });
    found.push({ name: names.score, value: mean, deviation });
  }
  if (neighbours) {
    if (!reference?.features || !sample.features) {
      throw new EmigmError('input', 'precision and recall need the images of the reference; statistics do not do');
    }
    const d = extractor.dimensions;
    const [real, made] = [points(reference.features, d), points(sample.features, d)];
    const { precision, recall } = await precisionRecall(real, made, neighbours);
    found.push({ name: names.precision, value: precision }, { name: names.recall, value: recall });
  }
  return found;
}

/**
 * Statistics that do not say what they are of are taken for Inception's, as published ones are.
 * @throws EmigmError 'input' when they are of other features
 */
export function checkExtractor(source: FeatureSource, { extractor, statistics }: StatisticsFile): void {
  const name = fullName(source);
  if (extractor !== undefined && extractor !== name) {
    throw new EmigmError('input', `the reference statistics are of ${extractor}, the images' of ${name}`);
  }
  if (statistics.mean.length !== source.dimensions) {
    const what = `the reference statistics are of ${statistics.mean.length} features, ${name} has ${source.dimensions}`;
    throw new EmigmError('input', what);
  }
  if (extractor === undefined && !source.isInception) {
    throw new EmigmError('input', `the reference statistics do not say that they are of ${name}; give images instead`);
  }
}
