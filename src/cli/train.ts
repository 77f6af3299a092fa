/** `emigm train`: a model from a folder of images, resumable at any moment. */
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import { createEventFile, type EventImage } from '../formats/event_file.ts';
import { writeAtomically } from '../formats/files.ts';
import { encodePng } from '../formats/images.ts';
import { makeRunFolder, runFile } from '../formats/run_folder.ts';
import { openStepLog, readStepLog } from '../formats/step_log.ts';
import type { Device } from '../gpu/device.ts';
import { openDevice } from '../ops/open_device.ts';
import { describeAxes, resolveAxes } from '../masking/axes.ts';
import { openTrainingData } from '../training/data/open.ts';
import type { TrainingData } from '../training/data/types.ts';
import { type StepRecord, train } from '../training/loop.ts';
import { checkTrainingMemory, type TrainingMemory, trainingMemory } from '../training/memory.ts';
import { TrainingRun } from '../training/run.ts';
import { Smoothed } from '../training/smoothing.ts';
import { flatAxes, resolveSettings, type TrainingSettings } from '../training/settings.ts';
import { addDeviceFlags, type DeviceFlags, deviceOptions } from './device_flags.ts';
import type { Io } from './io.ts';
import { grouped, megabytes, positiveInteger, positiveNumber } from './options.ts';
import { createProgress, type Progress } from './progress.ts';
import { addHyperparameterFlags } from './train_flags.ts';
import { planTraining, type TrainPlan } from './train_plan.ts';

interface TrainFlags extends DeviceFlags {
  config?: string;
  codebook?: string;
  data: string;
  out: string;
  resume?: boolean;
  dataScale?: number;
  skipUnreadable?: boolean;
  threads?: number;
  official?: boolean;
  quiet?: boolean;
}

export function registerTrain(program: Command, io: Io): void {
  const command = program
    .command('train')
    .summary('train a model')
    .description(
      'Trains a model on a folder of class folders of images (JPEG, PNG, WebP), on cached latents (.npz), or on a shard ' +
        '(.safetensors). The run folder holds checkpoints, log.jsonl, TensorBoard events, contact sheets, and always the ' +
        'newest averaged weights as model.safetensors. Ctrl-C saves; --resume goes on with the same numbers.',
    )
    .option('--config <file>', 'network and hyper-parameters (see configs/); with --resume that of the run')
    .requiredOption('--data <path>', 'images, latents or a shard')
    .requiredOption('-o, --out <folder>', 'the run')
    .option('--codebook <file>', 'for models of codes: made by emigm data quantise; with --resume that of the run')
    .addOption(
      new Option(
        '--data-scale <x>',
        "pictures: what pixels in [-1, 1] are multiplied by; default: the configuration's, else what gives them unit variance",
      ).argParser(positiveNumber),
    )
    .option('--resume', 'go on from the newest checkpoint of the run, or begin when there is none')
    .option('--skip-unreadable', 'go on with a warning where a file cannot be read')
    .option('--threads <n>', 'decoding threads; default: all cores but one', positiveInteger)
    .option('--official', 'at the end also write official.safetensors, a state dict with the official names')
    .option('-q, --quiet', 'print nothing but errors')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  emigm data shapes --out shapes --count 2000\n' +
        '  emigm train --config configs/shapes.json --data shapes --out runs/shapes\n' +
        '  emigm train --data shapes --out runs/shapes --resume --steps 4000\n' +
        '  emigm train --config configs/shapes-discrete.json --preset maskgit \\\n' +
        '      --codebook codebook.safetensors --data shapes --out runs/codes\n' +
        '  emigm sample --model runs/shapes/model.safetensors',
    );
  addHyperparameterFlags(command);
  addDeviceFlags(command);
  command.action((flags: TrainFlags) => trainCommand(flags, command, io));
}

async function trainCommand(flags: TrainFlags, command: Command, io: Io): Promise<void> {
  io.savesWhenStopped?.();
  const plan = await planTraining(flags, command);
  const device = await openDevice(deviceOptions(flags));
  let data: TrainingData | undefined;
  let run: TrainingRun | undefined;
  try {
    data = await openData(flags, plan, io);
    if (flags.dataScale !== undefined && data.scale !== flags.dataScale) {
      throw new EmigmError('input', `--data-scale is for pictures; these latents are multiplied by ${data.scale}`);
    }
    data = await plan.prepared(device, data);
    const model = plan.model(data.classes);
    const settings = resolveSettings(plan.hyperparameters, data.size);
    const info = { ...plan.info, classNames: [...data.classes], dataScale: data.scale };
    await makeRunFolder(flags.out);
    const { size, classes, scale } = data;
    const facts = { size, classes, scale, codebook: plan.codebook };
    const memory = await trainingMemory(model, settings, device);
    if (!flags.quiet) introduce(io, device, data, memory, settings, model.parameterCount);
    checkTrainingMemory(device, memory, settings);
    run = await TrainingRun.open(
      device,
      { folder: flags.out, model, settings, info, data: facts },
      flags.resume ?? false,
    );
    await plan.keep();
    if (run.from > 0 && !flags.quiet) io.out(`resumed     after step ${grouped(run.from)}`);
    await loop(flags, io, run, data, settings);
  } finally {
    run?.dispose();
    await data?.close();
    device.dispose();
  }
}

async function openData(flags: TrainFlags, { images, dataScale, hyperparameters }: TrainPlan, io: Io) {
  const progress = createProgress(io, { label: 'reading data', total: 1, quiet: flags.quiet });
  try {
    return await openTrainingData(flags.data, {
      batch: hyperparameters.batch,
      seed: hyperparameters.seed,
      channels: images.channels,
      size: images.size,
      flip: hyperparameters.flip,
      dataScale: dataScale ?? 'unit-variance',
      skipUnreadable: flags.skipUnreadable,
      threads: flags.threads,
      onWarning: (message) => io.err(`emigm: ${message}`),
      onProgress: (done, total) => progress.update(done / total),
      signal: io.signal,
    });
  } finally {
    progress.stop();
  }
}

function introduce(
  io: Io,
  device: Device,
  data: TrainingData,
  memory: TrainingMemory,
  settings: TrainingSettings,
  parameters: number,
): void {
  const { batch, microBatch, steps, learningRate, learningRateSchedule, warmupSteps, emaDecay, axes } = settings;
  io.out(`data        ${data.description}`);
  io.out(`model       ${grouped(parameters)} parameters`);
  io.out(`adapter     ${device.name}`);
  io.out(
    `memory      ${megabytes(memory.total)} on the device: parameters with gradients, moments and average ` +
      `${megabytes(memory.parameters)}, activations ${megabytes(memory.activations)}, rest ${megabytes(memory.copies)}`,
  );
  io.out(
    `training    ${grouped(steps)} steps of ${batch} images` +
      `${microBatch < batch ? ` (${microBatch} at once)` : ''}, ${(steps / settings.stepsPerEpoch).toFixed(1)} epochs, ` +
      `learning rate ${learningRate} ${learningRateSchedule} after ${warmupSteps} steps, EMA ${emaDecay}`,
  );
  io.out(`axes        ${settings.preset}${changed(settings)}`);
  for (const line of describeAxes(axes)) io.out(`            ${line}`);
}

/** `, with maskSchedule, tMin`: axes that differ from the preset's. */
function changed({ preset, axes }: TrainingSettings): string {
  const before = flatAxes(resolveAxes(preset));
  const names = Object.entries(flatAxes(axes)).filter(([name, value]) => before[name as keyof typeof before] !== value);
  return names.length > 0 ? `, with ${names.map(([name, value]) => `${name} ${value}`).join(', ')}` : '';
}

async function loop(
  flags: TrainFlags,
  io: Io,
  run: TrainingRun,
  data: TrainingData,
  settings: TrainingSettings,
): Promise<void> {
  const { steps, saveEvery, sampleEvery } = settings;
  const log = await openStepLog(runFile(flags.out, 'log.jsonl'), run.from);
  const events = createEventFile(flags.out, run.from);
  const smoothed = new Smoothed();
  if (run.from > 0) for (const { loss } of await readStepLog(log.path)) smoothed.add(Number(loss));
  const progress = createProgress(io, { label: 'training', total: steps - run.from, quiet: flags.quiet });
  const due = (step: number, every: number) => every > 0 && step % every === 0;
  let saved = run.from > 0 ? `checkpoint of step ${run.from}` : 'none yet';
  try {
    const taken = await train(run.trainer, {
      data,
      from: run.from,
      until: steps,
      signal: io.signal,
      pauseAt: (step) => due(step, saveEvery) || due(step, sampleEvery),
      onStep: (record) => {
        log.append({ ...record });
        const { step, ...values } = record;
        events.write(step, values);
        show(progress, record, smoothed.add(record.loss), run.from);
      },
      onPause: async (step) => {
        const last = step === steps || io.signal.aborted;
        if (last || due(step, saveEvery)) saved = await run.save(step);
        const sheet = due(step, sampleEvery) || step === steps ? await drawSheet(flags.out, run, step) : undefined;
        if (sheet) events.write(step, { samples: sheet });
      },
    });
    progress.stop();
    if (flags.official) io.out(`state dict  ${await run.exportOfficial()}`);
    if (io.signal.aborted) io.out(`stopped after step ${grouped(taken)}; go on with --resume`);
    if (!flags.quiet) io.out(`weights     ${join(flags.out, 'model.safetensors')} (averaged, ${grouped(taken)} steps)`);
  } catch (error) {
    if (error instanceof EmigmError && error.code === 'numeric') {
      throw new EmigmError('numeric', `${error.message}; last good checkpoint: ${saved}`, { cause: error });
    }
    throw error;
  } finally {
    progress.stop();
    log.close();
    events.close();
  }
}

function show(progress: Progress, record: StepRecord, smoothed: number, from: number): void {
  const { loss, lr, gradient_norm: norm, images_per_second: speed } = record;
  progress.update(
    record.step - from,
    `step ${record.step}  loss ${loss.toFixed(4)} (${smoothed.toFixed(4)})  lr ${lr.toExponential(2)}  ` +
      `gradient ${norm.toFixed(2)}  ${speed.toFixed(1)} images/s`,
  );
}

async function drawSheet(folder: string, run: TrainingRun, step: number): Promise<EventImage | undefined> {
  const sheet = await run.sheet();
  if (!sheet) return undefined;
  const { rgb, width, height } = sheet;
  const png = await encodePng(rgb, width, height);
  await makeRunFolder(runFile(folder, 'samples'));
  const name = `step-${String(step).padStart(8, '0')}.png`;
  await writeAtomically(join(folder, 'samples', name), (put) => put(png));
  return { png, width, height };
}
