/** What the commands around classifiers share. */
import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { EmigmError } from '../errors.ts';
import { type Agreement, classifyImages, type Verdict } from '../evaluation/agreement.ts';
import { ClassifierExtractor } from '../evaluation/classifier_extractor.ts';
import { readImages } from '../formats/images.ts';
import type { Device } from '../gpu/device.ts';
import { packageFolder } from '../gpu/node.ts';
import type { ClassifierInfo } from '../models/classifier.ts';
import { Classifier } from '../models/classifier_network.ts';
import type { Io } from './io.ts';
import { grouped, table } from './options.ts';
import { createProgress } from './progress.ts';

/** The classifier that judges when none is named: the one that the package carries. */
export const shippedClassifier = () => join(packageFolder(), 'weights', 'clothing32-classifier.safetensors');

/** Images at once. */
export const CLASSIFIER_BATCH = 64;

/** `classifier clothing32-classifier`: what figures by a file are called by. */
export const classifierName = (path: string): string => `classifier ${basename(path).replace(/\.safetensors$/, '')}`;

/** @throws EmigmError as `Classifier.open` does */
export async function openExtractor(
  device: Device,
  path: string,
  digest?: string,
): Promise<{ extractor: ClassifierExtractor; info: ClassifierInfo }> {
  if (!existsSync(path)) {
    throw new EmigmError('file', `${path}: no such file; emigm train-classifier makes classifiers`);
  }
  const { classifier, info } = await Classifier.open(device, path);
  return { extractor: new ClassifierExtractor(classifier, classifierName(path), digest), info };
}

/** What a classifier takes each picture for. */
export async function classifyFiles(
  extractor: ClassifierExtractor,
  paths: readonly string[],
  { batch = CLASSIFIER_BATCH, quiet }: { batch?: number; quiet?: boolean },
  io: Io,
): Promise<Verdict[]> {
  const progress = createProgress(io, { label: 'classifying', total: paths.length, quiet });
  try {
    return await classifyImages(extractor, readImages(paths, 2 * batch), {
      batch,
      onProgress: (done) => progress.update(done, `${grouped(done)} of ${grouped(paths.length)}`),
      signal: io.signal,
    });
  } finally {
    progress.stop();
  }
}

export const percent = (share: number) => `${(100 * share).toFixed(1)} %`;

/** `77.0 % ± 3.0 %` */
export const percentOf = ({ share, deviation }: Agreement) => `${percent(share)} ± ${percent(deviation)}`;

/** A row a class: how many of its images are taken for it, and what else they are taken for most often. */
export function agreementTable({ classes }: Agreement, names: readonly string[]): string {
  const rows = classes.map(({ label, images, right, confused }) => [
    names[label],
    `${right} of ${images}`,
    percent(right / images),
    confused ? `${confused.images} taken for ${names[confused.label]}` : '',
  ]);
  return table(rows, [1, 2]);
}
