/** `emigm eval`: how good images are, by the figures of the field. */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, statSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import { collect, type ImageSet } from '../evaluation/collect.ts';
import { deviceProducts } from '../evaluation/device_products.ts';
import { type FeatureExtractor, figureNames } from '../evaluation/extractor.ts';
import { checkExtractor, type Figure, figures, type Reference, statisticsOf } from '../evaluation/figures.ts';
import { InceptionExtractor } from '../evaluation/inception_extractor.ts';
import { readStatistics, writeStatistics } from '../evaluation/statistics_file.ts';
import { readImage } from '../formats/images.ts';
import { listPictures } from '../formats/picture_list.ts';
import type { RgbImage } from '../formats/rgb.ts';
import { Device } from '../gpu/device.ts';
import { loadInception } from '../models/inception/inception.ts';
import { addDeviceFlags, type DeviceFlags, deviceOptions } from './device_flags.ts';
import type { Io } from './io.ts';
import { grouped, oneOf, positiveInteger, table } from './options.ts';
import { createProgress, duration } from './progress.ts';

/** Where the weights are published, and the first digits of their SHA-256. */
const WEIGHTS_URL =
  'https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth';
const WEIGHTS_HASH = '6726825d';
/** Images that published figures are of. */
const PUBLISHED_COUNT = 50_000;
/** ADM's suite takes three neighbours. */
const NEIGHBOURS = 3;

export interface FidFlags extends DeviceFlags {
  images: string;
  reference?: string;
  inception?: string;
  out?: string;
  batch?: number;
  splits: number;
  order: 'shuffled' | 'given';
  sfid?: boolean;
  precisionRecall?: boolean;
  json?: boolean;
  quiet?: boolean;
}

export function registerEval(program: Command, io: Io): void {
  const evaluation = program
    .command('eval')
    .summary('measure how good images are')
    .description('Measures images against a data set.')
    .addHelpText(
      'after',
      '\nExample:\n  emigm eval fid --images out --reference imagenet256.npz --inception weights.pth',
    );
  const fid = evaluation
    .command('fid')
    .summary('FID, Inception Score, sFID, precision and recall')
    .description(
      'Computes FID and Inception Score as torch-fidelity defines them, and sFID, precision and recall (k = 3) as ADM\n' +
        'does. Images are taken as they are; bring references to their size beforehand.',
    )
    .requiredOption('-i, --images <folder>', 'images to measure; folders in it are looked into')
    .option('-r, --reference <path>', 'what to compare with: statistics (.npz with mu and sigma) or a folder of images')
    .option('--inception <file>', "Inception's weights (also EMIGM_INCEPTION)")
    .option('-o, --out <file>', "write the images' statistics as .npz, to be a reference later")
    .option('-b, --batch <n>', 'images at once (default: 32 on GPUs, 4 on CPU drivers)', positiveInteger)
    .option('--splits <n>', 'splits of the Inception Score', positiveInteger, 10)
    .addOption(
      new Option('--order <name>', 'images of the splits: shuffled as torch-fidelity does, or given')
        .argParser(oneOf(['shuffled', 'given']))
        .default('shuffled'),
    )
    .option('--sfid', 'sFID too')
    .option('--precision-recall', 'precision and recall too; the reference must be images')
    .option('--json', 'print JSON')
    .option('-q, --quiet', 'print results and errors alone')
    .addHelpText(
      'after',
      `\nInception's weights: ${WEIGHTS_URL}\n` +
        "(pytorch-fid's pt_inception-2015-12-05-6726825d.pth holds the same).\n" +
        '\nExamples:\n' +
        '  emigm eval fid --images out --reference stats.npz --inception weights-inception-2015-12-05-6726825d.pth\n' +
        '  emigm eval fid --images imagenet256 --out imagenet256.npz --sfid\n' +
        '  emigm eval fid --images out --reference val256 --precision-recall --json',
    )
    .action((flags: FidFlags) => evaluateFid(flags, io));
  addDeviceFlags(fid);
}

/** @throws EmigmError 'input', 'file', 'model', 'adapter', 'memory', 'aborted' */
export async function evaluateFid(flags: FidFlags, io: Io): Promise<void> {
  if (flags.stored === 'f16') {
    throw new EmigmError('input', '--stored f16: features are defined in single precision; leave the flag out');
  }
  if (flags.precisionRecall && !(flags.reference && isFolder(flags.reference))) {
    throw new EmigmError('input', '--precision-recall needs a folder of images as --reference');
  }
  const paths = await listPictures(flags.images);
  const weights = await findWeights(flags.inception);
  const began = performance.now();
  const device = await Device.open(deviceOptions(flags));
  try {
    const extractor = new InceptionExtractor(await loadInception(device, weights.path), { spatial: flags.sfid });
    try {
      const batch = flags.batch ?? (device.isCpu ? 4 : 32);
      const set = await features(extractor, paths, 'images', batch, flags, io);
      const sample = statisticsOf(extractor, set);
      if (flags.out) await writeStatistics(flags.out, sample);
      const reference = flags.reference ? await readReference(extractor, flags.reference, batch, flags, io) : undefined;
      const found = await measure(extractor, set, sample, reference, device, flags, io);
      report(flags, io, {
        extractor,
        weights,
        device,
        set,
        reference,
        found,
        seconds: (performance.now() - began) / 1000,
      });
    } finally {
      extractor.dispose();
    }
  } finally {
    device.dispose();
  }
}

const isFolder = (path: string) => existsSync(path) && statSync(path).isDirectory();

interface Weights {
  path: string;
  /** SHA-256 of the file. */
  hash: string;
}

async function findWeights(flag: string | undefined): Promise<Weights> {
  const path = flag ?? process.env.EMIGM_INCEPTION;
  const get = `download ${WEIGHTS_URL} and name the file by --inception or EMIGM_INCEPTION`;
  if (!path) throw new EmigmError('input', `Inception's weights are needed: ${get}`);
  if (!existsSync(path)) throw new EmigmError('file', `${path}: no such file; for Inception's weights ${get}`);
  const hash = createHash('sha256');
  try {
    for await (const chunk of createReadStream(path)) hash.update(chunk);
  } catch (cause) {
    throw new EmigmError('file', `${path}: ${(cause as Error).message}`, { cause });
  }
  return { path, hash: hash.digest('hex') };
}

async function features(
  extractor: FeatureExtractor,
  paths: readonly string[],
  label: string,
  batch: number,
  flags: FidFlags,
  io: Io,
): Promise<ImageSet> {
  const progress = createProgress(io, { label, total: paths.length, quiet: flags.quiet });
  try {
    return await collect(extractor, pictures(paths, 2 * batch), {
      batch,
      keepFeatures: flags.precisionRecall,
      signal: io.signal,
      onProgress: (done) => progress.update(done, `${grouped(done)} of ${grouped(paths.length)}`),
    });
  } finally {
    progress.stop();
  }
}

/** Pictures in order, `ahead` of them being decoded. */
async function* pictures(paths: readonly string[], ahead: number): AsyncGenerator<RgbImage> {
  const waiting: Promise<RgbImage>[] = [];
  for (let next = 0, i = 0; i < paths.length; i++) {
    for (; next < Math.min(paths.length, i + ahead); next++) {
      const picture = readImage(paths[next]);
      picture.catch(() => undefined); // thrown when its turn comes
      waiting.push(picture);
    }
    yield await waiting.shift()!;
  }
}

async function readReference(
  extractor: FeatureExtractor,
  path: string,
  batch: number,
  flags: FidFlags,
  io: Io,
): Promise<Reference> {
  if (isFolder(path)) {
    return statisticsOf(extractor, await features(extractor, await listPictures(path), 'reference', batch, flags, io));
  }
  const reference = await readStatistics(path);
  checkExtractor(extractor, reference);
  if (flags.sfid && !reference.spatial) {
    throw new EmigmError('input', `${path}: has no mu_s and sigma_s for sFID; leave --sfid out or give images`);
  }
  return reference;
}

async function measure(
  extractor: FeatureExtractor,
  set: ImageSet,
  sample: Reference,
  reference: Reference | undefined,
  device: Device,
  flags: FidFlags,
  io: Io,
): Promise<Figure[]> {
  const progress = createProgress(io, { label: 'neighbours', total: 1000, quiet: flags.quiet });
  try {
    return await figures(extractor, set, sample, reference, {
      splits: flags.splits,
      order: flags.order,
      precisionRecall: flags.precisionRecall
        ? {
            k: NEIGHBOURS,
            products: deviceProducts(device),
            onProgress: (share) => progress.update(1000 * share),
            signal: io.signal,
          }
        : undefined,
    });
  } finally {
    progress.stop();
  }
}

interface Result {
  extractor: FeatureExtractor;
  weights: Weights;
  device: Device;
  set: ImageSet;
  reference: Reference | undefined;
  found: readonly Figure[];
  seconds: number;
}

function report(flags: FidFlags, io: Io, result: Result): void {
  const { extractor, weights, device, set, reference, found, seconds } = result;
  const notes = notesOn(flags, result);
  if (flags.json) {
    const json = {
      features: extractor.name,
      weights: { file: weights.path, sha256: weights.hash, published: weights.hash.startsWith(WEIGHTS_HASH) },
      images: { path: flags.images, count: set.count },
      reference: reference && { path: flags.reference, count: reference.statistics.count },
      figures: Object.fromEntries(found.map(({ name, value, deviation }) => [name, { value, deviation }])),
      settings: {
        splits: flags.splits,
        order: flags.order,
        neighbours: flags.precisionRecall ? NEIGHBOURS : undefined,
      },
      notes,
      statistics: flags.out,
      adapter: device.name,
      driver: device.driver,
      seconds,
    };
    io.out(JSON.stringify(json, null, 2));
    return;
  }
  const rows = found.map(({ name, value, deviation }) => [
    name,
    deviation === undefined ? value.toFixed(4) : `${value.toFixed(4)} ± ${deviation.toFixed(4)}`,
  ]);
  const against = reference ? ` against ${flags.reference}` : '';
  rows.push(['features', `${extractor.name}, ${grouped(set.count)} images${against}`]);
  if (flags.out) rows.push(['statistics', flags.out]);
  io.out(table(rows));
  if (flags.quiet) return;
  for (const note of notes) io.err(`note: ${note}`);
  io.err(`${device.name}: ${(set.count / seconds).toFixed(1)} images a second, ${duration(seconds)} in all`);
}

/** What keeps the figures from being compared with published ones. */
function notesOn(flags: FidFlags, { extractor, weights, set, found }: Result): string[] {
  const notes: string[] = [];
  const { distance, score } = figureNames(extractor);
  if (found.some(({ name }) => name === distance) && set.count < PUBLISHED_COUNT) {
    notes.push(
      `${distance} falls with the number of images: ${grouped(set.count)} here, ${grouped(PUBLISHED_COUNT)} in published figures`,
    );
  }
  if (!found.some(({ name }) => name === score)) {
    notes.push(`no ${score}: ${flags.splits} splits need as many images`);
  }
  if (!weights.hash.startsWith(WEIGHTS_HASH)) {
    notes.push(`${weights.path} is not the published file of Inception's weights, by its SHA-256`);
  }
  return notes;
}
