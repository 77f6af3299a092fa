/** The head's loss with the real process, against the official formulas in float64, over wide ranges of its inputs. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cosineBetas, diffusionTables } from '../../src/diffusion/betas.ts';
import { headLossTable } from '../../src/diffusion/training.ts';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { headLoss, type ProcessTable } from '../../src/ops/loss.ts';
import { random } from '../helpers/golden.ts';
import { variationalBits } from '../helpers/head_loss.ts';

let device: Device;
let table: ProcessTable;
beforeAll(async () => {
  device = await Device.open();
  const { rows, halfBin } = headLossTable();
  table = { tensor: device.tensor([rows.length / 4, 4], 'f32', 'table', rows), halfBin };
});
afterAll(() => device?.dispose());

const tables = diffusionTables(cosineBetas());

/** Runs rows of one channel each: eps, v, noise, x_t and t of each. */
async function run(rows: { eps: number; v: number; noise: number; xT: number; t: number }[]) {
  const n = rows.length;
  const tensor = (name: string, values?: number[], width = 1) => device.tensor([n, width], 'f32', name, values);
  const input = {
    net: tensor(
      'net',
      rows.flatMap(({ eps, v }) => [eps, v]),
      2,
    ),
    noise: tensor(
      'noise',
      rows.map(({ noise }) => noise),
    ),
    xT: tensor(
      'x_t',
      rows.map(({ xT }) => xT),
    ),
    t: device.tensor(
      [n],
      'u32',
      't',
      rows.map(({ t }) => t),
    ),
    weights: tensor(
      'weights',
      rows.map(() => 1),
    ),
  };
  const out = {
    terms: tensor('terms', undefined, 2),
    dNet: tensor('d_net', undefined, 2),
    total: device.tensor([1], 'f32', 'total'),
  };
  const session = new Session(device);
  const program = session.record('loss', (r) => {
    headLoss(r, input, table, { rows: n, repeats: 1, channels: 1 }, out);
  });
  await session.prepare();
  session.run(program);
  const result = { terms: await device.read(out.terms), dNet: await device.read(out.dNet) };
  session.dispose();
  return result;
}

/** Relative to the value itself, not to the largest of a tensor. */
const close = (actual: number, expected: number, relative: number, absolute: number, label: string) =>
  expect(Math.abs(actual - expected), `${label}: ${actual}, expected ${expected}`).toBeLessThanOrEqual(
    relative * Math.abs(expected) + absolute,
  );

describe('head loss', () => {
  it.each([
    ['at t = 0, of tokens between -1 and 1', 0, 0.99],
    ['at t = 0, of tokens beyond them', 0, 4],
    ['at t > 0', 1, 4],
  ])('every value and derivative %s', async (_, least, reach) => {
    const rng = random();
    const rows = Array.from({ length: 600 }, () => {
      const t = least === 0 ? 0 : rng.integer(1, 999);
      const [x0, noise] = [rng.uniform(1, -reach, reach)[0], rng.normal(1)[0]];
      const [eps, v] = [Math.fround(noise + rng.normal(1, rng.next() < 0.5 ? 0.3 : 3)[0]), rng.normal(1, 1.5)[0]];
      const alphaBar = tables.alphasCumprod[t];
      return { t, eps, v, noise, x0, xT: Math.fround(Math.sqrt(alphaBar) * x0 + Math.sqrt(1 - alphaBar) * noise) };
    });
    const { terms, dNet } = await run(rows);
    rows.forEach(({ t, eps, v, noise, x0 }, i) => {
      const label = `t ${t}, eps ${eps}, v ${v}, noise ${noise}, x0 ${x0}`;
      const bits = (at: number) => variationalBits({ eps, v: at, noise, x0, t });
      close(terms[2 * i], (eps - noise) ** 2, 1e-6, 1e-12, `mse: ${label}`);
      close(terms[2 * i + 1], bits(v), 5e-6, 1e-7, `vb: ${label}`);
      close(dNet[2 * i], 2 * (eps - noise), 1e-6, 0, `d eps: ${label}`);
      const slope = (bits(v + 1e-4) - bits(v - 1e-4)) / 2e-4;
      const clamped = bits(v - 1e-4) > 39.8 || bits(v + 1e-4) > 39.8; // -log2(1e-12): a kink
      if (!clamped) close(dNet[2 * i + 1], slope, 1e-5, 1e-6, `d v: ${label}`);
    });
  });
});
