/** Memory of training: what is planned is what is taken. */
import { describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { initialParameters } from '../../src/training/initialize.ts';
import { checkTrainingMemory, trainingMemory } from '../../src/training/memory.ts';
import { continuousModel } from '../../src/training/run_model.ts';
import { Parameters } from '../../src/training/parameters.ts';
import { checkHyperparameters, resolveSettings } from '../../src/training/settings.ts';
import { Trainer } from '../../src/training/trainer.ts';
import { toyConfig } from '../helpers/toy.ts';

const settings = (given: object) => resolveSettings(checkHyperparameters({ batch: 8, steps: 10, ...given }), 100);

describe('memory of training', () => {
  it.each([{}, { checkpointing: true }, { microBatch: 2, diffusionBatchMul: 1 }])('%j', async (given) => {
    const device = await Device.open();
    const planned = await trainingMemory(continuousModel(toyConfig), settings(given), device);
    const before = device.allocated;
    const parameters = new Parameters(device, toyConfig);
    await parameters.load(initialParameters(toyConfig, 0));
    const trainer = Trainer.of(parameters, settings(given));
    await trainer.prepare();
    // Operands that a kernel does not read are bound to a few placeholders of 256 bytes, which the device keeps.
    const placeholders = device.allocated - before - planned.total;
    expect(placeholders % 256).toBe(0);
    expect(placeholders).toBeLessThanOrEqual(16 * 256);
    trainer.dispose();
    parameters.dispose();
    expect(device.allocated - before).toBe(placeholders);
    device.dispose();
  });

  it('says what to change when it does not fit', async () => {
    const device = await Device.open({ memory: 2 ** 20 });
    const planned = await trainingMemory(continuousModel(toyConfig), settings({}), device);
    const check = () => checkTrainingMemory(device, planned, settings({}));
    expect(check).toThrow(/training needs [\d.]+ MiB.*try --micro-batch 4 or --checkpointing/);
    device.dispose();
  });
});
