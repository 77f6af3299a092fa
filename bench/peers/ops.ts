/**
 * The few operations that the measured work is built of. A peer implements them once, and every piece of work is
 * written once, as a function of them. All values are matrices of f32 [rows, columns].
 */
export interface Ops<T> {
  /** Comes from the host with every call. */
  input(name: string): T;
  /** Stays with the peer. */
  parameter(name: string): T;
  /** x[rows, inputs] weight[inputs, outputs] */
  matmul(x: T, weight: T): T;
  /** b has a's shape or is one row. */
  add(a: T, b: T): T;
  multiply(a: T, b: T): T;
  /** Over the columns, epsilon 1e-6; without weight and bias when they are not given. */
  layerNorm(x: T, weight?: T, bias?: T): T;
  /** Exact, by the error function. */
  gelu(x: T): T;
  silu(x: T): T;
  tanh(x: T): T;
  /** softmax(q k^T / sqrt(d)) v for each head; q, k, v are [rows, heads * d]. */
  attention(q: T, k: T, v: T, heads: number): T;
  /** Columns `from` to `to`. */
  columns(x: T, from: number, to: number): T;
  /** Rows by number. */
  gather(x: T, rows: readonly number[]): T;
  /** One below the other. */
  concat(parts: readonly T[]): T;
}

/** A matrix on the host. */
export interface Matrix {
  rows: number;
  columns: number;
  data: Float32Array;
}

export type Matrices = Readonly<Record<string, Matrix>>;

export function matrix(rows: number, columns: number, data: Float32Array): Matrix {
  if (data.length !== rows * columns) throw new Error(`${data.length} numbers are no ${rows} x ${columns} matrix`);
  return { rows, columns, data };
}
