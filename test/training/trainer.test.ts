/** The trainer as a whole: it learns, it repeats itself, it says what went wrong. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import type { ModelConfig } from '../../src/models/config.ts';
import { parameterShapes } from '../../src/models/config.ts';
import type { Batch } from '../../src/training/data/types.ts';
import { initialParameters } from '../../src/training/initialize.ts';
import { Parameters } from '../../src/training/parameters.ts';
import { checkHyperparameters, type HyperparameterInput, resolveSettings } from '../../src/training/settings.ts';
import { Trainer } from '../../src/training/trainer.ts';
import { random } from '../helpers/golden.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

const config: ModelConfig = {
  imageSize: 4,
  vaeStride: 1,
  patchSize: 2,
  channels: 3,
  classes: 8,
  bufferSize: 2,
  encoderWidth: 64,
  encoderDepth: 1,
  encoderHeads: 2,
  decoderWidth: 64,
  decoderDepth: 1,
  decoderHeads: 2,
  headDepth: 2,
  headWidth: 64,
  mae: true,
  maskGuidance: true,
  mlpRatio: 4,
};

const eight = (): Batch => ({
  // Corners of a cube: as far apart as images can be.
  images: Float32Array.from(random().normal(8 * 48), (x) => (x < 0 ? -1 : 1)),
  labels: Int32Array.from({ length: 8 }, (_, i) => i),
  indices: Int32Array.from({ length: 8 }, (_, i) => i),
});

const base: HyperparameterInput = { batch: 8, attentionDropout: 0, projectionDropout: 0, labelDrop: 0, emaDecay: 0.9 };

async function start(given: HyperparameterInput, on: ModelConfig = config) {
  const settings = resolveSettings(checkHyperparameters({ ...base, ...given }), 8);
  const parameters = new Parameters(device, on);
  await parameters.load(initialParameters(on, settings.seed));
  const trainer = Trainer.of(parameters, settings);
  await trainer.prepare();
  const dispose = () => {
    trainer.dispose();
    parameters.dispose();
  };
  return { trainer, parameters, dispose };
}

async function losses(trainer: Trainer, batch: Batch, steps: number, from = 0): Promise<number[]> {
  const list: number[] = [];
  for (let step = from; step < from + steps; step++) {
    const { result } = await trainer.submit(step, batch);
    list.push((await result).loss);
  }
  return list;
}

const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;

describe('training', () => {
  it('overfits eight images to near zero loss', { timeout: 300_000 }, async () => {
    const steps = 450;
    const given = {
      steps,
      learningRate: 8e-3,
      learningRateSchedule: 'cosine',
      warmupSteps: 10,
      diffusionBatchMul: 8,
    } as const;
    const { trainer, dispose } = await start({ ...given, weightDecay: 0 });
    const list = await losses(trainer, eight(), steps);
    expect(mean(list.slice(0, 5))).toBeGreaterThan(1);
    expect(mean(list.slice(-50))).toBeLessThan(0.12);
    dispose();
  });

  it.each([
    ['plain', {}],
    ['dropout', { attentionDropout: 0.2, projectionDropout: 0.1, labelDrop: 0.5 }],
    ['micro-batches', { microBatch: 2 }],
    ['checkpointing', { attentionDropout: 0.2, projectionDropout: 0.1, checkpointing: true }],
  ] as [string, HyperparameterInput][])('two runs of one seed are the same, %s', async (_, given) => {
    const batch = eight();
    const runs = [];
    for (let i = 0; i < 2; i++) {
      const { trainer, parameters, dispose } = await start({ ...given, steps: 6, learningRate: 1e-3, warmupSteps: 1 });
      runs.push([await losses(trainer, batch, 6), await parameters.read('encoder_blocks.0.attn.qkv.weight')]);
      dispose();
    }
    expect(runs[1]).toEqual(runs[0]);
  });

  it('the loss of a step is the mean of its micro-batches', async () => {
    const batch = eight();
    const half = (part: number): Batch => ({
      images: batch.images.slice(part * 4 * 48, (part + 1) * 4 * 48),
      labels: batch.labels.slice(part * 4, (part + 1) * 4),
      indices: batch.indices.slice(part * 4, (part + 1) * 4),
    });
    // The first step of a warm-up has learning rate 0: both halves see the same weights.
    const given = { steps: 9, learningRate: 1e-3, warmupSteps: 5 };
    const whole = await start({ ...given, microBatch: 4 });
    const parts = await start({ ...given, batch: 4 });
    const [loss] = await losses(whole.trainer, batch, 1);
    const [first] = await losses(parts.trainer, half(0), 1);
    const [second] = await losses(parts.trainer, half(1), 1, 1);
    expect(Math.abs(loss / ((first + second) / 2) - 1)).toBeLessThan(1e-6);
    whole.dispose();
    parts.dispose();
  });

  it('a single encoder with weighted loss trains on masks of its own for every image', async () => {
    const single = { ...config, mae: false };
    const { trainer, dispose } = await start(
      { steps: 30, learningRate: 3e-3, weighting: 'elbo', warmupSteps: 2 },
      single,
    );
    const list = await losses(trainer, eight(), 30);
    expect(list.every(Number.isFinite)).toBe(true);
    dispose();
  });

  it('a loss that is not finite changes no weight, and the op is named', async () => {
    const { trainer, parameters, dispose } = await start({ steps: 5, learningRate: 1e-3, warmupSteps: 0 });
    const batch = eight();
    const [loss] = await losses(trainer, batch, 1);
    expect(loss).toBeGreaterThan(0);
    const names = [...parameterShapes(config).keys()];
    const before = await Promise.all(names.map((name) => parameters.read(name)));
    const bad = { ...batch, images: batch.images.map((x, i) => (i === 7 ? Number.POSITIVE_INFINITY : x)) };
    const results = [];
    for (const [step, one] of [bad, batch, batch].entries()) {
      const { result } = await trainer.submit(1 + step, one);
      results.push(await result);
    }
    for (const { gradient_norm } of results) expect(Number.isFinite(gradient_norm)).toBe(false);
    expect(await Promise.all(names.map((name) => parameters.read(name)))).toEqual(before);
    expect(await trainer.findNonFinite(1, bad)).toMatch(/first came out of patchify/);
    dispose();
  });
});
