/** Clipping, AdamW and moving average against the official code's two steps from stored gradients. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { adamw, adamwSchedule, gradNorm, scale } from '../../src/ops/optimizer.ts';
import { describeGolden, expectClose, type Golden } from '../helpers/golden.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

/** README: absolute. The gradients are the file's own, so that tiny ones have their signs too. */
const ADAMW = 1e-6;

interface OptimizerArguments {
  lr_step1: number;
  lr_step2: number;
  betas: [number, number];
  eps: number;
  weight_decay: number;
  grad_clip: number;
  ema_rate: number;
  no_decay: string[];
}

/** All parameters one after another, those with weight decay first, each padded to a multiple of 4. */
function layOut(golden: Golden, { no_decay }: OptimizerArguments) {
  const names = golden.names('grad.').map((name) => name.slice('grad.'.length));
  const ordered = [
    ...names.filter((name) => !no_decay.includes(name)),
    ...names.filter((name) => no_decay.includes(name)),
  ];
  const offsets = new Map<string, number>();
  let size = 0;
  let decayed = 0;
  for (const name of ordered) {
    offsets.set(name, size);
    size += Math.ceil(golden.f32(`grad.${name}`).length / 4) * 4;
    if (!no_decay.includes(name)) decayed = size;
  }
  const flat = (prefix: string) => {
    const values = new Float32Array(size);
    for (const [name, offset] of offsets) values.set(golden.f32(`${prefix}${name}`), offset);
    return values;
  };
  return { offsets, size, decayed, flat };
}

describeGolden('train_*', (golden) => {
  if (!golden.metaKeys().includes('optimizer')) {
    it('has no optimizer steps', () => expect(golden.names('param_after')).toEqual([]));
    return;
  }
  const args: OptimizerArguments = golden.meta('optimizer');

  describe('optimizer', () => {
    it('two steps: norms, values, average, moments', async () => {
      const { offsets, size, decayed, flat } = layOut(golden, args);
      expect(offsets.size).toBeGreaterThan(0);
      const tensor = (label: string, values?: Float32Array) => device.tensor([size], 'f32', label, values);
      const state = {
        value: tensor('value', flat('param.')),
        gradient: tensor('gradient', flat('grad.')),
        firstMoment: tensor('first moment', new Float32Array(size)),
        secondMoment: tensor('second moment', new Float32Array(size)),
        average: tensor('average', flat('ema_before.')),
      };
      const norm = device.tensor([1], 'f32', 'norm');
      const schedule = device.tensor([4], 'f32', 'schedule');
      const [beta1, beta2] = args.betas;
      const session = new Session(device);
      const halve = session.record('halve', (r) => scale(r, state.gradient, 0.5));
      const step = session.record('step', (r) => {
        gradNorm(r, [state.gradient], norm);
        const options = { beta1, beta2, eps: args.eps, clip: { maxNorm: args.grad_clip, norm }, schedule };
        adamw(r, state, { ...options, weightDecay: args.weight_decay, range: { offset: 0, count: decayed } });
        adamw(r, state, { ...options, weightDecay: 0, range: { offset: decayed, count: size - decayed } });
      });
      await session.prepare();

      const check = async (prefix: string, from: keyof typeof state) => {
        if (golden.names(prefix).length === 0) return;
        const values = await device.read(state[from]);
        for (const [name, offset] of offsets) {
          const expected = golden.f32(`${prefix}${name}`);
          const got = values.subarray(offset, offset + expected.length);
          expectClose(got, expected, { absolute: ADAMW }, `${prefix}${name}`);
          // Moments are small: to their own scale too.
          if (prefix.startsWith('exp_avg')) expectClose(got, expected, { relative: 1e-5 }, `${prefix}${name}`);
        }
      };

      for (const [number, learningRate] of [args.lr_step1, args.lr_step2].entries()) {
        if (number === 1) {
          device.write(state.gradient, flat('grad.'));
          session.run(halve);
        }
        device.write(schedule, adamwSchedule(number + 1, { learningRate, beta1, beta2, averageDecay: args.ema_rate }));
        session.run(step);
        const name = number === 0 ? 'grad_norm' : 'grad_norm2';
        expectClose(await device.read(norm), golden.f32(name), { relative: 1e-6 }, name);
        await check(`param_after${number + 1}.`, 'value');
        await check(`ema_after${number + 1}.`, 'average');
        expect((await device.read(state.gradient)).every((g) => g === 0)).toBe(true);
      }
      expect(golden.names('param_after2.').length).toBe(offsets.size);
      expect(golden.names('ema_after2.').length).toBe(offsets.size);
      await check('exp_avg.', 'firstMoment');
      await check('exp_avg_sq.', 'secondMoment');
      session.dispose();
    });
  });
});
