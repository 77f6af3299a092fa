/** The head's loss against the official training steps: noisy tokens, every row's terms, the total and its gradient. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { headLossTable } from '../../src/diffusion/training.ts';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { lossWeight } from '../../src/masking/schedules.ts';
import { configFromArgs } from '../../src/models/config.ts';
import { headLoss, qSample } from '../../src/ops/loss.ts';
import { patchify } from '../../src/ops/tokens.ts';
import { describeGolden, expectClose, type Golden } from '../helpers/golden.ts';
import { variationalBits } from '../helpers/head_loss.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

const LOSS = 2e-5; // README: losses, relative
const GRADIENT = { relative: 2e-4 }; // README: gradients

/** `''` for a file of one case, else `case.<strategy>.w<0|1>.m<n>.` */
const casesOf = (golden: Golden) =>
  golden.names().flatMap((name) => /^((?:case\..*\.)?)net_out$/.exec(name)?.[1] ?? []);

/** w * mask / sum(mask) of every row, repeat after repeat (official forward_loss). */
function rowWeights(golden: Golden, prefix: string, rows: number): Float64Array {
  const [, strategy, w] = /^case\.(.+)\.w([01])\.m\d+\.$/.exec(prefix) ?? [];
  const config = golden.meta('config');
  const weighting = (w ? w === '1' : config.use_weighted_loss === true) ? 'elbo' : 'uniform';
  const [mask, p] = [golden.f32(`${prefix}mask`), golden.f32(`${prefix}p_mask`)];
  const masked = (mask.reduce((a, b) => a + b, 0) * rows) / mask.length;
  return Float64Array.from({ length: rows }, (_, row) => {
    const at = row % mask.length;
    return mask[at] ? lossWeight(strategy ?? config.mask_strategy, weighting, p[at]) / masked : 0;
  });
}

describeGolden('train_*', (golden) => {
  const cases = casesOf(golden);
  if (!golden.has('param.z_proj.weight')) {
    it('has no loss', () => expect(cases).toEqual([]));
    return;
  }
  it('has cases', () => expect(cases.length).toBeGreaterThan(0));

  describe.each(cases)('%s', (prefix) => {
    it('x_t, terms, loss, gradient', async () => {
      const f32 = (name: string) => golden.f32(`${prefix}${name}`);
      const tensor = (name: string) => device.tensor(golden.shape(`${prefix}${name}`), 'f32', name, f32(name));
      const { channels: planes, patchSize: patch } = configFromArgs(golden.meta('config'));
      const [rows, channels] = golden.shape(`${prefix}x_t`);
      const tokens = f32('mask').length;
      const batch = { rows, channels, repeats: rows / tokens };
      const u32 = (name: string, values: ArrayLike<number>) => device.tensor([rows], 'u32', name, values);
      const index = u32(
        'index',
        Uint32Array.from({ length: rows }, (_, i) => i % tokens),
      );
      const t = golden.get(`${prefix}t`) as Int32Array;
      const { rows: tableRows, halfBin } = headLossTable();
      const table = { tensor: device.tensor([tableRows.length / 4, 4], 'f32', 'table', tableRows), halfBin };
      const weights = rowWeights(golden, prefix, rows);
      const out = {
        tokens: device.tensor([tokens, channels], 'f32', 'tokens'),
        xT: device.tensor([rows, channels], 'f32', 'x_t'),
        terms: device.tensor([rows, 2], 'f32', 'terms'),
        total: device.tensor([1], 'f32', 'total'),
        dNet: device.tensor([rows, 2 * channels], 'f32', 'd_net'),
      };
      const net = tensor('net_out');
      const session = new Session(device);
      const program = session.record('loss', (r) => {
        const side = golden.shape(`${prefix}imgs`)[2] / patch;
        const x0 = patchify(r, tensor('imgs'), { channels: planes, side, patch }, out.tokens);
        const times = u32('t', t);
        const rowWeight = device.tensor([rows], 'f32', 'weights', weights);
        const source = { noise: tensor('noise') };
        const { xT, noise } = qSample(r, x0, { tensor: index, offset: 0 }, times, table, batch, source, out);
        headLoss(r, { net, noise, xT, t: times, weights: rowWeight }, table, batch, out);
      });
      await session.prepare();
      session.run(program);

      expectClose(await device.read(out.xT), f32('x_t'), { relative: 1e-6 }, 'x_t');
      const terms = await device.read(out.terms);
      const x0 = await device.read(out.tokens);
      const [noise, answer] = [f32('noise'), f32('net_out')];
      const expected = { mse: golden.f64(`${prefix}term_mse_f64`), vb: golden.f64(`${prefix}term_vb_f64`) };
      for (let row = 0; row < rows; row++) {
        const vb = terms[2 * row + 1];
        // The same formulas in float64 on the file's float32 answer of the network: every row to its own scale.
        let bits = 0;
        for (let c = 0; c < channels; c++) {
          const at = row * channels + c;
          const [eps, v] = [answer[at + row * channels], answer[at + (row + 1) * channels]];
          const clean = x0[(row % tokens) * channels + c];
          bits += variationalBits({ eps, v, noise: noise[at], x0: clean, t: t[row] }) / channels;
        }
        expect(Math.abs(vb - bits), `row ${row}, t ${t[row]}: vb ${vb}, ${bits}`).toBeLessThanOrEqual(
          5e-6 * bits + 1e-6,
        );
        if (t[row] > 0) continue;
        const official = expected.vb[row];
        expect(Math.abs(vb - official), `row ${row}, t 0: vb ${vb}, ${official}`).toBeLessThanOrEqual(1e-2 * official);
      }
      // The official float64 run, whose network answered with more digits.
      const later = [...t.keys()].filter((row) => t[row] > 0);
      const mse = terms.filter((_, at) => at % 2 === 0);
      expectClose(mse, expected.mse, { relative: LOSS }, 'term_mse');
      expectClose(
        later.map((row) => terms[2 * row + 1]),
        later.map((row) => expected.vb[row]),
        { relative: LOSS },
        'term_vb',
      );
      for (const name of ['loss', 'loss_f64']) {
        expectClose(await device.read(out.total), golden.f64(`${prefix}${name}`), { relative: LOSS }, name);
      }

      // The gradient of the head's last bias is the sum of that of its output over the rows.
      const bias = `${prefix}grad.diffloss.net.final_layer.linear.bias`;
      if (golden.has(bias)) {
        const gradient = await device.read(out.dNet);
        const sums = new Float64Array(2 * channels);
        for (const [i, value] of gradient.entries()) sums[i % (2 * channels)] += value;
        expectClose(sums, golden.f32(bias), GRADIENT, bias);
      }
      session.dispose();
    });
  });
});
