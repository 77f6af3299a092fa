/** Subgroup matrices are left out where their kernels are wrong, and what was found is remembered. Emulated. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { readMatrixCheck, writeMatrixCheck } from '../../src/gpu/adapter_cache.ts';
import { Device } from '../../src/gpu/device.ts';
import { KernelCache } from '../../src/gpu/kernel.ts';
import { matmulOp } from '../../src/ops/matmul.ts';
import { matmulVariants } from '../../src/ops/matmul_kernels.ts';
import { firstWrong, type MatrixCase } from '../../src/ops/matrix_check.ts';
import { checkMatrices } from '../../src/ops/open_device.ts';
import { emulateSubgroupMatrix, inOwnTypes, readEmulated, SMALL_MATRICES } from '../helpers/subgroup_matrix.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-matrices-'));
let device: Device;
let cases: MatrixCase[];
const abilities = { ...SMALL_MATRICES, workgroupMemory: 8000 }; // for the smallest tile alone

beforeAll(async () => {
  device = await Device.open();
  const problem = inOwnTypes({ m: 17, k: 36, n: 20, bias: true, x: 'f16', y: 'f16', stored: 'f16' }, device.hasF16);
  cases = [[matmulOp, 'subgroup_matrix', problem]];
  emulateSubgroupMatrix(device, abilities);
});
beforeEach(() => {
  vi.stubEnv('EMIGM_CACHE', folder);
  Object.assign(device, { subgroupMatrix: abilities.subgroupMatrix, matricesLeftOut: undefined });
});
afterAll(() => {
  vi.unstubAllEnvs();
  device?.dispose();
  rmSync(folder, { recursive: true, force: true });
});

/** With the kernel's source changed. */
async function firstWrongOf(change: (source: string) => string): Promise<string> {
  const hasF16 = device.handle.features.has('shader-f16');
  const { kernels } = device;
  try {
    const read = (file: string) => change(readEmulated(hasF16)(file));
    Object.assign(device, { kernels: new KernelCache(device.handle, read) });
    return await firstWrong(device, cases);
  } finally {
    Object.assign(device, { kernels });
  }
}

describe('kernels that multiply subgroup matrices', () => {
  it('are found right', async () => {
    expect(await firstWrong(device, cases)).toBe('');
  });

  it('are found wrong by their numbers, and by what the compiler says', async () => {
    const wrong = await firstWrongOf((source) => source.replace('m.cells[r * MATRIX_N + c] +=', '$& 1.01 *'));
    expect(wrong).toMatch(/^matmul subgroup_matrix in tiles of \d+: off by \d\.\de-\d of the largest value$/);
    const broken = await firstWrongOf((source) => source.replace('fn multiply_add', 'fn multiply_add_'));
    expect(broken).toMatch(/^matmul subgroup_matrix in tiles of \d+: kernels\/matmul\/subgroup_matrix\.wgsl:\d+:\d+: /);
  });

  it('are left out from then on', async () => {
    expect(readMatrixCheck(device.opened)).toBeUndefined();
    expect(matmulVariants(device, 64, 64, 'f16')[0]).toBe('subgroup_matrix');
    writeMatrixCheck(device.opened, '');
    await checkMatrices(device);
    expect(matmulVariants(device, 64, 64, 'f16')[0]).toBe('subgroup_matrix');
    writeMatrixCheck(device.opened, 'off by 1');
    await checkMatrices(device);
    expect(matmulVariants(device, 64, 64, 'f16')[0]).toBe('tiled_vec4');
    expect(device.matricesLeftOut).toBe('off by 1');
  });
});
