/** Convolution weights in the layouts that the kernels read. PyTorch's is [outputs, inputs / groups, rows, columns]. */
import { packForCpu } from './matmul.ts';

/** Zeros around an image. */
export interface Sides {
  top: number;
  left: number;
  bottom: number;
  right: number;
}

interface WeightShape {
  outputs: number;
  /** Of one group. */
  inputs: number;
  kernel: readonly [number, number];
  groups: number;
}

/**
 * The weights of one or more phases, [phases][outputs][rows][columns][inputs]; with `lanes` packed for the CPU
 * kernels, group by group: see kernels/conv/cpu.wgsl.
 */
export function convWeight(phases: readonly Float32Array[], shape: WeightShape, lanes?: number): Float32Array {
  const { outputs, inputs, kernel, groups } = shape;
  const taps = kernel[0] * kernel[1];
  const parts = phases.flatMap((phase) => {
    const rows = inputsLast(phase, outputs, inputs, taps);
    if (lanes === undefined) return [rows];
    const count = outputs / groups;
    const length = count * taps * inputs;
    return Array.from({ length: groups }, (_, g) =>
      packForCpu(rows.subarray(g * length, (g + 1) * length), count, taps * inputs, lanes),
    );
  });
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** [outputs][inputs][taps] as [outputs][taps][inputs]. */
function inputsLast(weight: Float32Array, outputs: number, inputs: number, taps: number): Float32Array {
  const out = new Float32Array(weight.length);
  for (let o = 0; o < outputs; o++) {
    for (let c = 0; c < inputs; c++) {
      const at = (o * inputs + c) * taps;
      for (let t = 0; t < taps; t++) out[(o * taps + t) * inputs + c] = weight[at + t];
    }
  }
  return out;
}

/** Depthwise weights [channels][1][rows][columns] as [rows][columns][channels]. */
export function tapsFirst(weight: Float32Array, channels: number, kernel: readonly [number, number]): Float32Array {
  const taps = kernel[0] * kernel[1];
  return Float32Array.from(weight, (_, i) => weight[(i % channels) * taps + Math.floor(i / channels)]);
}

/**
 * A 3 x 3 convolution over an image enlarged twice by repeating pixels, as four 2 x 2 convolutions over the image
 * itself, one for each phase (row, column) of the output: kernel rows that meet in one row of the image are added.
 * An even row 2 y sees rows y - 1 (kernel row 0) and y (1 and 2), an odd one rows y (0 and 1) and y + 1 (2).
 * Returns weights [outputs, inputs, 2, 2] of the phases (0, 0), (0, 1), (1, 0), (1, 1).
 */
export function mergePhases(weight: Float32Array): Float32Array[] {
  const merged = (phase: number, k: number) => (phase === 0 ? Math.ceil(k / 2) : Math.floor(k / 2));
  return [0, 1, 2, 3].map((phase) => {
    const sums = new Float64Array((weight.length / 9) * 4);
    for (let i = 0; i < weight.length; i++) {
      const tap = i % 9;
      const row = merged(phase >> 1, Math.floor(tap / 3));
      const column = merged(phase & 1, tap % 3);
      sums[Math.floor(i / 9) * 4 + row * 2 + column] += weight[i];
    }
    return Float32Array.from(sums);
  });
}
