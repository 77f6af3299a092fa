/**
 * Files of models of codes: safetensors of our format with `kind` "discrete", parameters, the codebook as tensor
 * `codebook` [codes, channels, patch, patch], configuration and information as metadata.
 */
import { EmigmError } from '../../errors.ts';
import type { Codebook } from '../../formats/codebook.ts';
import { type DType, fromFloat32 } from '../../formats/dtype.ts';
import { openSafetensors, writeSafetensors } from '../../formats/safetensors.ts';
import type { Device, DeviceOptions } from '../../gpu/device.ts';
import type { WeightSource } from '../../nn/weights.ts';
import { checkTensors, FORMAT, FORMAT_VERSION, versioned } from '../checkpoint.ts';
import { checkInfo, type ModelInfo } from '../info.ts';
import { DISCRETE } from '../kind.ts';
import { loadOn } from '../on_device.ts';
import { checkDiscreteConfig, type DiscreteConfig, discreteShapes } from './config.ts';
import { checkCodebook, DiscreteNetwork, type DiscreteOptions } from './network.ts';

const CODEBOOK = 'codebook';

/** An open file. Close it when no more parameters are to be read. */
export interface DiscreteFile extends WeightSource {
  readonly path: string;
  readonly config: DiscreteConfig;
  readonly info: ModelInfo;
  readonly codebook: Codebook;
  names(): string[];
  dtype(name: string): DType;
  close(): Promise<void>;
}

/**
 * Opens a model of codes and checks every tensor.
 * @throws EmigmError 'file' for a damaged file, 'model' for one that is no such model or does not fit its configuration
 */
export async function openDiscreteModel(path: string): Promise<DiscreteFile> {
  const file = await openSafetensors(path);
  try {
    const { metadata, tensors } = file;
    if (metadata.format !== FORMAT || metadata.kind !== DISCRETE) {
      throw new EmigmError('model', `${path} is no model of codes; emigm train --preset maskgit makes one`);
    }
    const config = checkDiscreteConfig(versioned(path, metadata, 'config'), path);
    const info = checkInfo(versioned(path, metadata, 'info'), config, path);
    const { codes, channels, patchSize: patch } = config;
    const shapes = new Map([...discreteShapes(config), [CODEBOOK, [codes, channels, patch, patch]]]);
    checkTensors(path, shapes, tensors);
    const codebook = { codes: await file.readFloat32(CODEBOOK), size: codes, channels, patch };
    return {
      path,
      config,
      info,
      codebook: { ...codebook, dataScale: info.dataScale ?? 1 },
      names: () => [...shapes.keys()],
      shape: (name) => tensors.get(name)!.shape,
      dtype: (name) => tensors.get(name)!.dtype,
      read: (name) => file.readFloat32(name),
      close: file.close,
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

export interface SaveDiscreteOptions {
  config: DiscreteConfig;
  /** `dataScale` becomes the codebook's. */
  info: ModelInfo;
  codebook: Codebook;
  /** One parameter; called when its turn comes, so that one is held at a time. */
  read(name: string): Promise<Float32Array<ArrayBuffer>>;
  /** Type of the stored weights, default F32; the codebook is F32. */
  dtype?: 'F32' | 'F16';
}

/** Writes a model of codes. @throws EmigmError 'model' when things do not fit together, 'file' when the disk refuses */
export async function saveDiscreteModel(path: string, options: SaveDiscreteOptions): Promise<void> {
  const { codebook, dtype = 'F32', read } = options;
  const config = checkDiscreteConfig(options.config, path);
  const info = checkInfo({ ...options.info, dataScale: codebook.dataScale }, config, path);
  checkCodebook(config, codebook, 'the codebook');
  const tensors = [...discreteShapes(config)].map(([name, shape]) => ({
    name,
    dtype: dtype as DType,
    shape,
    data: async () => fromFloat32(dtype, await read(name)),
  }));
  const { codes, channels, patchSize: patch } = config;
  const table = { name: CODEBOOK, dtype: 'F32' as DType, shape: [codes, channels, patch, patch] };
  await writeSafetensors(path, [...tensors, { ...table, data: async () => codebook.codes }], {
    format: FORMAT,
    kind: DISCRETE,
    config: JSON.stringify({ version: FORMAT_VERSION, ...config }),
    info: JSON.stringify({ version: FORMAT_VERSION, ...info }),
  });
}

export interface LoadDiscreteOptions extends DiscreteOptions {
  /** Which adapter; or a device that is open already (it stays open at dispose). */
  device?: DeviceOptions | Device;
}

export interface LoadedDiscreteModel {
  readonly device: Device;
  readonly network: DiscreteNetwork;
  readonly config: DiscreteConfig;
  readonly info: ModelInfo;
  /** Frees the weights, and the device unless it was given. */
  dispose(): void;
}

/** Opens a model of codes and puts its weights on a device. @throws EmigmError as `openDiscreteModel`; 'adapter', 'memory' */
export async function loadDiscreteModel(path: string, options: LoadDiscreteOptions = {}): Promise<LoadedDiscreteModel> {
  const file = await openDiscreteModel(path);
  try {
    const { config, info, codebook } = file;
    const loaded = await loadOn(options.device, (device) =>
      DiscreteNetwork.load(device, config, codebook, file, options),
    );
    return { ...loaded, config, info };
  } finally {
    await file.close();
  }
}
