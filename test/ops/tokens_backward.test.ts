/** What the gradients of ops/tokens.ts do not show of their backward: lists with padding, one list for several calls. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EmigmError } from '../../src/errors.ts';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { MASKED } from '../../src/ops/tokens.ts';
import { embeddingBackward, gatherRowsBackward, positionBackward, rowUses } from '../../src/ops/tokens_backward.ts';
import { expectClose, random } from '../helpers/numbers.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

describe('rowUses', () => {
  it('sorts rows, then places; padding comes last', () => {
    expect([...rowUses([3, MASKED, 0, 3, 1])]).toEqual([0, 1, 3, 3, MASKED, 2, 4, 0, 3, 1]);
    expect([...rowUses([])]).toEqual([]);
  });

  it('agrees with a stable sort on many rows', () => {
    const rng = random();
    const index = Array.from({ length: 3000 }, () => rng.integer(0, 1000));
    const order = index.map((_, i) => i).sort((a, b) => index[a] - index[b] || a - b);
    expect([...rowUses(index)]).toEqual([...order.map((i) => index[i]), ...order]);
  });
});

describe('embedding backward', () => {
  it('adds repeated rows in order, ignores padding, reads its list from an offset', async () => {
    const rng = random();
    const [rows, width, count] = [13, 8, 150];
    const index = Array.from({ length: count }, () => (rng.next() < 0.2 ? MASKED : rng.integer(0, rows - 2)));
    const dY = rng.normal(count * width);
    const before = rng.normal(rows * width);
    const expected = Float64Array.from(before);
    index.forEach((row, i) => {
      if (row !== MASKED) for (let c = 0; c < width; c++) expected[row * width + c] += dY[i * width + c];
    });
    const uses = device.tensor([3 + 2 * count], 'u32', 'uses', [7, 7, 7, ...rowUses(index)]);
    const d = device.tensor([count, width], 'f32', 'd_y', dY);
    const table = device.tensor([rows, width], 'f32', 'd_table', before);
    const session = new Session(device);
    const program = session.record('embedding', (r) => {
      embeddingBackward(r, d, { tensor: uses, offset: 3 }, count, width, table);
    });
    await session.prepare();
    session.run(program);
    const got = await device.read(table);
    expectClose(got, expected, { relative: 1e-6 });
    expect([...got.subarray((rows - 1) * width)]).toEqual([...before.subarray((rows - 1) * width)]);
    session.dispose();
    for (const tensor of [uses, d, table]) tensor.destroy();
  });
});

describe('position backward', () => {
  it('with no buffer is the gradient of a table that every batch entry takes some rows of', async () => {
    const rng = random();
    const [batch, queries, grid, width] = [3, 2, 5, 6];
    const places = [1, 4, 0, 1, 4, 3];
    const dZ = rng.normal(batch * queries * width);
    const slot = new Uint32Array(batch * grid).fill(MASKED);
    const expected = new Float64Array(grid * width);
    places.forEach((place, i) => {
      slot[Math.floor(i / queries) * grid + place] = i % queries;
      for (let c = 0; c < width; c++) expected[place * width + c] += dZ[i * width + c];
    });
    const index = { tensor: device.tensor([slot.length], 'u32', 'slot', slot), offset: 0 };
    const d = device.tensor([batch * queries, width], 'f32', 'd_z', dZ);
    const table = device.tensor([grid, width], 'f32', 'd_table', new Float32Array(grid * width));
    const session = new Session(device);
    const program = session.record('positions', (r) => {
      positionBackward(r, d, { batch, buffer: 0, grid, length: queries, width }, table, index);
      expect(() => positionBackward(r, d, { batch, buffer: 0, grid, length: queries, width }, table)).toThrow(
        EmigmError,
      );
      const add = () => gatherRowsBackward(r, d, index, grid, width, { accumulate: true });
      expect(add).toThrow(/accumulate needs out/);
    });
    await session.prepare();
    session.run(program);
    expectClose(await device.read(table), expected, { relative: 1e-6 });
    session.dispose();
    for (const tensor of [index.tensor, d, table]) tensor.destroy();
  });
});
