/** What the optimizer does with numbers that are not finite, and with ranges that are none. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EmigmError } from '../../src/errors.ts';
import { Device } from '../../src/gpu/device.ts';
import { Recorder } from '../../src/gpu/recorder.ts';
import { Session } from '../../src/gpu/session.ts';
import { adamw, adamwSchedule, gradNorm, zero } from '../../src/ops/optimizer.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

const SIZE = 32;
const flat = (label: string, value: number, size = SIZE) =>
  device.tensor([size], 'f32', label, new Float32Array(size).fill(value));

function createState(gradient: Float32Array) {
  return {
    value: flat('value', 1),
    gradient: device.tensor([SIZE], 'f32', 'gradient', gradient),
    firstMoment: flat('first moment', 0.5),
    secondMoment: flat('second moment', 0.25),
    average: flat('average', 2),
  };
}

const betas = { beta1: 0.9, beta2: 0.95 };
const schedule = () =>
  device.tensor([4], 'f32', 'schedule', adamwSchedule(1, { learningRate: 0.1, ...betas, averageDecay: 0.9 }));

describe('adamw', () => {
  it.each([Number.NaN, Number.POSITIVE_INFINITY, 1e30])('changes nothing after a gradient with %d', async (bad) => {
    const gradient = new Float32Array(SIZE).fill(1);
    gradient[SIZE - 5] = bad;
    const state = createState(gradient);
    const session = new Session(device);
    const step = session.record('step', (r) => {
      const norm = gradNorm(r, [state.gradient]);
      adamw(r, state, { ...betas, weightDecay: 0.1, clip: { maxNorm: 1, norm }, schedule: schedule() });
    });
    await session.prepare();
    session.run(step);
    expect(await device.read(state.value)).toEqual(new Float32Array(SIZE).fill(1));
    expect(await device.read(state.firstMoment)).toEqual(new Float32Array(SIZE).fill(0.5));
    expect(await device.read(state.secondMoment)).toEqual(new Float32Array(SIZE).fill(0.25));
    expect(await device.read(state.average)).toEqual(new Float32Array(SIZE).fill(2));
    expect(await device.read(state.gradient)).toEqual(gradient);

    // Once the gradient is cleared, training goes on.
    const clear = session.record('clear', (r) => zero(r, state.gradient));
    await session.prepare();
    session.run([clear, step]);
    for (const value of await device.read(state.value)) expect(value).toBeLessThan(1);
    session.dispose();
  });

  it('refuses tensors of different sizes and ranges that are no multiples of 4', () => {
    const r = new Recorder(device);
    const state = createState(new Float32Array(SIZE));
    const options = { ...betas, weightDecay: 0, schedule: schedule() };
    expect(() => adamw(r, { ...state, average: flat('average', 0, 16) }, options)).toThrow(EmigmError);
    for (const [offset, count] of [
      [0, 30],
      [2, 4],
      [4, SIZE],
    ]) {
      expect(() => adamw(r, state, { ...options, range: { offset, count } })).toThrow(EmigmError);
    }
    expect(r.dispatches.length).toBe(0);
  });
});
