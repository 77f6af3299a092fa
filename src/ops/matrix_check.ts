/** Whether the kernels that multiply subgroup matrices are right on a device, in every tile. */
import type { Device } from '../gpu/device.ts';
import { attentionOp } from './attention.ts';
import { compareVariant, isRight, type OpCheck } from './check.ts';
import { matmulOp } from './matmul.ts';
import type { Op, Problem } from './op.ts';

/** An op in the implementation that is checked, with odd edges, and more rows and columns than a tile has. */
export type MatrixCase = readonly [op: Op, variant: string, problem: Problem];

const half = { x: 'f16', y: 'f16', stored: 'f16' };
const CASES: readonly MatrixCase[] = [
  [matmulOp, 'subgroup_matrix', { m: 197, k: 100, n: 156, bias: true, activation: 'gelu', gate: true, ...half }],
  [matmulOp, 'subgroup_matrix', { m: 21, k: 68, n: 36, bias: true, residual: true, x: 'f16', stored: 'int8' }],
  [attentionOp, 'flash_matrix', { batch: 1, heads: 2, headDim: 64, queries: 75, keys: 75, fused: true, stored: 'f16' }],
];

/** What is wrong first, for people; empty where all are right. @throws EmigmError 'adapter' when the device is lost */
export async function firstWrong(device: Device, cases: readonly MatrixCase[] = CASES): Promise<string> {
  for (const [op, variant, problem] of cases) {
    for (const tile of op.tiles!.of(device, problem, variant)) {
      const record: Op['record'] = (r, tensors, given, name) => op.record(r, tensors, given, name, tile);
      const found = await compareVariant(device, { ...op, record }, problem, variant);
      if (!isRight(found)) return describe(found, tile);
    }
  }
  return '';
}

function describe({ op, variant, error, failure }: OpCheck, tile: number): string {
  const what = failure?.split('\n')[0] ?? `off by ${error.toExponential(1)} of the largest value`;
  return `${op} ${variant} in tiles of ${tile}: ${what}`;
}
