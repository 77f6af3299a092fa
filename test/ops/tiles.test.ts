/** Tiles: results do not depend on them, and measured ones are taken up where they were measured. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Abilities, Device } from '../../src/gpu/device.ts';
import { preferredTile } from '../../src/gpu/tuning.ts';
import { attentionOp } from '../../src/ops/attention.ts';
import { runVariant } from '../../src/ops/check.ts';
import { matmulOp } from '../../src/ops/matmul.ts';
import { matmulKernel, matmulTiles } from '../../src/ops/matmul_kernels.ts';
import type { Op, Problem } from '../../src/ops/op.ts';
import { inputArrays } from '../../src/ops/problem.ts';
import { attentionRows, backwardRows, cpuRows, int8Rows, leastCost } from '../../src/ops/tile_rows.ts';
import { random } from '../helpers/golden.ts';

describe('results do not depend on tiles', () => {
  let device: Device;
  beforeAll(async () => {
    device = await Device.open();
  });
  afterAll(() => device?.dispose());

  const problems: [Op, Problem][] = [
    [matmulOp, { m: 70, k: 36, n: 20, bias: true, activation: 'gelu' }],
    [matmulOp, { m: 35, k: 36, n: 20, bias: true, stored: 'f16' }],
    [matmulOp, { m: 35, k: 36, n: 20, bias: true, stored: 'int8' }],
    [attentionOp, { batch: 1, heads: 2, headDim: 36, queries: 19, keys: 19, fused: true }],
  ];
  it.each(problems.map(([op, problem]) => [op.name, problem, op] as const))('%s %o', async (_, problem, op) => {
    const arrays = inputArrays(op, problem, random());
    let compared = 0;
    for (const variant of op.variants(device, problem)) {
      const [first, ...others] = op.tiles!.of(device, problem, variant);
      const run = (tile: number) => {
        const record: Op['record'] = (r, tensors, given, name) => op.record(r, tensors, given, name, tile);
        return runVariant(device, { ...op, record }, problem, variant, arrays);
      };
      const expected = others.length > 0 && (await run(first));
      for (const tile of others) expect(await run(tile), `${variant} ${tile}`).toEqual(expected);
      compared += others.length;
    }
    expect(compared).toBeGreaterThanOrEqual(op === matmulOp ? 3 : 1);
  });
});

describe('tiles of CPU drivers', () => {
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
});

describe('a measured tile', () => {
  const layer = { shape: 'matmul 8x8 f16', variant: 'one', rows: 100 };
  const tile = (variants: Record<string, string>) => preferredTile({ variants }, layer, [16, 32, 64]);

  it('is taken up by the implementation near the number of rows that it was measured at', () => {
    expect(tile({})).toBe(16);
    expect(tile({ 'matmul 8x8 f16 @ 60': 'one 64' })).toBe(64);
    expect(tile({ 'matmul 8x8 f16 @ 190': 'one 64' })).toBe(64);
    expect(tile({ 'matmul 8x8 f16 @ 60': 'one 64', 'matmul 8x8 f16 @ 110': 'one 32' })).toBe(32);
  });

  it('is left aside by others, far away, and where the adapter does not have it', () => {
    expect(tile({ 'matmul 8x8 f16 @ 49': 'one 64', 'matmul 8x8 f16 @ 201': 'one 32' })).toBe(16);
    expect(tile({ 'matmul 8x8 f16 @ 100': 'other 64' })).toBe(16);
    expect(tile({ 'matmul 8x8 f32 @ 100': 'one 64', 'matmul 8x8 f16': 'one' })).toBe(16);
    expect(tile({ 'matmul 8x8 f16 @ 100': 'one 128' })).toBe(16);
  });

  it('decides the grid and the kernel of a layer', async () => {
    const abilities: Partial<Abilities> = {
      ...{ isCpu: false, hasF16: true, hasSubgroups: true, lanes: 32, workgroupMemory: 49152, workgroupSize: 1024 },
      subgroupMatrix: [{ m: 16, n: 16, k: 16, operand: 'f16', result: 'f32' }],
    };
    const own = { inputs: 768, outputs: 3072, variant: 'subgroup_matrix', stored: 'f16' } as const;
    const grid = async (variants: Record<string, string>) => {
      const device = await Device.plan({ ...abilities, variants });
      try {
        expect(matmulTiles(device, own, 320)).toEqual([64, 128, 32, 16]);
        return matmulKernel(device, own, { rows: 320, x: 'f16', y: 'f16' }).grid;
      } finally {
        device.dispose();
      }
    };
    expect(await grid({})).toEqual([48, 5]);
    expect(await grid({ 'matmul 768x3072 f16 @ 256': 'subgroup_matrix 128' })).toEqual([24, 3]);
    expect(await grid({ 'matmul 768x3072 f16 @ 256': 'tiled_vec4 128' })).toEqual([48, 5]);
  });
});
