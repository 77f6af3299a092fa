/** A model ready to sample: the file, the device and the network together. */
import { EmigmError } from '../errors.ts';
import { Device, type DeviceOptions } from '../gpu/device.ts';
import { openModel, type OpenModelOptions } from './checkpoint.ts';
import type { ModelConfig } from './config.ts';
import type { Stored } from '../ops/matmul_kernels.ts';
import { Emigm } from './emigm.ts';
import type { ModelInfo } from './info.ts';

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
    const own = !(options.device instanceof Device);
    const device = options.device instanceof Device ? options.device : await Device.open(options.device);
    try {
      const network = await Emigm.load(device, config, file, {
        stored: options.stored,
        onProgress: options.onProgress,
        onAllocated: (early) => options.onAllocated?.({ device, network: early, config, info }),
      });
      await device.done();
      const dispose = (): void => {
        network.dispose();
        if (own) device.dispose();
      };
      return { device, network, config, info, dispose };
    } catch (error) {
      // Compilers still at work would outlive the device.
      await Promise.allSettled([...device.kernels].map(({ ready }) => ready));
      if (own) device.dispose();
      throw error;
    }
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
