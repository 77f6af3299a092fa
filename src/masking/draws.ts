/** Where random draws come from: a recording that is replayed, or any generator. */
export interface Draws {
  /** n uniform float32 numbers in [0, 1). */
  rand(n: number): Float32Array;
  /** A random order of 0..n-1. */
  randperm(n: number): Int32Array;
  /** A uniform integer in [0, n). */
  randint(n: number): number;
}
