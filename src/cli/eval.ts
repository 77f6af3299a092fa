/** `emigm eval`: how good images are, by the figures of the field. */
import { existsSync, statSync } from 'node:fs';
import { Command, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import { collect, type ImageSet } from '../evaluation/collect.ts';
import { deviceProducts } from '../evaluation/device_products.ts';
import type { FeatureExtractor, FeatureSource } from '../evaluation/extractor.ts';
import { checkExtractor, type Figure, figures, type Reference, statisticsOf } from '../evaluation/figures.ts';
import { readStatistics, type StatisticsFile, writeStatistics } from '../evaluation/statistics_file.ts';
import { readImages } from '../formats/images.ts';
import { listPictures } from '../formats/picture_list.ts';
import type { Device } from '../gpu/device.ts';
import { openDevice } from '../ops/open_device.ts';
import type { Shard } from '../sampling/shards.ts';
import { addDeviceFlags, type DeviceFlags, deviceOptions } from './device_flags.ts';
import { type Generated, type GenerateFlags, generateSet } from './eval_generate.ts';
import { NEIGHBOURS, report } from './eval_report.ts';
import { checkState, folderSet } from './eval_sums.ts';
import { addExtractorFlags, chooseExtractor, type ExtractorFlags, WEIGHTS_URL } from './extractor_flags.ts';
import type { Io } from './io.ts';
import { addModelFlags } from './model_flags.ts';
import { checkOutFile, shippedModel } from './open.ts';
import { grouped, oneOf, positiveInteger } from './options.ts';
import { createProgress } from './progress.ts';
import { addSettingsFlags } from './settings_flags.ts';
import { addShardFlag, type ShardFlags, shardOf } from './shard_flags.ts';
import { addVaeFlags } from './vae_flags.ts';

export interface FidFlags extends DeviceFlags, GenerateFlags, ShardFlags, ExtractorFlags {
  images?: string;
  reference?: string;
  out?: string;
  batch?: number;
  splits: number;
  order: 'shuffled' | 'given';
  sfid?: boolean;
  json?: boolean;
}

export function registerEval(program: Command, io: Io): void {
  const evaluation = program
    .command('eval')
    .summary('measure how good images are')
    .description('Measures images against a data set.')
    .addHelpText(
      'after',
      '\nExample:\n  emigm eval fid --images out --reference imagenet256.npz \\\n' + '      --inception weights.pth',
    );
  const fid = evaluation
    .command('fid')
    .summary('FID, Inception Score, sFID, precision and recall')
    .description(
      'Computes FID and Inception Score as torch-fidelity defines them, and sFID, precision and recall (k = 3) as ADM does. ' +
        'Images are taken as they are; bring references to their size beforehand.\n' +
        'With --extractor the features of a classifier take the place of those of Inception, for small data. Figures are ' +
        'named after it. It sees images resized and centre-cropped to its size, as in its training.',
    )
    .option('-i, --images <folder>', 'images to measure; folders in it are looked into')
    .option('-g, --generate <n>', 'draw so many images instead, of all classes equally many', positiveInteger)
    .option(
      '-r, --reference <path>',
      'what to compare with: statistics (.npz with mu and sigma) or a folder of images',
    );
  addExtractorFlags(fid);
  fid
    .option('-o, --out <file>', "write the images' statistics as .npz, to be a reference later")
    .option(
      '-b, --batch <n>',
      'images at once (default: 32 on GPUs, 4 on CPU drivers; 64 through a classifier)',
      positiveInteger,
    )
    .option('--splits <n>', 'splits of the Inception Score', positiveInteger, 10)
    .addOption(
      new Option('--order <name>', 'images of the splits: shuffled as torch-fidelity does, or given')
        .argParser(oneOf(['shuffled', 'given']))
        .default('shuffled'),
    )
    .option('--sfid', 'sFID too')
    .option('--state <folder>', 'keep sums there: a run that was stopped goes on, and emigm merge adds shards up')
    .option('--save-every <n>', 'images between two times that the sums are kept', positiveInteger, 2000)
    .option('--precision-recall', 'precision and recall too; the reference must be images')
    .option('--json', 'print JSON')
    .option('-q, --quiet', 'print results and errors alone')
    .addHelpText(
      'after',
      `\nInception's weights: ${WEIGHTS_URL}\n` +
        "(pytorch-fid's pt_inception-2015-12-05-6726825d.pth holds the same).\n" +
        '\nExamples:\n' +
        '  emigm eval fid --images out --reference stats.npz \\\n' +
        '      --inception weights-inception-2015-12-05-6726825d.pth\n' +
        '  emigm eval fid --images imagenet256 --out imagenet256.npz --sfid\n' +
        '  emigm eval fid --images out --reference val256 --precision-recall --json\n' +
        '  emigm eval fid --generate 50000 --model b-256.safetensors \\\n' +
        '      --vae kl16.ckpt --reference imagenet256.npz\n' +
        '  emigm eval fid --images out --state sums --shard 3/8\n' +
        '  emigm eval fid --generate 200 --extractor clothing32 --reference clothing/test',
    )
    .action((flags: FidFlags) => {
      const odd = forGenerate.find((option) => fid.getOptionValueSource(option.attributeName()) === 'cli');
      if (odd && flags.generate === undefined) fid.error(`error: ${odd.long} counts with --generate: leave it out`);
      if ((flags.images === undefined) === (flags.generate === undefined)) {
        fid.error('error: name the images to measure: either --images <folder> or --generate <n>');
      }
      return evaluateFid(flags, io);
    });
  addShardFlag(fid);
  addDeviceFlags(fid, { draws: true });
  const before = new Set(fid.options);
  addGenerateFlags(fid);
  const forGenerate = fid.options.filter((option) => !before.has(option));
}

/** Flags that count with `--generate` alone. */
function addGenerateFlags(fid: Command): void {
  fid
    .optionsGroup('With --generate:')
    .addOption(new Option('-m, --model <file>', 'the model').default(shippedModel(), 'the shipped clothing32'))
    .option('--draw-batch <n>', 'images drawn at once; changes speed and memory, not the images', positiveInteger, 16)
    .addOption(
      new Option('--reveal-order <name>', 'random, halton or checkerboard').argParser(
        oneOf(['random', 'halton', 'checkerboard']),
      ),
    );
  addVaeFlags(fid);
  addModelFlags(fid);
  // --order and --batch are of the evaluation here.
  for (const option of addSettingsFlags(new Command()).options) {
    if (!['order', 'batch'].includes(option.attributeName())) fid.addOption(option);
  }
}

/** @throws EmigmError 'input', 'file', 'model', 'adapter', 'memory', 'aborted' */
export async function evaluateFid(flags: FidFlags, io: Io): Promise<void> {
  if (flags.stored !== undefined && flags.stored !== 'f32' && flags.images !== undefined) {
    throw new EmigmError(
      'input',
      `--stored ${flags.stored}: features are defined in single precision; leave the flag out`,
    );
  }
  if (flags.precisionRecall && !(flags.reference && isFolder(flags.reference))) {
    throw new EmigmError('input', '--precision-recall needs a folder of images as --reference');
  }
  const shard = shardOf(flags);
  checkState(flags, shard);
  checkOutFile(flags.out);
  const paths = flags.images === undefined ? [] : await listPictures(flags.images);
  const against = flags.reference && isFolder(flags.reference) ? await listPictures(flags.reference) : [];
  if ((flags.generate ?? paths.length) < 2) {
    throw new EmigmError('input', 'figures are of two images or more: a single one has no covariance');
  }
  const chosen = await chooseExtractor(flags);
  const { weights } = chosen;
  const statistics = await referenceStatistics(chosen.source, flags);
  const began = performance.now();
  const device = await openDevice(deviceOptions(flags));
  try {
    const extractor = await chosen.load(device);
    try {
      const batch = flags.batch ?? chosen.batch(device);
      const generated =
        flags.generate === undefined
          ? undefined
          : await generateSet(extractor, device, weights.hash, flags, { shard, batch }, io);
      const folder = { folder: flags.images ?? '', paths };
      const { set, drawn } =
        generated ?? (await folderSet(extractor, weights.hash, folder, flags, { shard, batch }, io));
      if (shard) return tellShard(shard, { set, drawn }, flags, io);
      const sample = statisticsOf(extractor, set);
      if (flags.out) await writeStatistics(flags.out, sample);
      const reference =
        against.length > 0
          ? statisticsOf(extractor, await features(extractor, against, 'reference', batch, flags, io))
          : statistics;
      const found = await measure(extractor, set, sample, reference, device, flags, io);
      report(flags, io, {
        extractor,
        weights,
        device,
        source: generated?.source ?? { path: flags.images },
        count: set.count,
        passed: drawn + against.length,
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

/** Figures need all shards: emigm merge computes them. */
function tellShard(
  { index, count }: Shard,
  { set, drawn }: Pick<Generated, 'set' | 'drawn'>,
  flags: FidFlags,
  io: Io,
): void {
  if (flags.quiet) return;
  const what = drawn < set.count ? `, ${grouped(drawn)} of them now` : '';
  io.out(`shard ${index} of ${count}: ${grouped(set.count)} images${what}; sums are in ${flags.state}`);
  io.err(`when all shards are done: emigm merge ${flags.state}`);
}

const isFolder = (path: string) => existsSync(path) && statSync(path).isDirectory();

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
    return await collect(extractor, readImages(paths, 2 * batch), {
      batch,
      keepFeatures: flags.precisionRecall,
      signal: io.signal,
      onProgress: (done) => progress.update(done, `${grouped(done)} of ${grouped(paths.length)}`),
    });
  } finally {
    progress.stop();
  }
}

/** The statistics that are given as a file: read before anything is computed. */
async function referenceStatistics(
  source: FeatureSource,
  { reference, sfid }: FidFlags,
): Promise<StatisticsFile | undefined> {
  if (reference === undefined || isFolder(reference)) return undefined;
  const statistics = await readStatistics(reference);
  checkExtractor(source, statistics);
  if (sfid && !statistics.spatial) {
    throw new EmigmError('input', `${reference}: has no mu_s and sigma_s for sFID; leave --sfid out or give images`);
  }
  return statistics;
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
