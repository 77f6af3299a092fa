/** `emigm data`: making and packing data sets. */
import { existsSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Command, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import { writePictureFolder } from '../formats/picture_folder.ts';
import { packFolder } from '../training/data/pack.ts';
import { drawShape, SHAPE_CLASSES } from '../training/data/shapes.ts';
import { registerQuantise } from './data_quantise.ts';
import type { Io } from './io.ts';
import { grouped, megabytes, oneOf, positiveInteger, wholeNumber } from './options.ts';
import { createProgress } from './progress.ts';

export interface ShapesFlags {
  out: string;
  count: number;
  size?: number;
  seed?: number;
  force?: boolean;
  quiet?: boolean;
}

export interface PackFlags {
  out: string;
  size?: number;
  dtype?: 'f16' | 'f32';
  skipUnreadable?: boolean;
  threads?: number;
  force?: boolean;
  quiet?: boolean;
}

export function registerData(program: Command, io: Io): void {
  const data = program
    .command('data')
    .summary('make, pack or quantise a data set')
    .description('Makes data sets for emigm train.')
    .addHelpText(
      'after',
      '\nExamples:\n  emigm data shapes --out shapes --count 10000\n  emigm data pack photos --out photos64.safetensors --size 64',
    );
  data
    .command('shapes')
    .summary('draw a data set of plane forms')
    .description(
      `Draws pictures of plane forms in random colours, sizes and places, as PNG files in class folders OUT/train/CLASS: ${SHAPE_CLASSES.join(', ')}. ` +
        'A picture depends on the seed and its number alone.',
    )
    .requiredOption('-o, --out <folder>', 'where to write; must be new or empty')
    .requiredOption('-n, --count <n>', 'pictures in all, as many of each form', positiveInteger)
    .option('--size <n>', 'pixels of a side', positiveInteger, 32)
    .option('--seed <n>', 'other numbers, other pictures', wholeNumber, 0)
    .option('--force', 'replace the class folders of an earlier call')
    .option('-q, --quiet', 'print nothing but errors')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  emigm data shapes --out shapes --count 10000\n' +
        '  emigm data shapes --out shapes64 --count 500 --size 64 --seed 7\n' +
        '  emigm train --config configs/shapes.json --data shapes --out runs/shapes',
    )
    .action((flags: ShapesFlags) => shapes(flags, io));
  data
    .command('pack')
    .summary('pack a folder into one file')
    .description(
      'Packs a folder of class folders into one safetensors file that emigm train reads by ranges: pictures ' +
        '(JPEG, PNG, WebP) cropped as for training, or cached latents (.npz).',
    )
    .argument('<folder>', 'class folders, or a folder with such a folder named train')
    .requiredOption('-o, --out <file>', 'the .safetensors file to write')
    .option('--size <n>', 'pixels of a side; needed for pictures', positiveInteger)
    .addOption(new Option('--dtype <type>', 'of latents: f32 or f16').argParser(oneOf(['f32', 'f16'])).default('f32'))
    .option('--skip-unreadable', 'leave out files that cannot be read, with a warning')
    .option('--threads <n>', 'decoding threads; default: all cores but one', positiveInteger)
    .option('--force', 'replace the file if it exists')
    .option('-q, --quiet', 'print nothing but errors and warnings')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  emigm data pack photos --out photos32.safetensors --size 32\n' +
        '  emigm data pack cached-latents --out train.safetensors --dtype f16',
    )
    .action((folder: string, flags: PackFlags) => pack(folder, flags, io));
  registerQuantise(data, io);
}

/** @throws EmigmError 'input' for a folder that is not empty, 'file' when the disk refuses, 'aborted' */
export async function shapes(flags: ShapesFlags, io: Io): Promise<void> {
  const { out, count, size = 32, seed = 0, force, quiet } = flags;
  const progress = createProgress(io, { label: 'drawing', total: count, quiet });
  try {
    await writePictureFolder(out, 'train', {
      classes: SHAPE_CLASSES,
      count,
      force,
      draw: (index) => drawShape(index, size, seed),
      onProgress: (done) => progress.update(done),
      signal: io.signal,
    });
  } finally {
    progress.stop();
  }
  if (quiet) return;
  io.out(
    `${join(out, 'train')}: ${grouped(count)} pictures of ${SHAPE_CLASSES.length} classes, ${size} x ${size}, seed ${seed}`,
  );
}

/** @throws EmigmError as packFolder does, 'input' for a file that exists */
export async function pack(folder: string, flags: PackFlags, io: Io): Promise<void> {
  const { out, force, quiet, ...options } = flags;
  if (!out.toLowerCase().endsWith('.safetensors')) {
    throw new EmigmError('input', `${out}: a shard's name must end in .safetensors`);
  }
  if (!existsSync(dirname(out))) {
    throw new EmigmError('input', `${out}: its folder ${dirname(out)} does not exist; make it first`);
  }
  if (existsSync(out) && !force) throw new EmigmError('input', `${out} exists; replace it by --force`);
  let progress: ReturnType<typeof createProgress> | undefined;
  try {
    const { kind, size, classes, shape } = await packFolder(folder, out, {
      ...options,
      onWarning: (message) => io.err(message),
      onProgress: (done, total) => {
        progress ??= createProgress(io, { label: 'packing', total, quiet });
        progress.update(done);
      },
      signal: io.signal,
    });
    progress?.stop();
    if (quiet) return;
    io.out(
      `${out}: ${grouped(size)} ${kind} of ${classes.length} classes, ${shape.join(' x ')}, ${megabytes(statSync(out).size)}`,
    );
  } finally {
    progress?.stop();
  }
}
