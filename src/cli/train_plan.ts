/** What `emigm train` trains, as configuration and flags say: continuous tokens or codes. */
import { existsSync, readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { EmigmError } from '../errors.ts';
import { type Codebook, readCodebook, writeCodebook } from '../formats/codebook.ts';
import { writeAtomically } from '../formats/files.ts';
import { runFile } from '../formats/run_folder.ts';
import type { Device } from '../gpu/device.ts';
import type { TrainingData } from '../training/data/types.ts';
import { quantisedData } from '../training/discrete/data.ts';
import { discreteNetwork } from '../training/discrete/run_config.ts';
import { codebookChecksum, discreteModel } from '../training/discrete/run_model.ts';
import {
  classesFor,
  modelFor,
  parseRunConfig,
  type ReadRunConfig,
  readRunConfig,
  writeRunConfig,
} from '../training/run_config.ts';
import { continuousModel, type RunModel } from '../training/run_model.ts';
import { givenHyperparameters } from './train_flags.ts';

export interface PlanFlags {
  config?: string;
  codebook?: string;
  out: string;
  resume?: boolean;
  dataScale?: number;
}

export interface TrainPlan extends Pick<ReadRunConfig, 'info' | 'hyperparameters' | 'dataScale'> {
  /** Of the images that the data must give. */
  images: { channels: number; size: number };
  model(classes: readonly string[]): RunModel;
  /** The data as the trainer takes it; closing it closes what it is made of. */
  prepared(device: Device, data: TrainingData): Promise<TrainingData>;
  codebook?: string;
  /** Keeps in the run's folder what --resume needs. */
  keep(): Promise<void>;
}

/** @throws EmigmError 'input' or 'model' naming what is wrong or missing, 'file' for a file that cannot be read */
export async function planTraining(flags: PlanFlags, command: Command): Promise<TrainPlan> {
  const kept = runFile(flags.out, 'config.json');
  const path = flags.config ?? (flags.resume && existsSync(kept) ? kept : undefined);
  if (path === undefined) {
    throw new EmigmError('input', 'name a configuration with --config, such as configs/shapes.json');
  }
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new EmigmError('file', `${path}: the configuration cannot be read`, { cause });
  }
  const given = givenHyperparameters(command);
  const read = readRunConfig(text, given, path);
  read.dataScale = flags.dataScale ?? read.dataScale;
  const keepConfig = () => writeAtomically(kept, (put) => put(Buffer.from(writeRunConfig(text, read))));
  if (read.hyperparameters.axes.conditional === 'categorical') return planCodes(flags, read, path, keepConfig);
  if (flags.codebook !== undefined) {
    throw new EmigmError('input', '--codebook is for models of codes: add --preset maskgit or mdm');
  }
  const parsed = parseRunConfig(text, given, path);
  const { model: network, ...rest } = parsed;
  return {
    ...rest,
    dataScale: read.dataScale,
    images: { channels: network.channels, size: network.imageSize / network.vaeStride },
    model: (classes) => continuousModel(modelFor(parsed, classes)),
    prepared: async (_, data) => data,
    keep: keepConfig,
  };
}

async function planCodes(
  flags: PlanFlags,
  read: ReadRunConfig,
  where: string,
  keepConfig: () => Promise<void>,
): Promise<TrainPlan> {
  const kept = runFile(flags.out, 'codebook.safetensors');
  const file = flags.codebook ?? (flags.resume && existsSync(kept) ? kept : undefined);
  if (file === undefined) {
    throw new EmigmError(
      'input',
      'a model of codes needs a codebook: --codebook FILE; emigm data quantise --data FOLDER --out FILE makes one',
    );
  }
  const codebook: Codebook = await readCodebook(file);
  const { network: _, ...rest } = read;
  const { classes: wanted, ...network } = discreteNetwork(read, codebook, where);
  return {
    ...rest,
    dataScale: codebook.dataScale,
    images: { channels: network.channels, size: network.imageSize / network.vaeStride },
    model: (classes) => discreteModel({ ...network, classes: classesFor(wanted, classes) }, codebook),
    prepared: (device, data) => quantisedData(device, data, codebook, rest.hyperparameters.batch),
    codebook: codebookChecksum(codebook),
    keep: async () => {
      await keepConfig();
      await writeCodebook(kept, codebook);
    },
  };
}
