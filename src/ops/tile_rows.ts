/**
 * How many rows a workgroup takes on: more serve a loaded weight longer, fewer waste less on what is left over. Only
 * for kernels whose sums do not depend on it. CPU drivers unroll a kernel's loops, so that each height costs time to
 * compile: from 0.1 s for 8 rows of a matmul to seconds for 24 of attention.
 */

/** The height with the least cost, where a workgroup costs its rows and a fixed part. */
export function leastCost(heights: readonly number[], fixed: number, rows: number): number {
  const cost = (height: number) => Math.ceil(rows / height) * (height + fixed);
  return heights.reduce((best, height) => (cost(height) <= cost(best) ? height : best));
}

/** Weights of a layer, and rows, below which a run is over before more heights than two pay. */
const SMALL_LAYER = 2 ** 17;
const SMALL_BATCH = 1024;

/** Heights of `matmul/cpu.wgsl` and its kin, in subgroups. */
export const cpuHeights = (lanes: number, multiples: readonly number[] = [1, 2, 3, 4]): number[] =>
  multiples.map((n) => n * lanes).filter((tall) => tall === lanes || tall <= 32);

/** What there is to choose from, the built-in choice first. */
export const builtInFirst = (builtIn: number, all: readonly number[]): number[] => [
  builtIn,
  ...all.filter((tall) => tall !== builtIn),
];

/** For products with `weights` numbers by one subgroup, `matmul/cpu.wgsl` and its kin; fixed part as on lavapipe. */
export function cpuRows(lanes: number, rows: number, weights: number): number {
  const small = weights <= SMALL_LAYER;
  const multiples = !small ? [1, 2, 3, 4] : rows < SMALL_BATCH ? [1, 3] : [1, 3, 4];
  return leastCost(cpuHeights(lanes, multiples), 7, rows);
}

/** The same for weights in int8, whose loads cost less. */
export function int8Rows(lanes: number, rows: number): number {
  return leastCost([lanes, 2 * lanes], 2, rows);
}

/** For `attention/cpu.wgsl`: where heads are narrow more rows gain too little for the time that they take to compile. */
export function attentionRows(lanes: number, headDim: number, queries: number): number {
  return headDim <= 4 * lanes ? lanes : leastCost([lanes, 2 * lanes], 14, queries);
}

/** For `attention/backward_q_cpu.wgsl` and `backward_kv_cpu.wgsl`: queries or keys of a workgroup. */
export function backwardRows(lanes: number, headDim: number, count: number): number {
  const most = headDim <= 4 * lanes ? 3 * lanes : 2 * lanes;
  return leastCost(most <= 24 ? [lanes, most] : [lanes], 5, count);
}
