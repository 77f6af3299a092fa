/** Training of models of codes: gradients, masks of both presets, and that it learns. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { type DiscreteConfig, discreteShapes } from '../../src/models/discrete/config.ts';
import { DiscreteNetwork } from '../../src/models/discrete/network.ts';
import { Tape } from '../../src/nn/tape.ts';
import { MASKED, scatterRows } from '../../src/ops/tokens.ts';
import { sampleDiscreteBatches } from '../../src/sampling/discrete/sample.ts';
import { presetSettings } from '../../src/sampling/axes.ts';
import type { Batch, TrainingData } from '../../src/training/data/types.ts';
import { quantisedData } from '../../src/training/discrete/data.ts';
import { discreteParameters, DiscreteObjective } from '../../src/training/discrete/objective.ts';
import { discreteModel } from '../../src/training/discrete/run_model.ts';
import { drawMicroBatch } from '../../src/training/draws.ts';
import { layOutMicroBatch } from '../../src/training/micro_batch.ts';
import { ParameterStore } from '../../src/training/parameters.ts';
import { decodeCodes, patchImages } from '../../src/training/quantise.ts';
import { checkHyperparameters, type HyperparameterInput, resolveSettings } from '../../src/training/settings.ts';
import { toyCodebook, toyDiscrete, toyDiscreteSource } from '../helpers/discrete.ts';
import { random } from '../helpers/numbers.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

const TOKENS = 16;
const CODES = toyDiscrete.codes;

const settingsOf = (given: HyperparameterInput, images = 3) => {
  const base = { batch: images, attentionDropout: 0, projectionDropout: 0, labelDrop: 0, emaDecay: 0.9 };
  return resolveSettings(checkHyperparameters({ ...base, ...given }), images);
};

/** A micro-batch of random maps of codes on the device, and a program that adds its loss and gradients. */
async function setUp(config: DiscreteConfig, given: HyperparameterInput, images = 3) {
  const settings = settingsOf(given, images);
  const parameters = new ParameterStore(device, discreteParameters(config));
  await parameters.load(toyDiscreteSource(config, 2));
  const objective = new DiscreteObjective(parameters, config, settings);
  const codes = Float32Array.from(random().normal(images * TOKENS), (x) => Math.floor(Math.abs(x) * 1000) % CODES);
  const labels = Int32Array.from({ length: images }, (_, i) => i % config.classes);
  const draws = {
    ...drawMicroBatch(settings, { images, tokens: TOKENS, mae: config.mae }, 7),
    dropped: Uint8Array.from(labels, (_, i) => (i === 1 ? 1 : 0)),
  };
  const { schedule, weighting } = settings.axes;
  const batch = layOutMicroBatch(config, { ...draws, labels, schedule, weighting, repeats: 1 });
  objective.load(codes, batch);
  const loss = device.tensor([1], 'f32', 'loss');
  const session = new Session(device);
  const copies = session.record('copies', (r) => objective.refresh(r));
  const program = session.record('loss', (r) => objective.record(r, batch.shape, loss, {}));
  await session.prepare();
  const run = async (): Promise<number> => {
    device.write(loss, [0]);
    session.run(copies);
    session.run(program);
    return (await device.read(loss))[0];
  };
  const dispose = () => {
    session.dispose();
    objective.dispose();
    parameters.dispose();
    loss.destroy();
  };
  return { parameters, objective, batch, codes, draws, session, run, dispose };
}

const dot = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a, (x, i) => x * b[i]).reduce((s, x) => s + x, 0);

describe('gradients', () => {
  const single = { ...toyDiscrete, encoderDepth: 1, decoderDepth: 1 };
  const cases: [string, DiscreteConfig, HyperparameterInput][] = [
    ['a single encoder, each image with a time of its own', single, { preset: 'mdm', labelSmoothing: 0.1 }],
    [
      'MAE, guided by the mask token',
      { ...single, mae: true, maskGuidance: true },
      { preset: 'maskgit', network: 'mae', unconditional: 'mask' },
    ],
  ];
  it.each(cases)('are those of finite differences: %s', async (_, config, given) => {
    const { parameters, run, dispose } = await setUp(config, given);
    try {
      await run();
      const before = await run(); // gradients of two equal passes
      expect(before).toBeGreaterThan(0.5);
      const names = [...discreteShapes(config).keys()].filter((name) => !/bias$|norm|_ln|proj|fc1/.test(name));
      const gradients = new Map<string, Float32Array>();
      for (const name of names) gradients.set(name, await parameters.read(name, 'gradient'));
      for (const [name, twice] of gradients) {
        const { chunk, offset } = parameters.find(name);
        const values = await parameters.read(name);
        const gradient = Float64Array.from(twice, (x) => x / 2);
        const size = Math.sqrt(dot(gradient, gradient));
        expect(size, name).toBeGreaterThan(1e-4);
        const noise = random().normal(gradient.length);
        const length = Math.sqrt(dot(noise, noise));
        // Along the gradient, and in a direction of its own: there nothing may be but what the gradient says.
        const directions = [gradient.map((x) => x / size), Float64Array.from(noise, (x) => x / length)];
        for (const direction of directions) {
          // Small enough that curvature stays below the tolerance, large enough for f32 losses.
          const step = Math.min(0.005, 0.0025 / size);
          const at = async (sign: number) => {
            const moved = values.map((x, i) => x + sign * step * direction[i]);
            device.write(parameters.states.value[chunk], moved, offset);
            return run();
          };
          const slope = ((await at(1)) - (await at(-1))) / (2 * step);
          expect(Math.abs(slope - dot(direction, gradient)) / size, `${name}: ${slope}`).toBeLessThan(0.005);
        }
        device.write(parameters.states.value[chunk], values, offset);
      }
    } finally {
      dispose();
    }
  });
});

describe('the network in training', () => {
  it.each([false, true])('is the one that samples, mae %s, and does not see what is masked', async (mae) => {
    const config = { ...toyDiscrete, mae };
    const network = mae ? 'mae' : 'single';
    const { objective, batch, codes, session, run, parameters, dispose } = await setUp(config, {
      preset: 'maskgit',
      network,
    });
    await run(); // the weights' copies
    const source = {
      shape: (name: string) => parameters.find(name).shape,
      read: (name: string) => parameters.read(name),
    };
    const model = await DiscreteNetwork.load(device, config, toyCodebook, source, { stored: 'f32' });
    const { images, visible, rows } = batch.shape;
    const perImage = rows / images;
    const out = () => device.tensor([rows, CODES], 'f32', 'logits');
    const [trained, sampled] = [out(), out()];
    const list = (values: ArrayLike<number>) =>
      device.tensor([Math.max(1, values.length)], 'u32', 'list', Uint32Array.from(values.length > 0 ? values : [0]));
    // What is masked is something else here than in the batch.
    const state = Uint32Array.from(codes, (code, i) => (batch.rowOfToken[i] === MASKED ? code : MASKED));
    const lists = {
      codes: list(state),
      rows: list(Array.from({ length: rows }, (_, i) => i)),
      classes: list(batch.classRows.map((row) => (row === 0 ? config.classes : row - 1))),
      tokenRows: list(batch.tokenRows),
      visible: list(batch.visible),
      slot: list(batch.slot),
      identity: list(state.map((_, i) => config.bufferSize + (i % TOKENS))),
      queryRows: list(batch.decoderRows),
    };
    try {
      const at = Object.fromEntries(
        Object.entries(lists).map(([name, tensor]) => [name, { tensor, offset: 0 }]),
      ) as never;
      const { rows: order } = at as { rows: { tensor: never; offset: number } };
      const program = session.record('both', (r) => {
        scatterRows(r, objective.logits(new Tape(r), batch.shape), order, rows, CODES, trained);
        const shape = { batch: images, visible, queries: perImage };
        const z = model.conditions(r, lists.codes, at, shape);
        scatterRows(r, model.logits(r, z), order, rows, CODES, sampled);
      });
      await session.prepare();
      session.run(program);
      const [a, b] = [await device.read(trained), await device.read(sampled)];
      const most = Math.max(...b.map(Math.abs));
      for (const [i, x] of a.entries()) expect(Math.abs(x - b[i]) / most).toBeLessThan(1e-4);
    } finally {
      for (const tensor of [...Object.values(lists), trained, sampled]) tensor.destroy();
      model.dispose();
      dispose();
    }
  });
});

describe('masks and weights', () => {
  it('are the axes of each preset', () => {
    const gamma = Array.from({ length: 40 }, (_, index) => {
      const settings = settingsOf({ preset: 'maskgit' }, 4);
      const { mask } = drawMicroBatch(settings, { images: 4, tokens: TOKENS, mae: false }, index);
      const counts = [0, 1, 2, 3].map((i) => mask.slice(i * TOKENS, (i + 1) * TOKENS).reduce((a, b) => a + b, 0));
      expect(new Set(counts).size).toBe(1); // a fixed count
      return counts[0];
    });
    expect(new Set(gamma).size).toBeGreaterThan(4);
    const settings = settingsOf({ preset: 'mdm' }, 4);
    const draws = drawMicroBatch(settings, { images: 4, tokens: TOKENS, mae: false }, 1);
    const labels = [0, 1, 2, 0];
    const { schedule, weighting } = settings.axes;
    const batch = layOutMicroBatch(toyDiscrete, { ...draws, labels, schedule, weighting, repeats: 1 });
    const masked = draws.mask.reduce((a, b) => a + b, 0);
    const image = (row: number) => Math.floor(batch.targets[row] / TOKENS);
    for (const [row, weight] of batch.weights.entries()) {
      expect(weight * masked * draws.p[image(row)]).toBeCloseTo(1, 5);
    }
    const input = { ...draws, labels, schedule, weighting, repeats: 1, rowsMultiple: 7 };
    const filled = layOutMicroBatch(toyDiscrete, input);
    expect(filled.shape.rows).toBe(Math.min(4 * TOKENS, Math.ceil(masked / 7) * 7));
    expect(new Set(filled.targets).size).toBe(filled.shape.rows);
    const counted = [...filled.targets.entries()].filter(([, token]) => draws.mask[token]);
    expect(counted.map(([row]) => filled.weights[row])).toEqual(Array.from(batch.weights));
    expect(filled.weights.filter((weight) => weight > 0).length).toBe(masked);
  });
});

describe('training', () => {
  it('overfits eight images to near zero cross-entropy, and draws them again', { timeout: 120_000 }, async () => {
    const config = { ...toyDiscrete, classes: 8, encoderDepth: 1, decoderDepth: 1 };
    const steps = 130;
    const given = { learningRate: 6e-3, learningRateSchedule: 'cosine', warmupSteps: 10, steps } as const;
    const settings = settingsOf({ preset: 'maskgit', ...given }, 8);
    const { parameters, trainer } = discreteModel(config, toyCodebook).setUp(device, settings);
    const codes = Float32Array.from({ length: 8 * TOKENS }, (_, i) => (i * 7 + Math.floor(i / 5) * 3) % CODES);
    const batch: Batch = {
      images: codes,
      labels: Int32Array.from({ length: 8 }, (_, i) => i),
      indices: Int32Array.from({ length: 8 }, (_, i) => i),
    };
    try {
      await parameters.load(discreteModel(config, toyCodebook).initial(1));
      await trainer.prepare();
      const results: Promise<{ loss: number }>[] = [];
      for (let step = 0; step < steps; step++) results.push((await trainer.submit(step, batch)).result);
      const losses = (await Promise.all(results)).map(({ loss }) => loss);
      expect(losses[0]).toBeGreaterThan(Math.log(CODES) - 0.5);
      const last = losses.slice(-20).reduce((a, b) => a + b, 0) / 20;
      expect(last).toBeLessThan(0.05);
      const source = {
        shape: (name: string) => parameters.find(name).shape,
        read: (name: string) => parameters.read(name, 'average'),
      };
      const model = await DiscreteNetwork.load(device, config, toyCodebook, source);
      const request = { ...presetSettings('maskgit'), steps: 4, cfg: 1, classes: [0, 3, 7], temperature: 0.5 };
      for await (const images of sampleDiscreteBatches(model, request)) {
        const wanted = images.map(({ classNumber }) => {
          const own = codes.subarray(classNumber! * TOKENS, (classNumber! + 1) * TOKENS);
          return patchImages(decodeCodes(toyCodebook, own), { channels: 3, side: 4, patch: 2 });
        });
        expect(images.map(({ latents }) => latents)).toEqual(wanted);
      }
      model.dispose();
    } finally {
      trainer.dispose();
      parameters.dispose();
    }
  });
});

describe('quantised data', () => {
  it('is the codes of each batch, whatever is asked for ahead, and refuses other images', async () => {
    const shape = { channels: 3, height: 8, width: 8 };
    const codesOf = (step: number) => Uint32Array.from({ length: 2 * TOKENS }, (_, i) => (i * 5 + 7 * step) % CODES);
    let closed = false;
    const data: TrainingData = {
      ...{ size: 4, classes: ['a'], shape, scale: toyCodebook.dataScale, description: 'toy', stepsPerEpoch: 2 },
      batch: async (step) => ({
        images: patchImages(decodeCodes(toyCodebook, codesOf(step)), { channels: 3, side: 4, patch: 2 }),
        labels: Int32Array.of(0, 0),
        indices: Int32Array.of(step, step),
      }),
      close: async () => void (closed = true),
    };
    const quantised = await quantisedData(device, data, toyCodebook, 2);
    expect(quantised).toMatchObject({ shape: { channels: 1, height: 4, width: 4 }, size: 4 });
    for (const step of [0, 1, 5, 2]) {
      const batch = await quantised.batch(step);
      expect(Array.from(batch.images)).toEqual(Array.from(codesOf(step)));
      expect(batch.indices[0]).toBe(step);
    }
    await expect(quantisedData(device, { ...data, scale: 1 }, toyCodebook, 2)).rejects.toThrow(/scaled by 1.6, these/);
    await expect(
      quantisedData(device, { ...data, shape: { ...shape, height: 9, width: 9 } }, toyCodebook, 2),
    ).rejects.toThrow(/does not fit images of 3 x 9 x 9/);
    await quantised.close();
    expect(closed).toBe(true);
  });
});
