/** Memory of a training run, counted on a device that takes none: the run is set up and recorded there. */
import { EmigmError } from '../errors.ts';
import { type Abilities, bufferBytes, Device, mib } from '../gpu/device.ts';
import type { ModelConfig } from '../models/config.ts';
import { parameterBytes, Parameters, type ParameterStore } from './parameters.ts';
import type { TrainingSettings } from './settings.ts';
import { Trainer } from './trainer.ts';

/** Bytes on the device. */
export interface TrainingMemory {
  /** Values, gradients, both moments and the average of every parameter. */
  parameters: number;
  /** Copies of the weights in the layouts that kernels read, and what a micro-batch brings. */
  copies: number;
  /** The arena of all intermediate results, for the largest micro-batch. */
  activations: number;
  /** The largest single buffer. */
  largest: number;
  total: number;
}

/** Puts parameters and a trainer of them on a device. */
export type SetUp = (device: Device) => { parameters: ParameterStore; trainer: Trainer };

/** Memory that `Trainer.prepare` will have taken on a device of these abilities. Needs no driver. */
export function trainingMemory(
  config: ModelConfig,
  settings: TrainingSettings,
  abilities: Partial<Abilities>,
): Promise<TrainingMemory> {
  return plannedMemory((device) => {
    const parameters = new Parameters(device, config);
    return { parameters, trainer: Trainer.of(parameters, settings) };
  }, abilities);
}

/** As `trainingMemory`, of what `setUp` puts on the device. */
export async function plannedMemory(setUp: SetUp, abilities: Partial<Abilities>): Promise<TrainingMemory> {
  const device = await Device.plan(abilities);
  const { parameters: state, trainer } = setUp(device);
  try {
    const slots = trainer.plan().map(bufferBytes);
    const parameters = parameterBytes(state);
    const activations = slots.reduce((sum, bytes) => sum + bytes, 0);
    const total = device.allocated + activations;
    const largest = Math.max(...slots, ...state.chunks.map(({ size }) => 4 * size));
    return { parameters, copies: device.allocated - parameters, activations, largest, total };
  } finally {
    await Promise.allSettled([...device.kernels].map(({ ready }) => ready));
    trainer.dispose();
    state.dispose();
    device.dispose();
  }
}

/** @throws EmigmError 'memory' when the run does not fit, with what to change */
export function checkTrainingMemory(device: Device, memory: TrainingMemory, settings: TrainingSettings): void {
  if (memory.total <= device.memory && memory.largest <= device.largestBuffer) return;
  const smaller = settings.microBatch > 1 ? `--micro-batch ${Math.floor(settings.microBatch / 2)}` : 'a smaller model';
  throw new EmigmError(
    'memory',
    `training needs ${mib(memory.total)}, ${mib(memory.largest)} of it in one buffer, more than ${device.name} has; ` +
      `try ${smaller}${settings.checkpointing ? '' : ' or --checkpointing'}`,
  );
}
