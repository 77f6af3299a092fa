/** Which network's features figures are computed from, and where its weights come from. */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import { type FeatureExtractor, type FeatureSource, INCEPTION_NAME } from '../evaluation/extractor.ts';
import { InceptionExtractor } from '../evaluation/inception_extractor.ts';
import type { Device } from '../gpu/device.ts';
import { openClassifier } from '../models/classifier.ts';
import { FEATURE_SIZES, loadInception } from '../models/inception/inception.ts';
import { CLASSIFIER_BATCH, classifierName, openExtractor, shippedClassifier } from './classifier_flags.ts';

/** Where Inception's weights are published, and the first digits of their SHA-256. */
export const WEIGHTS_URL =
  'https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth';
export const WEIGHTS_HASH = '6726825d';

/** `--extractor` for FID's own network, and for the classifier that the package carries. */
export const INCEPTION = 'inception';
const SHIPPED = 'clothing32';

export interface ExtractorFlags {
  extractor?: string;
  inception?: string;
  sfid?: boolean;
}

/** A file of weights. */
export interface Weights {
  path: string;
  /** SHA-256 of the file. */
  hash: string;
}

/** A network that was chosen and found, not loaded yet. */
export interface ChosenExtractor {
  weights: Weights;
  /** What its features are known by in files. */
  source: FeatureSource;
  /** Images at once, unless told otherwise. */
  batch(device: Device): number;
  /** @throws EmigmError 'file', 'model', 'memory' */
  load(device: Device): Promise<FeatureExtractor>;
}

export function addExtractorFlags(command: Command): void {
  command
    .addOption(
      new Option(
        '--extractor <network>',
        `whose features: ${INCEPTION}, or a classifier of emigm train-classifier: its file, or ${SHIPPED} for the shipped one`,
      ).default(INCEPTION),
    )
    .option('--inception <file>', "Inception's weights (also EMIGM_INCEPTION)");
}

/**
 * Finds what the flags name, before anything is computed.
 * @throws EmigmError 'input', 'file' saying where to get the weights, 'model' when a file is no classifier
 */
export async function chooseExtractor(flags: ExtractorFlags): Promise<ChosenExtractor> {
  const { extractor = INCEPTION, inception, sfid } = flags;
  if (extractor === INCEPTION) {
    const weights = await findWeights(inception);
    return {
      weights,
      source: { name: INCEPTION_NAME, isInception: true, dimensions: FEATURE_SIZES['2048'] },
      batch: ({ isCpu }) => (isCpu ? 4 : 32),
      load: async (device) => new InceptionExtractor(await loadInception(device, weights.path), { spatial: sfid }),
    };
  }
  if (inception !== undefined) {
    throw new EmigmError('input', `--inception and --extractor ${extractor} name two networks; leave one out`);
  }
  if (sfid) throw new EmigmError('input', "--sfid is of Inception's features; leave it out with --extractor");
  const path = extractor === SHIPPED && !existsSync(SHIPPED) ? shippedClassifier() : extractor;
  if (!existsSync(path)) {
    throw new EmigmError(
      'file',
      `--extractor ${path}: no such file; give ${INCEPTION}, ${SHIPPED} or a classifier's file`,
    );
  }
  const file = await openClassifier(path);
  await file.close();
  const weights = { path, hash: await hashOf(path) };
  const digest = weights.hash.slice(0, 8);
  return {
    weights,
    source: { name: classifierName(path), isInception: false, digest, dimensions: file.config.width },
    batch: () => CLASSIFIER_BATCH,
    load: async (device) => (await openExtractor(device, path, digest)).extractor,
  };
}

/** The file that the flag or EMIGM_INCEPTION names. @throws EmigmError 'input', 'file' saying where to get it */
async function findWeights(flag: string | undefined): Promise<Weights> {
  const path = flag ?? process.env.EMIGM_INCEPTION;
  const get = `download ${WEIGHTS_URL} and name the file by --inception or EMIGM_INCEPTION`;
  if (!path) {
    throw new EmigmError(
      'input',
      `Inception's weights are needed: ${get}; for small data --extractor takes a classifier`,
    );
  }
  if (!existsSync(path)) throw new EmigmError('file', `${path}: no such file; for Inception's weights ${get}`);
  return { path, hash: await hashOf(path) };
}

/** SHA-256 of a file. */
async function hashOf(path: string): Promise<string> {
  const hash = createHash('sha256');
  try {
    for await (const chunk of createReadStream(path)) hash.update(chunk);
  } catch (cause) {
    throw new EmigmError('file', `${path}: ${(cause as Error).message}`, { cause });
  }
  return hash.digest('hex');
}
