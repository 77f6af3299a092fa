/** A whole sampling run: time by part of the model, what the host takes of it, memory. */
import { existsSync } from 'node:fs';
import { EmigmError } from '../src/errors.ts';
import type { Device, DeviceOptions } from '../src/gpu/device.ts';
import { openDevice } from '../src/ops/open_device.ts';
import { presets } from '../src/models/config.ts';
import { Emigm } from '../src/models/emigm.ts';
import { loadModel } from '../src/models/load.ts';
import { emptyStats, type SampleRequest, type SampleStats, sampleBatches } from '../src/sampling/sample.ts';
import { resolveSettings, type SampleSettings } from '../src/sampling/settings.ts';
import { randomWeights } from '../src/measurement/random_weights.ts';
import type { SamplingRow } from './result.ts';

export interface SamplingOptions {
  device?: DeviceOptions;
  /** A model file, or an official size (`b-256`), which gets random weights. */
  model: string;
  images: number;
  batch: number;
  /** A batch before the measured ones, so that they find everything in place. */
  warmUp: boolean;
  settings?: Partial<SampleSettings>;
  onProgress?: (done: number, what: string) => void;
  signal?: AbortSignal;
}

interface Opened {
  name: string;
  network: Emigm;
  settings: SampleSettings;
  dispose(): void;
}

async function openNetwork(options: SamplingOptions): Promise<Opened> {
  const { model, onProgress } = options;
  const config = presets[model];
  const loading = (done: number) => onProgress?.(0, `loading ${Math.floor(100 * done)}%`);
  if (config) {
    const device = await openDevice(options.device);
    const network = await Emigm.load(device, config, randomWeights(config), { onProgress: loading });
    const settings = resolveSettings(options.settings);
    const name = `${model}, random weights`;
    return { name, network, settings, dispose: () => device.dispose() };
  }
  if (!existsSync(model)) {
    const names = Object.keys(presets).join(', ');
    throw new EmigmError('input', `--model ${model} is neither a file nor one of ${names}`);
  }
  const loaded = await loadModel(model, { device: options.device, onProgress: loading });
  const { network, info } = loaded;
  const settings = resolveSettings(info.sampling as Partial<SampleSettings> | undefined, options.settings);
  return { name: info.name ?? 'a model file', network, settings, dispose: () => loaded.dispose() };
}

/** @throws EmigmError as `sampleBatches` does, and 'numeric' when an image is not finite */
export async function benchSampling(options: SamplingOptions): Promise<SamplingRow> {
  const start = performance.now();
  const { name, network, settings, dispose } = await openNetwork(options);
  try {
    await network.device.done();
    const load = (performance.now() - start) / 1000;
    const { images, batch, warmUp, onProgress, signal } = options;
    const request = (count: number): SampleRequest => ({
      ...settings,
      classes: Array.from({ length: count }, (_, i) => i % network.config.classes),
      batch,
      signal,
      onStep: ({ imagesDone, step, steps }) => {
        onProgress?.(
          (imagesDone + (Math.min(batch, count) * step) / steps) / count,
          count < images ? 'warming up' : '',
        );
      },
    });
    if (warmUp) await run(network, request(Math.min(batch, images)));
    const stats = await run(network, request(images));
    return rowOf(name, options, settings, network.device, stats, load);
  } finally {
    dispose();
  }
}

async function run(network: Emigm, request: SampleRequest): Promise<SampleStats> {
  const stats = emptyStats();
  for await (const images of sampleBatches(network, request, stats)) {
    for (const { latents, index } of images) {
      if (!latents.every(Number.isFinite)) throw new EmigmError('numeric', `image ${index} is not finite`);
    }
  }
  return stats;
}

function rowOf(
  model: string,
  { images, batch }: SamplingOptions,
  settings: SampleSettings,
  device: Device,
  stats: SampleStats,
  load: number,
): SamplingRow {
  const { total, prepare, host, parts } = stats.seconds;
  const steps = settings.steps * stats.batches;
  const onDevice = Object.values(parts).reduce((a, b) => a + b, 0);
  return {
    model,
    images,
    batch,
    steps: settings.steps,
    headSteps: settings.headSteps,
    nfe: stats.nfe,
    headEvaluations: stats.headEvaluations,
    dispatches: stats.dispatches,
    seconds: {
      load,
      prepare,
      total,
      anImage: total / images,
      host,
      parts: onDevice > 0 ? { ...parts, idle: total - onDevice } : {},
    },
    host: {
      microsecondsAStep: (host / steps) * 1e6,
      microsecondsADispatch: (host / (stats.dispatches * stats.batches)) * 1e6,
      share: host / total,
    },
    memory: { device: device.peak, process: process.resourceUsage().maxRSS * 1024 },
  };
}
