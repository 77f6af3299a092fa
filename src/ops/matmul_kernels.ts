/** Which kernel multiplies: the ladder for linear layers, and what each rung wants to know when it is compiled. */
import type { Device } from '../gpu/device.ts';
import type { SubgroupMatrix } from '../gpu/subgroups.ts';
import type { DType } from '../gpu/tensor.ts';
import { preferredFirst, preferredTile, shapeKey } from '../gpu/tuning.ts';
import { builtInFirst, cpuHeights, cpuRows, int8Rows, leastCost } from './tile_rows.ts';

export type MatmulVariant = 'reference' | 'tiled' | 'tiled_vec4' | 'few_rows' | 'subgroup_matrix' | 'cpu' | 'cpu_quad';

/** How weights of linear layers are stored: int8 with one scale an output, see int8.ts. */
export type Stored = 'f32' | 'f16' | 'int8';

export const isPacked = (variant: string) => variant === 'cpu' || variant === 'cpu_quad';
/** Multiplies in f16 whatever its operands are stored in (and adds in f32). */
export const rounds = (variant: string) => variant === 'subgroup_matrix';

/**
 * The kernels that can serve this shape on this device, the preferred one first. The choice does not depend on the
 * number of rows, so that a row's value does not depend on the batch that it is in.
 */
export function matmulVariants(
  device: Device,
  inputs: number,
  outputs: number,
  stored: Stored = 'f32',
): MatmulVariant[] {
  const { lanes, isCpu } = device;
  const quads = inputs % 4 === 0 && outputs % 4 === 0;
  const packed = lanes > 0 && lanes <= 32 && device.hasSubgroups && quads;
  const cpu: MatmulVariant[] = !packed ? [] : lanes === 4 ? ['cpu_quad', 'cpu'] : ['cpu'];
  const shape = quads && stored !== 'f32' ? matrixShape(device) : undefined;
  const matrix: MatmulVariant[] = shape && matrixTiles(device, shape).length > 0 ? ['subgroup_matrix'] : [];
  const quad: MatmulVariant[] = quads ? ['tiled_vec4', 'few_rows'] : [];
  const gpu: MatmulVariant[] = [...matrix, ...quad, ...(stored === 'int8' ? [] : ['tiled' as const])];
  const usable = isCpu ? [...cpu, 'reference' as const, ...gpu] : [...gpu, 'reference' as const, ...cpu];
  return preferredFirst(device, shapeKey.matmul(inputs, outputs, stored), usable);
}

/** The shape of subgroup matrices to multiply f16 by and sum in f32: the largest, if there is one at all. */
export function matrixShape({ subgroupMatrix, hasF16, lanes }: Device): SubgroupMatrix | undefined {
  if (!hasF16 || lanes === 0) return undefined;
  const volume = ({ m, n, k }: SubgroupMatrix) => m * n * k;
  return subgroupMatrix
    .filter(({ operand, result, m, n, k }) => operand === 'f16' && result === 'f32' && Math.max(m, n, k) <= 16)
    .sort((a, b) => volume(b) - volume(a))[0];
}

/** Rows up to which `few_rows.wgsl` serves instead of `tiled_vec4.wgsl`: it adds in the same order. */
const FEW_ROWS = 64;
/** Workgroups that a GPU wants at least, before larger tiles pay. */
const WORKGROUPS = 128;

interface Layer {
  inputs: number;
  outputs: number;
  variant: MatmulVariant;
  stored: Stored;
}

interface MatmulKernel {
  kernel: { file: string; consts: Record<string, string | number> };
  grid: [number, number];
}

/** Heights of `few_rows.wgsl`. */
const FEW = [1, 2, 4, 8];
/** Rows up to which they are worth measuring. */
const MOST_FEW = 4 * FEW_ROWS;

/** Rows that a workgroup can take on of so many, the built-in choice first; none where there is no choice. */
export function matmulTiles(device: Device, { inputs, outputs, variant, stored }: Layer, rows: number): number[] {
  const { lanes } = device;
  switch (variant) {
    case 'cpu':
      return stored === 'int8'
        ? builtInFirst(int8Rows(lanes, rows), [lanes, 2 * lanes])
        : builtInFirst(cpuRows(lanes, rows, inputs * outputs), cpuHeights(lanes));
    case 'cpu_quad':
      return builtInFirst(leastCost([4, 8, 12, 16], 2, rows), [4, 8, 12, 16]);
    case 'subgroup_matrix': {
      const tiles = matrixTiles(device, matrixShape(device)!);
      const groups = (tile: MatrixTile) => Math.ceil(rows / tile.rows) * Math.ceil(outputs / tile.columns);
      const builtIn = tiles.find((tile) => groups(tile) >= WORKGROUPS) ?? tiles.at(-1)!;
      return builtInFirst(
        builtIn.rows,
        tiles.map((tile) => tile.rows),
      );
    }
    case 'tiled_vec4': {
      const tall = Math.ceil(outputs / 64) * Math.ceil(rows / 128) >= WORKGROUPS ? 128 : 64;
      const few = leastCost(FEW, 2, rows);
      return builtInFirst(rows > FEW_ROWS ? tall : few, rows > MOST_FEW ? [64, 128] : [64, 128, ...FEW]);
    }
    case 'few_rows':
      return builtInFirst(leastCost(FEW, 2, rows), FEW);
    default:
      return [];
  }
}

/**
 * The kernel for `rows` rows of x: the layer's own variant, in tiles of `tile` rows or those that suit the number of
 * rows.
 */
export function matmulKernel(
  device: Device,
  layer: Layer,
  { rows, x, y, tile }: { rows: number; x: DType; y: DType; tile?: number },
): MatmulKernel {
  const { inputs, outputs, variant, stored } = layer;
  const shape = shapeKey.matmul(inputs, outputs, stored);
  // 0 for those that have one form alone.
  const tall = tile ?? preferredTile(device, { shape, variant, rows }, matmulTiles(device, layer, rows)) ?? 0;
  const half = (alias: string, dtype: DType) => ({
    ...(dtype === 'f16' && { [alias]: alias.endsWith('4') ? 'vec4<f16>' : 'f16' }),
  });
  const grid = (wide: number, tall: number): [number, number] => [Math.ceil(outputs / wide), Math.ceil(rows / tall)];
  // What is packed in int8 has one form, and files of its own.
  const suffix = stored === 'int8' ? '_int8' : '';
  const weight = (alias: string) => (stored === 'int8' ? {} : half(alias, stored));
  const types4 = { ...half('In4', x), ...weight('Weight4') };
  switch (variant) {
    case 'cpu': {
      const { lanes } = device;
      const groups = Math.ceil(rows / tall);
      // As many groups of rows at once as share evenly, so that no processor waits for the others.
      const together = Math.ceil(groups / Math.ceil(groups / 16));
      return {
        kernel: packedKernel({ LANES: lanes, ROWS: tall }),
        grid: [together * Math.ceil(outputs / (4 * lanes)), Math.ceil(groups / together)],
      };
    }
    case 'cpu_quad':
      return { kernel: packedKernel({ ROWS: tall }), grid: grid(4 * device.lanes, tall) };
    case 'subgroup_matrix': {
      const { columns, consts: sizes } = matrixTiles(device, matrixShape(device)!).find((one) => one.rows === tall)!;
      const consts = { LANES: device.lanes, ...sizes, ...types4, ...half('Out', y) };
      return { kernel: { file: `matmul/subgroup_matrix${suffix}`, consts }, grid: grid(columns, tall) };
    }
    case 'tiled_vec4':
      if (tall >= 64) {
        const narrow = x === 'f16' && stored !== 'f32';
        const consts = { ROWS: tall / 16, QUADS: narrow ? 4 : 2, ...types4, ...half('Out4', y) };
        return { kernel: { file: `matmul/tiled_vec4${suffix}`, consts }, grid: grid(64, tall) };
      }
      return fewRows();
    case 'few_rows':
      return fewRows();
    case 'tiled':
    case 'reference': {
      const consts = { ...half('In', x), ...weight('Weight'), ...half('Out', y) };
      return {
        kernel: { file: `matmul/${variant}${suffix}`, consts },
        grid: variant === 'tiled' ? grid(64, 64) : grid(16, 4),
      };
    }
  }
  function packedKernel(consts: Record<string, number>): MatmulKernel['kernel'] {
    const file = `matmul/${variant}${stored === 'f32' ? '' : `_${stored}`}`;
    return { file, consts: { ...consts, ...half('In4', x), ...half('Out4', y) } };
  }
  function fewRows(): MatmulKernel {
    const consts = { ROWS: tall, ...types4, ...half('Out', y) };
    return { kernel: { file: `matmul/few_rows${suffix}`, consts }, grid: grid(16, tall) };
  }
}

/** Outputs of a subgroup, down and across, and subgroups of a slice, down and across; the largest tile first. */
const MATRIX_TILES = [
  [64, 64, 2, 2],
  [32, 32, 2, 2],
  [16, 16, 2, 2],
  [16, 16, 1, 2],
] as const;
const SLICES = 2;
const TILE_K = 32;

type MatrixTile = ReturnType<typeof matrixTiles>[number];

/** Tiles of `subgroup_matrix.wgsl` that the adapter has room for; sums do not depend on them. */
function matrixTiles(device: Device, { m, n, k }: SubgroupMatrix) {
  return MATRIX_TILES.map(([subRows, subColumns, down, across]) => ({
    rows: subRows * down,
    columns: subColumns * across,
    invocations: device.lanes * SLICES * down * across,
    bytes: 4 * (subRows * down + subColumns * across) * (TILE_K + 8) + 4 * SLICES * down * across * m * n,
    consts: {
      ...{ MATRIX_M: m, MATRIX_N: n, MATRIX_K: k, SUB_M: subRows / m, SUB_N: subColumns / n },
      ...{ GROUP_M: down, GROUP_N: across, STEPS: TILE_K / (SLICES * k), SLICES },
    },
  })).filter((tile) => tile.bytes <= device.workgroupMemory && tile.invocations <= device.workgroupSize);
}
