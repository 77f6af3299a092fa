/** How many rows a workgroup takes on: more serve a loaded weight longer, fewer waste less on what is left over. */

/**
 * The height with the least cost, where a workgroup costs its rows and a fixed part; only for kernels whose sums do not
 * depend on it.
 */
export function leastCost(heights: readonly number[], fixed: number, rows: number): number {
  const cost = (height: number) => Math.ceil(rows / height) * (height + fixed);
  return heights.reduce((best, height) => (cost(height) <= cost(best) ? height : best));
}

/** For products by one subgroup, `matmul/cpu.wgsl` and its kin; fixed parts as measured on lavapipe. */
export function cpuRows(lanes: number, rows: number, int8 = false): number {
  if (int8) return leastCost([lanes, 2 * lanes], 2, rows);
  const heights = [1, 2, 3, 4].map((n) => n * lanes).filter((tall) => tall === lanes || tall <= 32);
  return leastCost(heights, 7, rows);
}

/** For `attention/cpu.wgsl`: a driver keeps 24 rows of a narrow head near, 16 of a wide one. */
export function attentionRows(lanes: number, headDim: number, queries: number): number {
  return headDim <= 4 * lanes ? leastCost([lanes, 3 * lanes], 2, queries) : leastCost([lanes, 2 * lanes], 14, queries);
}

/** For `attention/backward_q_cpu.wgsl` and `backward_kv_cpu.wgsl`: queries or keys of a workgroup. */
export function backwardRows(lanes: number, count: number): number {
  const heights = [1, 2, 3].map((n) => n * lanes).filter((tall) => tall === lanes || tall <= 24);
  return leastCost(heights, 5, count);
}
