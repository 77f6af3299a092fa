/** Memory of sampling from a model of codes, counted on a device that takes none. */
import { Device } from '../../gpu/device.ts';
import { type DiscreteConfig, discreteShapes } from '../../models/discrete/config.ts';
import { DiscreteNetwork } from '../../models/discrete/network.ts';
import type { SamplingMemory, SamplingMemoryOptions } from '../memory.ts';
import { resolveSettings } from '../settings.ts';
import { DiscreteSampler } from './batch.ts';
import { planDiscrete } from './plan.ts';

/** Device memory for sampling `batch` images at once; exact for the device that is described. Needs no driver. */
export async function discreteMemory(
  config: DiscreteConfig,
  { batch, stored, device: abilities = {}, settings: asked }: SamplingMemoryOptions,
): Promise<SamplingMemory> {
  const settings = resolveSettings(asked);
  const device = await Device.plan(abilities);
  try {
    const shapes = discreteShapes(config);
    const { codes: size, channels, patchSize: patch } = config;
    // Numbers are not looked at where there is no place for them.
    const codebook = { codes: new Float32Array(0), size, channels, patch, dataScale: 1 };
    const source = { shape: (name: string) => shapes.get(name)!, read: async () => new Float32Array(0) };
    const model = await DiscreteNetwork.load(device, config, codebook, source, { stored });
    const weights = device.allocated;
    const images = Array.from({ length: batch }, (_, i) => i);
    const classes = images.map((i) => i % config.classes);
    const sampler = new DiscreteSampler(model, planDiscrete(model, settings, classes, images), settings);
    const { total: activations, largest } = sampler.memory;
    sampler.dispose();
    return { weights, activations, largest, total: weights + activations };
  } finally {
    // Compilers still at work would outlive the device.
    await Promise.allSettled([...device.kernels].map(({ ready }) => ready));
    device.dispose();
  }
}
