/** One training step of the official code: conditions, head, loss terms, total, and the gradient of every parameter. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { parameterShapes } from '../../src/models/config.ts';
import { processTable, recordMicroBatch } from '../../src/training/forward_backward.ts';
import { MicroBatchInputs } from '../../src/training/inputs.ts';
import { TrainingNetwork } from '../../src/training/network.ts';
import { Parameters } from '../../src/training/parameters.ts';
import { describeGolden, expectClose, type Golden } from '../helpers/golden.ts';
import {
  goldenMicroBatch,
  goldenSource,
  headRows,
  rowsOf,
  type TrainingCase,
  trainingCases,
} from '../helpers/training.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

/** Golden README: losses 2e-5, gradients 2e-4. */
const LOSS = 2e-5;
const GRADIENT = 2e-4;

interface Run {
  loss: number;
  terms: Float32Array;
  gradients: Map<string, Float32Array>;
}

async function run(
  one: TrainingCase,
  options: { allRows: boolean; checkpointing?: boolean; timeTable?: boolean },
): Promise<Run> {
  const { golden, prefix, config } = one;
  const parameters = new Parameters(device, config);
  await parameters.load(goldenSource(golden), ['value']);
  const network = new TrainingNetwork(parameters);
  const batch = goldenMicroBatch(one, options.allRows);
  const { images, rows, repeats } = batch.shape;
  const inputs = new MicroBatchInputs(device, config, images, repeats);
  const at = headRows(one, batch);
  const times = golden.get(`${prefix}t`) as Int32Array;
  inputs.write(
    golden.f32(`${prefix}imgs`),
    batch,
    Uint32Array.from(at, (row) => times[row]),
  );
  const channels = network.tokenDim;
  const noise = device.tensor(
    [rows * repeats, channels],
    'f32',
    'noise',
    rowsOf(golden.f32(`${prefix}noise`), at, channels),
  );
  const loss = device.tensor([1], 'f32', 'loss', [0]);
  const terms = device.tensor([rows * repeats, 2], 'f32', 'terms');
  const table = processTable(device);
  const session = new Session(device);
  const program = session.record('micro-batch', (r) => {
    network.refresh(r);
    recordMicroBatch(r, network, batch.shape, { inputs, table, noise: { noise }, loss }, { ...options, terms });
  });
  await session.prepare();
  session.run(program);
  const gradients = new Map<string, Float32Array>();
  for (const { name } of parameters.list) gradients.set(name, await parameters.read(name, 'gradient'));
  const result: Run = {
    loss: (await device.read(loss))[0],
    terms: await device.read(terms),
    gradients,
  };
  session.dispose();
  inputs.dispose();
  network.dispose();
  parameters.dispose();
  for (const tensor of [noise, loss, terms, table.tensor]) tensor.destroy();
  return result;
}

/** The file's per-row terms of the micro-batch's rows; unreliable ones (README: t = 0 in float32) from float64. */
function expectTerms(one: TrainingCase, got: Float32Array, allRows: boolean): void {
  const { golden, prefix } = one;
  const at = headRows(one, goldenMicroBatch(one, allRows));
  const t = golden.get(`${prefix}t`) as Int32Array;
  const mse = golden.f32(`${prefix}term_mse`);
  const vb = golden.f32(`${prefix}term_vb`);
  const exact = golden.has(`${prefix}term_vb_f64`) ? golden.f64(`${prefix}term_vb_f64`) : undefined;
  // Of the largest term of all rows of the file, those at t = 0 left out.
  const limit = (terms: Float32Array) =>
    LOSS * terms.reduce((most, value, row) => (t[row] === 0 ? most : Math.max(most, Math.abs(value))), 0);
  expectClose(
    got.filter((_, i) => i % 2 === 0),
    at.map((row) => mse[row]),
    { absolute: limit(mse) },
    'mse',
  );
  const rest = at.map((row, i) => ({ row, value: got[2 * i + 1] })).filter(({ row }) => t[row] !== 0);
  expectClose(
    rest.map(({ value }) => value),
    rest.map(({ row }) => vb[row]),
    { absolute: limit(vb) },
    'variational term',
  );
  for (const [i, row] of at.entries()) {
    if (t[row] !== 0 || !exact) continue;
    expect(Math.abs(got[2 * i + 1] / exact[row] - 1), `variational term of row ${row} at t = 0`).toBeLessThan(0.01);
  }
}

function expectGradients(golden: Golden, prefix: string, gradients: Map<string, Float32Array>): void {
  const names = golden.names(`${prefix}grad.`);
  for (const full of names) {
    const name = full.slice(`${prefix}grad.`.length);
    expectClose(gradients.get(name)!, golden.f32(full), { relative: GRADIENT }, `gradient of ${name}`);
  }
}

describeGolden('train_*', (golden) => {
  const cases = golden.metaKeys().includes('config') ? trainingCases(golden) : [];
  if (cases.length === 0) it.skip('holds no training step', () => {});
  describe.each(cases.map((one) => [one.prefix || 'step', one] as const))('%s', (_, one) => {
    const { prefix } = one;

    it('loss terms of every row and the total', async () => {
      const { loss, terms } = await run(one, { allRows: true });
      expectTerms(one, terms, true);
      const expected = golden.f64(`${prefix}loss`)[0];
      expect(Math.abs(loss / expected - 1)).toBeLessThan(LOSS);
    });

    it('masked rows alone, times embedded once, give the same loss and the gradient of every parameter', async () => {
      const { loss, gradients, terms } = await run(one, { allRows: false, timeTable: true });
      expectTerms(one, terms, false);
      expect(Math.abs(loss / golden.f64(`${prefix}loss`)[0] - 1)).toBeLessThan(LOSS);
      if (golden.names(`${prefix}grad.`).length === 0) return;
      const expected = new Set([...parameterShapes(one.config).keys()]);
      for (const name of golden.names(`${prefix}grad.`)) expected.delete(name.slice(`${prefix}grad.`.length));
      expect([...expected], 'parameters without a golden gradient').toEqual([]);
      expectGradients(golden, prefix, gradients);
    });

    it('activation checkpointing changes nothing', async () => {
      const plain = await run(one, { allRows: false });
      const again = await run(one, { allRows: false, checkpointing: true });
      expect(again.loss).toBe(plain.loss);
      for (const [name, values] of plain.gradients) expect(again.gradients.get(name), name).toEqual(values);
    });
  });
});
