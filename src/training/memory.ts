/** Memory of a training run, counted on a device that takes none: the run is set up and recorded there. */
import { EmigmError } from '../errors.ts';
import { type Abilities, bufferBytes, Device, mib } from '../gpu/device.ts';
import { parameterBytes } from './parameters.ts';
import type { RunModel } from './run_model.ts';
import type { TrainingSettings } from './settings.ts';

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

/** Memory that `Trainer.prepare` will have taken on a device of these abilities. Needs no driver. */
export async function trainingMemory(
  model: RunModel,
  settings: TrainingSettings,
  abilities: Partial<Abilities>,
): Promise<TrainingMemory> {
  const device = await Device.plan(abilities);
  const { parameters: state, trainer } = model.setUp(device, settings);
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
