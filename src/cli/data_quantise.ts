/** `emigm data quantise`: a codebook of pixel patches, for models of codes. */
import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import { EmigmError } from '../errors.ts';
import { writeCodebook } from '../formats/codebook.ts';
import { MOST_CODES } from '../models/discrete/config.ts';
import { openTrainingData } from '../training/data/open.ts';
import type { TrainingData } from '../training/data/types.ts';
import { fitCodebook, imagePatches } from '../training/quantise.ts';
import type { Io } from './io.ts';
import { grouped, positiveInteger, wholeNumber } from './options.ts';
import { createProgress } from './progress.ts';

export interface QuantiseFlags {
  data: string;
  out: string;
  patch: number;
  codes: number;
  size: number;
  patches: number;
  iterations: number;
  seed: number;
  skipUnreadable?: boolean;
  threads?: number;
  force?: boolean;
  quiet?: boolean;
}

export function registerQuantise(data: Command, io: Io): void {
  data
    .command('quantise')
    .summary('fit a codebook of pixel patches')
    .description(
      'Fits a codebook of patches of pictures by k-means, for models of codes: emigm train --preset maskgit or mdm. ' +
        'The result depends on the data, the numbers below and the seed alone.',
    )
    .requiredOption('--data <path>', 'class folders of pictures, or a shard')
    .requiredOption('-o, --out <file>', 'the .safetensors file to write')
    .option('--patch <n>', 'pixels of a side of a patch', positiveInteger, 4)
    .option('--codes <n>', `codes of the codebook, at most ${MOST_CODES}`, positiveInteger, 512)
    .option('--size <n>', 'pixels of a side of a picture, cropped as for training', positiveInteger, 32)
    .option('--patches <n>', 'patches that it is fitted on, at most', positiveInteger, 32768)
    .option('--iterations <n>', 'iterations, at most', positiveInteger, 50)
    .option('--seed <n>', 'of the pictures taken and the first codes', wholeNumber, 0)
    .option('--skip-unreadable', 'go on with a warning where a file cannot be read')
    .option('--threads <n>', 'decoding threads; default: all cores but one', positiveInteger)
    .option('--force', 'replace the file if it exists')
    .option('-q, --quiet', 'print nothing but errors and warnings')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  emigm data quantise --data shapes --patch 4 --codes 512 \\\n' +
        '      --out codebook.safetensors\n' +
        '  emigm train --config configs/shapes-discrete.json \\\n' +
        '      --codebook codebook.safetensors --data shapes --out runs/codes',
    )
    .action((flags: QuantiseFlags) => quantise(flags, io));
}

/** @throws EmigmError 'input' for sizes that cannot be or a file that exists, 'file', 'aborted' */
export async function quantise(flags: QuantiseFlags, io: Io): Promise<void> {
  const { out, patch, codes, size, force, quiet } = flags;
  const bad = (message: string): never => {
    throw new EmigmError('input', message);
  };
  if (!out.toLowerCase().endsWith('.safetensors')) bad(`${out}: a codebook's name must end in .safetensors`);
  if (existsSync(out) && !force) bad(`${out} exists; replace it by --force`);
  if (codes > MOST_CODES) bad(`--codes ${codes}: a codebook has at most ${MOST_CODES}`);
  if (size % patch !== 0) bad(`--size ${size} is no multiple of --patch ${patch}`);
  const progress = createProgress(io, { label: 'fitting', total: flags.iterations, quiet });
  let data: TrainingData | undefined;
  try {
    data = await openTrainingData(flags.data, {
      batch: 1,
      seed: flags.seed,
      channels: 3,
      size,
      dataScale: 'unit-variance',
      skipUnreadable: flags.skipUnreadable,
      threads: flags.threads,
      onWarning: (message) => io.err(`emigm: ${message}`),
      signal: io.signal,
    });
    const patches = await patchesOf(data, { patch, side: size / patch, most: flags.patches });
    const fitted = await fitCodebook(patches, {
      ...{ size: codes, channels: 3, patch, dataScale: data.scale, seed: flags.seed, iterations: flags.iterations },
      onIteration: ({ iteration, error }) => progress.update(iteration, `mean squared error ${error.toFixed(5)}`),
      signal: io.signal,
    });
    progress.stop();
    await writeCodebook(out, fitted.codebook);
    if (quiet) return;
    // Pixels lie in [-1, 1], so that the signal's range is 2.
    const psnr = 10 * Math.log10((2 * data.scale) ** 2 / fitted.error);
    const unused = fitted.counts.filter((count) => count === 0).length;
    io.out(
      `${out}: ${codes} codes of 3 x ${patch} x ${patch} from ${grouped(patches.length / (3 * patch * patch))} patches, ` +
        `${fitted.iterations} iterations; pictures come back with PSNR ${psnr.toFixed(1)} dB` +
        `${unused > 0 ? `; ${unused} codes unused` : ''}`,
    );
  } finally {
    progress.stop();
    await data?.close();
  }
}

/** Patches of pictures in the order of training, each picture once, half of them mirrored. */
async function patchesOf(data: TrainingData, { patch, side, most }: { patch: number; side: number; most: number }) {
  const pictures = Math.min(data.size, Math.max(1, Math.floor(most / side ** 2)));
  const width = 3 * patch * patch;
  const patches = new Float32Array(pictures * side ** 2 * width);
  for (let i = 0; i < pictures; i++) {
    const { images } = await data.batch(i);
    patches.set(imagePatches(images, { channels: 3, side, patch }), i * images.length);
  }
  return patches;
}
