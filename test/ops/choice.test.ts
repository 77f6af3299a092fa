/** Which kernels serve which adapter: what is left out where an ability is missing. */
import { describe, expect, it } from 'vitest';
import { type Abilities, Device } from '../../src/gpu/device.ts';
import { type SubgroupMatrix, subgroupSize } from '../../src/gpu/subgroups.ts';
import { defaultStored } from '../../src/nn/weights.ts';
import { attentionOp } from '../../src/ops/attention.ts';
import { layernormOp } from '../../src/ops/layernorm.ts';
import { allocateLinear } from '../../src/ops/matmul.ts';
import { matmulKernel, matmulVariants, matrixShape } from '../../src/ops/matmul_kernels.ts';

const shape = (m: number, n: number, k: number, operand = 'f16', result = 'f32'): SubgroupMatrix => {
  return { m, n, k, operand, result };
};
/** As NVIDIA's driver lists them. */
const NVIDIA = [
  shape(16, 16, 16, 'f16', 'f16'),
  shape(16, 16, 16),
  shape(16, 8, 16),
  shape(16, 8, 8),
  shape(16, 16, 32, 'u8', 'u32'),
];
const GPU: Partial<Abilities> = {
  isCpu: false,
  hasF16: true,
  hasSubgroups: true,
  lanes: 32,
  subgroupMatrix: NVIDIA,
  workgroupMemory: 49152,
  workgroupSize: 1024,
};

/** The preferred kernels of a layer of eMIGM-B, as its weights are stored by default. */
async function chosen(abilities: Partial<Abilities>): Promise<string[]> {
  const device = await Device.plan(abilities);
  try {
    const stored = defaultStored(device);
    const layer = allocateLinear(device, 'w', [3072, 768], true, { stored });
    const attention = { batch: 1, heads: 12, headDim: 64, queries: 320, keys: 320, stored: layer.input ?? 'f32' };
    const norm = layernormOp.variants(device, { rows: 320, width: 768 })[0];
    return [layer.stored, layer.variant, attentionOp.variants(device, attention)[0], norm];
  } finally {
    device.dispose();
  }
}

describe('the kernels of a layer', () => {
  const rows: [string, Partial<Abilities>, string[]][] = [
    ['a GPU with tensor cores', GPU, ['f16', 'subgroup_matrix', 'flash_matrix', 'layernorm']],
    ['one without them', { ...GPU, subgroupMatrix: [] }, ['f16', 'tiled_vec4', 'flash', 'layernorm']],
    [
      'one whose tensor cores add in f16',
      { ...GPU, subgroupMatrix: [NVIDIA[0], NVIDIA[4]] },
      ['f16', 'tiled_vec4', 'flash', 'layernorm'],
    ],
    ['one with subgroups of several sizes', { ...GPU, lanes: 0 }, ['f16', 'tiled_vec4', 'flash', 'layernorm']],
    ['one without f16', { ...GPU, hasF16: false }, ['f32', 'tiled_vec4', 'flash', 'layernorm']],
    [
      'one with nothing but the core',
      { isCpu: false, hasF16: false, hasSubgroups: false, lanes: 0, subgroupMatrix: [] },
      ['f32', 'tiled_vec4', 'flash', 'layernorm'],
    ],
    [
      'a CPU driver of 8 lanes',
      { isCpu: true, hasF16: true, hasSubgroups: true, lanes: 8 },
      ['f32', 'cpu', 'cpu', 'layernorm_subgroup'],
    ],
    [
      'a CPU driver of 4 lanes',
      { isCpu: true, hasF16: false, hasSubgroups: true, lanes: 4 },
      ['f32', 'cpu_quad', 'cpu_quad', 'layernorm_subgroup'],
    ],
    [
      'a CPU driver without subgroups',
      { isCpu: true, hasF16: false, hasSubgroups: false, lanes: 0 },
      ['f32', 'reference', 'reference', 'reference'],
    ],
  ];
  it.each(rows)('%s', async (_, abilities, expected) => {
    expect(await chosen(abilities)).toEqual(expected);
  });
});

it.each([
  ['one size', 32, 32, true, { lanes: 32, pinned: false }],
  ['32 or 64', 32, 64, true, { lanes: 32, pinned: true }],
  ['64 or 128', 64, 128, true, { lanes: 64, pinned: true }],
  ['32 or 64 without a choice', 32, 64, false, { lanes: 0, pinned: false }],
  ['8 to 32', 8, 32, true, { lanes: 0, pinned: false }],
  ['not told', undefined, undefined, false, { lanes: 0, pinned: false }],
])('the subgroup size relied on: %s', (_, low, high, hasControl, expected) => {
  expect(subgroupSize(low, high, hasControl)).toEqual(expected);
});

describe('subgroup matrices', () => {
  const planned = async <T>(abilities: Partial<Abilities>, read: (device: Device) => T): Promise<T> => {
    const device = await Device.plan(abilities);
    try {
      return read(device);
    } finally {
      device.dispose();
    }
  };
  const consts = (device: Device, rows: number) =>
    matmulKernel(
      device,
      { inputs: 1024, outputs: 4096, variant: 'subgroup_matrix', stored: 'f16' },
      { rows, x: 'f16', y: 'f16' },
    ).kernel.consts;

  it('of the largest shape with sums in f32 are used', async () => {
    expect(await planned(GPU, matrixShape)).toEqual(shape(16, 16, 16));
    expect(await planned({ ...GPU, subgroupMatrix: NVIDIA.slice(2) }, matrixShape)).toEqual(shape(16, 8, 16));
    expect(await planned({ ...GPU, subgroupMatrix: [shape(8, 8, 8)] }, matrixShape)).toEqual(shape(8, 8, 8));
  });

  it('serve layers of f16 and int8, whose sizes are multiples of 4', async () => {
    const first = (inputs: number, stored: 'f32' | 'f16' | 'int8') => (device: Device) =>
      matmulVariants(device, inputs, 768, stored)[0];
    expect(await planned(GPU, first(768, 'int8'))).toBe('subgroup_matrix');
    expect(await planned(GPU, first(768, 'f32'))).toBe('tiled_vec4');
    expect(await planned(GPU, first(771, 'f16'))).toBe('tiled');
  });

  it.each([
    ['32 lanes', GPU],
    ['64 lanes', { ...GPU, lanes: 64 }],
    ['16 x 8 x 16', { ...GPU, subgroupMatrix: [shape(16, 8, 16)] }],
    ['64 lanes, small workgroups', { ...GPU, lanes: 64, workgroupSize: 256 }],
    ['little workgroup memory', { ...GPU, workgroupMemory: 16384 }],
  ])('%s: tiles fit the adapter, and grow with the rows', async (_, abilities) => {
    await planned(abilities, (device) => {
      let before = 0;
      for (const rows of [1, 64, 320, 4096]) {
        const c = consts(device, rows) as Record<string, number>;
        const [tall, wide] = [c.MATRIX_M * c.SUB_M * c.GROUP_M, c.MATRIX_N * c.SUB_N * c.GROUP_N];
        const subgroups = c.SLICES * c.GROUP_M * c.GROUP_N;
        const bytes =
          4 * (tall + wide) * (c.MATRIX_K * c.STEPS * c.SLICES + 8) + 4 * subgroups * c.MATRIX_M * c.MATRIX_N;
        expect(bytes).toBeLessThanOrEqual(device.workgroupMemory);
        expect(c.LANES * subgroups).toBeLessThanOrEqual(device.workgroupSize);
        expect(tall * wide).toBeGreaterThanOrEqual(before);
        before = tall * wide;
      }
    });
  });
});
