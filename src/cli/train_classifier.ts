/** `emigm train-classifier`: a small classifier from a folder of class folders of photographs. */
import { type Command, Option } from 'commander';
import { type Agreement, agreement } from '../evaluation/agreement.ts';
import { ClassifierExtractor } from '../evaluation/classifier_extractor.ts';
import { EmigmError } from '../errors.ts';
import { type ClassFolders, listClassFolders } from '../formats/class_folders.ts';
import { openDevice } from '../ops/open_device.ts';
import { checkClassifierConfig, type ClassifierInfo, saveClassifier } from '../models/classifier.ts';
import { Classifier, classifierSize } from '../models/classifier_network.ts';
import { openClassifierData } from '../training/classifier/data.ts';
import {
  classifierHyperparameters,
  type ClassifierSettings,
  resolveClassifierSettings,
} from '../training/classifier/settings.ts';
import { ClassifierTrainer } from '../training/classifier/trainer.ts';
import type { TrainingData } from '../training/data/types.ts';
import { train } from '../training/loop.ts';
import { Smoothed } from '../training/smoothing.ts';
import { agreementTable, classifyFiles, percentOf } from './classifier_flags.ts';
import { addDeviceFlags, type DeviceFlags, deviceOptions } from './device_flags.ts';
import type { Io } from './io.ts';
import { grouped, oneOf, positiveInteger } from './options.ts';
import { createProgress, duration } from './progress.ts';
import { addHyperparameterFlags, givenHyperparameters } from './train_flags.ts';

interface TrainClassifierFlags extends DeviceFlags {
  data: string;
  out: string;
  test?: string;
  dtype: 'f16' | 'f32';
  threads?: number;
  quiet?: boolean;
}

export function registerTrainClassifier(program: Command, io: Io): void {
  const command = program
    .command('train-classifier')
    .summary('train a small classifier, to judge samples')
    .description(
      'Trains a small classifier on a folder of class folders of photographs. It judges whether samples show the class ' +
        'that was asked for (emigm classify), and its features serve for Fréchet distances on small data.',
    )
    .requiredOption('--data <folder>', 'class folders of JPEG, PNG or WebP files')
    .requiredOption('-o, --out <file>', 'the classifier, safetensors')
    .option('--test <folder>', 'class folders of photographs to measure it on, which are not trained on')
    .addOption(new Option('--dtype <type>', 'of stored weights').argParser(oneOf(['f16', 'f32'])).default('f16'))
    .option('--threads <n>', 'decoding threads; default: all cores but one', positiveInteger)
    .option('-q, --quiet', 'print nothing but errors')
    .addHelpText(
      'after',
      '\nExample:\n  emigm train-classifier --data clothing/train --test clothing/test \\\n' +
        '      --out classifier.safetensors',
    );
  addHyperparameterFlags(command, classifierHyperparameters);
  addDeviceFlags(command);
  command.action((flags: TrainClassifierFlags) => trainClassifier(flags, command, io));
}

async function trainClassifier(flags: TrainClassifierFlags, command: Command, io: Io): Promise<void> {
  io.savesWhenStopped?.();
  const given = givenHyperparameters(command, classifierHyperparameters);
  const { files, classes } = await listClassFolders(flags.data);
  const settings = resolveClassifierSettings(given, files.length);
  const { imageSize, stem, width, depth, heads, mlpRatio } = settings;
  const shape = { imageSize, stem, width, depth, heads, mlpRatio };
  const config = checkClassifierConfig({ ...shape, classes: classes.length }, 'the flags');
  const test = flags.test === undefined ? undefined : await testFolders(flags.test, classes);
  const began = performance.now();
  const device = await openDevice(deviceOptions(flags));
  let data: TrainingData | undefined;
  let trainer: ClassifierTrainer | undefined;
  try {
    data = await openData(flags, settings, io);
    trainer = await ClassifierTrainer.create(device, config, settings);
    if (!flags.quiet) {
      io.out(`data        ${data.description}`);
      io.out(`classifier  ${grouped(classifierSize(config))} parameters, ${width} features`);
      io.out(`adapter     ${device.name}`);
      const { steps, batch } = settings;
      io.out(
        `training    ${grouped(steps)} steps of ${batch} images, ${(steps / data.stepsPerEpoch).toFixed(1)} epochs`,
      );
    }
    const taken = await loop(trainer, data, flags, io);
    const measured = test && (await measure(trainer, test, flags, io));
    const info: ClassifierInfo = {
      classNames: [...classes],
      training: describe(settings, taken, data.size),
      accuracy: measured && { value: measured.share, images: measured.images },
    };
    await saveClassifier(flags.out, config, info, trainer.average().read, flags.dtype === 'f16' ? 'F16' : 'F32');
    if (io.signal.aborted) io.out(`stopped after step ${grouped(taken)} of ${grouped(settings.steps)}`);
    if (flags.quiet) return;
    io.out(`weights     ${flags.out} (averaged), ${duration((performance.now() - began) / 1000)} in all`);
    if (!measured) return;
    io.out(`\n${agreementTable(measured, classes)}`);
    io.out(`right on ${percentOf(measured)} of ${grouped(measured.images)} photographs of ${flags.test}`);
  } finally {
    trainer?.dispose();
    await data?.close();
    device.dispose();
  }
}

/** @throws EmigmError 'input' when the folder's classes are not those that are trained */
async function testFolders(path: string, classes: readonly string[]): Promise<ClassFolders> {
  const folders = await listClassFolders(path);
  if (folders.classes.join('\n') !== classes.join('\n')) {
    throw new EmigmError(
      'input',
      `${path} has the classes ${folders.classes.join(', ')}, the training data ${classes.join(', ')}`,
    );
  }
  return folders;
}

async function openData(flags: TrainClassifierFlags, settings: ClassifierSettings, io: Io): Promise<TrainingData> {
  const progress = createProgress(io, { label: 'reading data', total: 1, quiet: flags.quiet });
  try {
    return await openClassifierData(flags.data, {
      ...settings,
      threads: flags.threads,
      onWarning: (message) => io.err(`emigm: ${message}`),
      onProgress: (done, total) => progress.update(done / total),
      signal: io.signal,
    });
  } finally {
    progress.stop();
  }
}

async function loop(
  trainer: ClassifierTrainer,
  data: TrainingData,
  flags: TrainClassifierFlags,
  io: Io,
): Promise<number> {
  const { steps } = trainer.settings;
  const smoothed = new Smoothed();
  const progress = createProgress(io, { label: 'training', total: steps, quiet: flags.quiet });
  try {
    return await train(trainer, {
      data,
      from: 0,
      until: steps,
      signal: io.signal,
      pauseAt: () => false,
      onPause: async () => undefined,
      onStep: ({ step, loss, images_per_second: speed }) => {
        const mean = smoothed.add(loss);
        progress.update(step, `step ${step}  loss ${mean.toFixed(4)}  ${speed.toFixed(1)} images/s`);
      },
    });
  } finally {
    progress.stop();
  }
}

async function measure(
  trainer: ClassifierTrainer,
  { files, labels }: ClassFolders,
  flags: TrainClassifierFlags,
  io: Io,
): Promise<Agreement> {
  const network = await Classifier.load(trainer.device, trainer.config, trainer.average());
  const extractor = new ClassifierExtractor(network, 'the classifier');
  try {
    // The measurement belongs to what is saved, even when the training was stopped.
    const found = await classifyFiles(extractor, files, flags, { ...io, signal: new AbortController().signal });
    return agreement(found, labels);
  } finally {
    extractor.dispose();
  }
}

function describe(settings: ClassifierSettings, steps: number, images: number): string {
  const { batch, learningRate, weightDecay, labelSmoothing, dropout, emaDecay, padding, colour, erase, seed } =
    settings;
  return (
    `${images} photographs; ${steps} steps of ${batch}, AdamW (${settings.beta1}, ${settings.beta2}), weight decay ` +
    `${weightDecay}, peak learning rate ${learningRate}, cosine, clip ${settings.gradientClip}, label smoothing ` +
    `${labelSmoothing}, dropout ${dropout}, EMA ${emaDecay}, shifts of ${padding}, colour ${colour}, erasing ${erase}, ` +
    `${settings.flip ? 'flips, ' : ''}seed ${seed}`
  );
}
