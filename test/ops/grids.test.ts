/** Sizes beyond 65535 workgroups of one dimension, which no test computes: dispatches are folded over another. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Recorder } from '../../src/gpu/recorder.ts';
import { conv, convVariants, createConv } from '../../src/ops/conv.ts';
import { normal, sinusoid } from '../../src/ops/diffusion.ts';
import { groupNorm } from '../../src/ops/group_norm.ts';

describe.each([
  ['a GPU', { isCpu: false, lanes: 32, hasF16: true, hasSubgroups: true }],
  ['a CPU driver of 8 lanes', { isCpu: true, lanes: 8, hasF16: true, hasSubgroups: true }],
  ['a CPU driver of 4 lanes', { isCpu: true, lanes: 4, hasF16: false, hasSubgroups: true }],
])('on %s', (_, abilities) => {
  let device: Device;
  beforeAll(async () => {
    device = await Device.plan(abilities);
  });
  afterAll(async () => {
    await Promise.allSettled([...device.kernels].map(({ ready }) => ready));
    device.dispose();
  });

  const tensor = (...shape: number[]) => device.tensor(shape, 'f32', 'x');
  /** Workgroups of the dispatches, dimension by dimension. */
  const grids = (record: (r: Recorder) => void) => {
    const recorder = new Recorder(device);
    record(recorder);
    return recorder.dispatches.map(({ grid }) => grid);
  };

  it.each([1, 3])('a convolution, kernel of %i, over 64 images of 512 x 512 pixels', (side) => {
    const shape = { inputs: 4, outputs: 132, kernel: [side, side], padding: side >> 1 } as const;
    for (const variant of convVariants(device, shape)) {
      const layer = createConv(device, 'conv', shape, new Float32Array(528 * side ** 2), undefined, { variant });
      const [[x, y, z]] = grids((r) => conv(r, tensor(64, 512, 512, 4), layer));
      const tile = { tiled: 64 * 64, cpu: 32 * 16 * abilities.lanes, cpu_quad: 16 * 16, reference: 64, depthwise: 0 };
      expect(x * y * z * tile[variant], variant).toBeGreaterThanOrEqual(64 * 512 * 512 * 132);
    }
  });

  it('element-wise kernels', () => {
    const key = { seed: 0, stream: 0, step: 0, headStep: 0 };
    const rows = 2 ** 20;
    const all = grids((r) => {
      sinusoid(r, tensor(rows), tensor(128), 256);
      normal(r, device.tensor([rows, 2], 'u32', 'rows'), 0, rows, 32, key, tensor(rows, 32));
      groupNorm(r, tensor(2 ** 14, 16, 16, 32), { weight: tensor(32), bias: tensor(32) });
    });
    expect(all[0][0] * all[0][1]).toBe((rows * 256) / 64);
    expect(all[1][0] * all[1][1]).toBe((rows * 16) / 64);
    expect(all[2][0] * all[2][1]).toBe((2 ** 14 * 16 * 32) / 64);
  });
});
