/** `emigm classify`: what a classifier sees in pictures, and whether samples show what was asked for. */
import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import { EmigmError } from '../errors.ts';
import { type Agreement, agreement } from '../evaluation/agreement.ts';
import { listClassFolders } from '../formats/class_folders.ts';
import { listSampled } from '../formats/sampled_folder.ts';
import { openDevice } from '../ops/open_device.ts';
import type { ClassifierInfo } from '../models/classifier.ts';
import {
  agreementTable,
  classifyFiles,
  openExtractor,
  percent,
  percentOf,
  shippedClassifier,
} from './classifier_flags.ts';
import { addDeviceFlags, type DeviceFlags, deviceOptions } from './device_flags.ts';
import type { Io } from './io.ts';
import { didYouMean, grouped, positiveInteger, table } from './options.ts';

interface ClassifyFlags extends DeviceFlags {
  model?: string;
  samples?: string;
  data?: string;
  batch?: number;
  json?: boolean;
  quiet?: boolean;
}

/** Pictures, and the class that each should show where that is known. */
interface Task {
  paths: readonly string[];
  wanted?: readonly number[];
  /** What is compared, for people. */
  what?: string;
}

export function registerClassify(program: Command, io: Io): void {
  const command = program
    .command('classify')
    .summary('what a classifier sees in pictures; agreement of samples with the asked class')
    .description(
      'Tells what a classifier of emigm train-classifier takes pictures for. With --samples, how many of the pictures ' +
        'that emigm sample wrote it takes for the class that was asked for; with --data, how many of class folders.',
    )
    .argument('[images...]', 'pictures')
    .option('-m, --model <file>', 'the classifier (default: the one of the package, for clothing32)')
    .option('-s, --samples <folder>', 'what emigm sample wrote')
    .option('--data <folder>', 'class folders of photographs')
    .option('-b, --batch <n>', 'images at once', positiveInteger)
    .option('--json', 'print JSON')
    .option('-q, --quiet', 'no progress')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  emigm classify photo.jpg\n' +
        '  emigm sample -n 20 --out out && emigm classify --samples out\n' +
        '  emigm classify --model classifier.safetensors --data clothing/test',
    );
  addDeviceFlags(command);
  command.action((images: string[], flags: ClassifyFlags) => classify(images, flags, io));
}

async function classify(images: string[], flags: ClassifyFlags, io: Io): Promise<void> {
  const kinds = [images.length > 0, flags.samples !== undefined, flags.data !== undefined];
  if (kinds.filter(Boolean).length !== 1) {
    throw new EmigmError('input', 'name pictures, or a folder by --samples or by --data: one of them');
  }
  const path = flags.model ?? shippedClassifier();
  const device = await openDevice(deviceOptions(flags));
  try {
    const { extractor, info } = await openExtractor(device, path);
    try {
      const task = await findTask(images, flags, info, path);
      const found = await classifyFiles(extractor, task.paths, flags, io);
      const result = task.wanted && agreement(found, task.wanted);
      const names = info.classNames;
      if (flags.json) {
        const pictures = found.map(({ label, probabilities }, i) => ({
          file: task.paths[i],
          class: names[label],
          probability: probabilities[label],
          wanted: task.wanted && names[task.wanted[i]],
        }));
        io.out(
          JSON.stringify(
            { classifier: path, info, adapter: device.name, ...summary(result, names), pictures },
            null,
            2,
          ),
        );
        return;
      }
      if (result) {
        io.out(agreementTable(result, names));
        io.out(`${percentOf(result)}: ${result.right} of ${grouped(result.images)} ${task.what}, by ${extractor.name}`);
        const { accuracy } = info;
        if (accuracy && flags.samples) {
          io.out(
            `(it is right on ${percent(accuracy.value)} of ${grouped(accuracy.images)} photographs it was not trained on)`,
          );
        }
        return;
      }
      const rows = found.map(({ label, probabilities }, i) => [
        task.paths[i],
        names[label],
        percent(probabilities[label]),
      ]);
      io.out(table(rows, [2]));
    } finally {
      extractor.dispose();
    }
  } finally {
    device.dispose();
  }
}

async function findTask(images: string[], flags: ClassifyFlags, info: ClassifierInfo, path: string): Promise<Task> {
  const numberOf = (name: string, where: string) => {
    // Samples' files are named after their class with characters that file systems refuse replaced.
    const plain = (text: string) => text.toLowerCase().replace(/[^\p{L}\p{N}._-]+/gu, '_');
    const number = info.classNames.findIndex((known) => plain(known) === plain(name));
    if (number < 0) {
      const hint = didYouMean(name, info.classNames);
      throw new EmigmError('input', `${where}: ${path} knows no class "${name}".${hint}`);
    }
    return number;
  };
  if (flags.samples !== undefined) {
    const sampled = await listSampled(flags.samples);
    const wanted = sampled.map(({ asked, path: file }) => numberOf(asked, file));
    return { paths: sampled.map((picture) => picture.path), wanted, what: 'samples show the class asked for' };
  }
  if (flags.data !== undefined) {
    const { files, labels, classes, root } = await listClassFolders(flags.data);
    const numbers = classes.map((name) => numberOf(name, root));
    const wanted = Array.from(labels, (label) => numbers[label]);
    return { paths: files, wanted, what: 'pictures are recognised' };
  }
  const absent = images.find((image) => !existsSync(image));
  if (absent !== undefined) throw new EmigmError('file', `${absent}: no such file`);
  return { paths: images };
}

function summary(result: Agreement | undefined, names: readonly string[]) {
  if (!result) return {};
  const classes = result.classes.map(({ label, confused, ...rest }) => ({
    class: names[label],
    ...rest,
    confused: confused && { class: names[confused.label], images: confused.images },
  }));
  return { agreement: { ...result, classes } };
}
