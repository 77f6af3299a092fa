/** Subgroups of an adapter: their size, and the matrices that they multiply. */

/** One shape of subgroup matrices (tensor cores): [m, k] . [k, n] of operands, summed in the result's type. */
export interface SubgroupMatrix {
  m: number;
  n: number;
  k: number;
  operand: string;
  result: string;
}

type MatrixConfig = { M: number; N: number; K: number; componentType: string; resultComponentType: string };

/** The shapes that the adapter lists. */
export function subgroupMatrices({ features }: GPUDevice, info: GPUAdapterInfo): SubgroupMatrix[] {
  if (!features.has('chromium-experimental-subgroup-matrix' as GPUFeatureName)) return [];
  const configs = (info as { subgroupMatrixConfigs?: Iterable<MatrixConfig> }).subgroupMatrixConfigs ?? [];
  return [...configs].map(({ M, N, K, componentType, resultComponentType }) => {
    return { m: M, n: N, k: K, operand: componentType, result: resultComponentType };
  });
}

/**
 * The subgroup size to rely on, and whether kernels have to ask for it: the only one, or where several are to be had (32
 * and 64 on AMD) the smallest, if it is a GPU's full width. 0 where neither can be told.
 */
export function subgroupSize(
  low: number | undefined,
  high: number | undefined,
  hasControl: boolean,
): { lanes: number; pinned: boolean } {
  if (!low || low === high) return { lanes: low ?? 0, pinned: false };
  // Intel's range, 8 to 32, has no size that all of its kernels and matrices want.
  return hasControl && low >= 32 ? { lanes: low, pinned: true } : { lanes: 0, pinned: false };
}
