/**
 * Checkpoints of a training run: one safetensors file with values, both moments and the moving average of every
 * parameter, and as metadata the step and all settings. Nothing else is state: data order, masks, noise and dropout are
 * pure functions of the seed and the step.
 */
import { EmigmError } from '../errors.ts';
import { checkpointPath } from '../formats/run_folder.ts';
import { openSafetensors, writeSafetensors } from '../formats/safetensors.ts';
import { saveModel } from '../models/checkpoint.ts';
import { type ModelConfig, stateDictShapes } from '../models/config.ts';
import type { ModelInfo } from '../models/info.ts';
import type { TrunkConfig } from '../models/trunk.ts';
import type { ParameterStore, State } from './parameters.ts';

const FORMAT = 'emigm-wgsl training';
const VERSION = 1;
const SAVED = ['value', 'firstMoment', 'secondMoment', 'average'] as const satisfies readonly State[];

/** What a checkpoint says beside its tensors. */
export interface CheckpointHeader {
  /** Steps that were taken. */
  step: number;
  config: TrunkConfig;
  /** Settings and facts of the run that a resumed one must share; compared key by key. */
  settings: Readonly<Record<string, unknown>>;
}

/** Writes a checkpoint under its final name when it is complete. @throws EmigmError 'file' when the disk refuses */
export async function saveCheckpoint(
  run: string,
  parameters: ParameterStore,
  header: CheckpointHeader,
): Promise<string> {
  const path = checkpointPath(run, header.step);
  const tensors = SAVED.flatMap((state) =>
    parameters.list.map(({ name, shape }) => ({
      name: `${state}.${name}`,
      dtype: 'F32' as const,
      shape,
      data: () => parameters.read(name, state) as Promise<Float32Array<ArrayBuffer>>,
    })),
  );
  await writeSafetensors(path, tensors, {
    format: FORMAT,
    version: String(VERSION),
    step: String(header.step),
    config: JSON.stringify(header.config),
    settings: JSON.stringify(header.settings),
  });
  return path;
}

/** The header alone. @throws EmigmError 'file' or 'model' when it is no checkpoint of ours */
export async function readCheckpointHeader(run: string, step: number): Promise<CheckpointHeader> {
  const path = checkpointPath(run, step);
  const file = await openSafetensors(path);
  await file.close();
  const { metadata } = file;
  if (metadata.format !== FORMAT || metadata.version !== String(VERSION)) {
    throw new EmigmError('model', `${path} is no training checkpoint of version ${VERSION}`);
  }
  try {
    return {
      step: Number(metadata.step),
      config: JSON.parse(metadata.config),
      settings: JSON.parse(metadata.settings),
    };
  } catch (cause) {
    throw new EmigmError('model', `${path}: the metadata is no JSON`, { cause });
  }
}

/** Puts a checkpoint's numbers back. @throws EmigmError naming the tensor that is missing or has another shape */
export async function loadCheckpoint(run: string, step: number, parameters: ParameterStore): Promise<void> {
  const path = checkpointPath(run, step);
  const file = await openSafetensors(path);
  try {
    for (const state of SAVED) {
      await parameters.load(
        { shape: (name) => file.tensors.get(name)?.shape ?? [], read: (name) => file.readFloat32(`${state}.${name}`) },
        [state],
      );
    }
  } finally {
    await file.close();
  }
}

/** Writes the averaged weights as a model file for `emigm sample`. */
export async function exportAverage(
  path: string,
  parameters: ParameterStore,
  config: ModelConfig,
  info: ModelInfo,
  dtype: 'F32' | 'F16' = 'F32',
): Promise<void> {
  await saveModel(path, {
    config,
    info: { ...info, weights: 'model_ema', ...(config.maskGuidance && { maskToken: 'averaged' as const }) },
    dtype,
    read: (name) => parameters.read(name, 'average') as Promise<Float32Array<ArrayBuffer>>,
  });
}

/**
 * Writes a state dict with the official names and shapes, all of them (a shared mask token stands twice, as in the
 * official files), f32: `model.load_state_dict(safetensors.torch.load_file(path))`.
 */
export async function exportStateDict(
  path: string,
  parameters: ParameterStore,
  config: ModelConfig,
  state: State,
): Promise<void> {
  const tensors = [...stateDictShapes(config)].map(([name, shape]) => ({
    name,
    dtype: 'F32' as const,
    shape,
    data: () => {
      const shared = name === 'mask_token' && config.maskGuidance;
      return parameters.read(shared ? 'fake_latent' : name, state) as Promise<Float32Array<ArrayBuffer>>;
    },
  }));
  await writeSafetensors(path, tensors, { format: 'pt' });
}
