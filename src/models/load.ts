/** A model ready to sample: the file, the device and the network together. */
import { EmigmError } from '../errors.ts';
import type { Device, DeviceOptions } from '../gpu/device.ts';
import { openModel, type OpenModelOptions } from './checkpoint.ts';
import type { ModelConfig } from './config.ts';
import type { Stored } from '../ops/matmul_kernels.ts';
import { Emigm } from './emigm.ts';
import type { ModelInfo } from './info.ts';
import { loadOn } from './on_device.ts';

export interface LoadModelOptions extends OpenModelOptions {
  /** Which adapter, and which kernels on it; or a device that is open already (it stays open at dispose). */
  device?: DeviceOptions | Device;
  /** How weights of linear layers are stored on the device. Default: f16 on GPUs that have it, else f32; see EmigmOptions. */
  stored?: Stored;
  /** Called with the share of the parameters that are on the device. */
  onProgress?: (done: number) => void;
  /**
   * Called before the weights are read, with a network that programs can be recorded on but that cannot run yet: see
   * `precompile`. What it throws ends the loading.
   */
  onAllocated?: (model: Omit<LoadedModel, 'dispose'>) => void;
}

export interface LoadedModel {
  readonly device: Device;
  readonly network: Emigm;
  readonly config: ModelConfig;
  readonly info: ModelInfo;
  /** Frees the weights, and the device unless it was given. */
  dispose(): void;
}

/**
 * Opens a model file (our safetensors, or an official `.pth`) and puts its weights on a device.
 * @throws EmigmError 'file' or 'model' for a bad file, 'adapter' without a usable device, 'memory' when it does not fit
 */
export async function loadModel(path: string, options: LoadModelOptions = {}): Promise<LoadedModel> {
  const file = await openModel(path, options);
  try {
    const { config, info } = file;
    const { stored, onProgress, onAllocated } = options;
    const loaded = await loadOn(options.device, (device) =>
      Emigm.load(device, config, file, {
        stored,
        onProgress,
        onAllocated: (network) => onAllocated?.({ device, network, config, info }),
      }),
    );
    return { ...loaded, config, info };
  } finally {
    await file.close();
  }
}

/** The class number of a name or a number. @throws EmigmError 'input' when there is none. */
export function classNumber(
  { config, info }: { readonly config: Pick<ModelConfig, 'classes'>; readonly info: ModelInfo },
  name: string | number,
): number {
  const byName = info.classNames?.indexOf(String(name)) ?? -1;
  const number = byName >= 0 ? byName : Number(name);
  if (Number.isInteger(number) && number >= 0 && number < config.classes) return number;
  throw new EmigmError(
    'input',
    `class ${name} does not exist: this model has ${info.classNames?.join(', ') ?? `0 to ${config.classes - 1}`}`,
  );
}
