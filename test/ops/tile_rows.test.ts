/** Kernels for CPU drivers take more rows at once when there are more; a row's value may not depend on it. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { createLinear, linear } from '../../src/ops/matmul.ts';
import { attentionRows, backwardRows, cpuRows, int8Rows, leastCost } from '../../src/ops/tile_rows.ts';
import { random } from '../helpers/golden.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device.dispose());

describe('rows of a workgroup', () => {
  it('waste as few rows as the fixed cost of a workgroup allows', () => {
    expect(leastCost([8, 16], 0, 24)).toBe(8);
    expect(leastCost([8, 16], 100, 24)).toBe(16);
    const rows = [1, 9, 24, 72, 320, 2048];
    expect(rows.map((count) => cpuRows(8, count, 768 * 768))).toEqual([8, 16, 24, 24, 32, 32]);
    expect(rows.map((count) => cpuRows(8, count, 128 * 512))).toEqual([8, 8, 24, 24, 24, 32]);
    expect(cpuRows(32, 1000, 768 * 768)).toBe(32);
    expect([int8Rows(8, 8), int8Rows(8, 320)]).toEqual([8, 16]);
    expect([attentionRows(8, 32, 320), attentionRows(8, 64, 64), attentionRows(8, 64, 8)]).toEqual([8, 16, 8]);
    expect([36, 72, 8].map((count) => backwardRows(8, 32, count))).toEqual([24, 24, 8]);
    expect([64, 256].map((count) => backwardRows(8, 64, count))).toEqual([16, 16]);
  });

  it.each(['f32', 'f16', 'int8'] as const)('do not change a matmul, weights in %s', async (stored) => {
    const [inputs, outputs, most] = [44, 40, 100];
    const source = random();
    const weight = source.normal(inputs * outputs);
    const layer = createLinear(device, 'w', [outputs, inputs], weight, undefined, { variant: 'cpu', stored });
    const x = device.tensor([most, inputs], 'f32', 'x', source.normal(most * inputs));
    const y = [most, 33, 20, 9, 1].map((rows) => device.tensor([rows, outputs], 'f32', 'y'));
    const session = new Session(device);
    const program = session.record('matmul', (r) => {
      for (const out of y) linear(r, x, layer, { rows: out.shape[0], out });
    });
    expect(new Set(program.dispatches.map(({ kernel }) => kernel.spec.consts?.ROWS)).size).toBeGreaterThan(1);
    await session.prepare();
    session.run(program);
    const [all, ...fewer] = await Promise.all(y.map((tensor) => device.read(tensor)));
    for (const few of fewer) expect(few).toEqual(all.subarray(0, few.length));
    expect(all.every(Number.isFinite)).toBe(true);
    session.dispose();
  });
});
