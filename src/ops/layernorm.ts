/** Layer norm, plain, affine, or followed by the adaptive modulation of DiT (adaLN). */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { describeTensor, type DType, type Tensor } from '../gpu/tensor.ts';
import { preferredFirst, shapeKey } from '../gpu/tuning.ts';
import type { Op, Problem } from './op.ts';

export interface Norm {
  weight: Tensor;
  bias: Tensor;
}

export interface LayerNormOptions {
  affine?: Norm;
  /** y (1 + scale) + shift, with shift and scale at these columns of a [rows, stride] tensor. */
  modulation?: { tensor: Tensor; stride: number; shift: number; scale: number };
  eps?: number;
  out?: Tensor;
  dtype?: DType;
  variant?: string;
}

const variants = (device: Device, width: number) =>
  preferredFirst(device, shapeKey.layernorm(width), usable(device, width));

function usable(device: Device, width: number): string[] {
  if (width % 4 !== 0) return ['reference'];
  const subgroup = device.hasSubgroups && device.lanes > 0 && device.lanes <= 64;
  const bySubgroup = subgroup ? ['layernorm_subgroup'] : [];
  return device.isCpu ? [...bySubgroup, 'reference', 'layernorm'] : ['layernorm', 'reference', ...bySubgroup];
}

/** y[rows, width] = layer norm of each row of x[rows, width]; eps 1e-6 as eMIGM uses everywhere. */
export function layernorm(r: Recorder, x: Tensor, width: number, options: LayerNormOptions = {}): Tensor {
  const { affine, modulation, eps = 1e-6, dtype = 'f32' } = options;
  const rows = x.size / width;
  if (!Number.isInteger(rows)) {
    throw new EmigmError('shape', `layernorm: x is ${describeTensor(x)} (${x.label}), rows of ${width} wanted`);
  }
  const y = options.out ?? r.temp([rows, width], dtype, 'layernorm out');
  const variant = options.variant ?? variants(r.device, width)[0];
  const suffix = variant === 'reference' ? '' : '4';
  const consts: Record<string, string | number> = {};
  if (y.dtype === 'f16') consts[`Elem${suffix}`] = suffix ? 'vec4<f16>' : 'f16';
  if (modulation?.tensor.dtype === 'f16') consts[`Mod${suffix}`] = suffix ? 'vec4<f16>' : 'f16';
  if (variant === 'layernorm_subgroup') consts.LANES = r.device.lanes;
  r.call({
    op: 'layernorm',
    kernel: {
      file: `norm/${variant}`,
      consts,
      overrides: { AFFINE: affine !== undefined, MODULATE: modulation !== undefined },
    },
    operands: { x, weight: affine?.weight, bias: affine?.bias, modulation: modulation?.tensor, y },
    params: {
      rows,
      width,
      eps,
      stride: modulation?.stride ?? 0,
      shift_offset: modulation?.shift ?? 0,
      scale_offset: modulation?.scale ?? 0,
    },
    grid: variant === 'reference' ? [Math.ceil(rows / 64)] : rows <= 32768 ? [rows] : [32768, Math.ceil(rows / 32768)],
    flops: 8 * rows * width,
  });
  return y;
}

interface LayerNormProblem {
  rows: number;
  width: number;
  affine?: boolean;
  modulate?: boolean;
  /** Storage of y, and of the modulation. */
  stored?: DType;
}
const sizes = (p: Problem) => p as unknown as LayerNormProblem;

export const layernormOp: Op = {
  name: 'layernorm',
  variants: (device, p) => variants(device, sizes(p).width),
  problems: {
    test: [
      { rows: 3, width: 7, affine: true },
      { rows: 5, width: 48, affine: true },
      { rows: 9, width: 132, modulate: true },
      { rows: 2, width: 516, affine: true, modulate: true },
      { rows: 1, width: 4 },
      { rows: 6, width: 52, affine: true, stored: 'f16' },
      { rows: 3, width: 9, modulate: true, stored: 'f16' },
      { rows: 3, width: 128, affine: true, modulate: true, stored: 'f16' },
    ],
    bench: [448, 768, 1280].map((width) => ({ rows: 320, width, affine: true })),
  },
  inputs(problem) {
    const p = sizes(problem);
    return {
      x: { shape: [p.rows, p.width] },
      ...(p.affine && { weight: { shape: [p.width] }, bias: { shape: [p.width] } }),
      ...(p.modulate && { modulation: { shape: [p.rows, 3 * p.width], dtype: p.stored } }),
    };
  },
  outputs: (p) => ({ y: [sizes(p).rows, sizes(p).width] }),
  outputType: (p) => sizes(p).stored ?? 'f32',
  record(r, t, problem, variant) {
    const { width, affine, modulate } = sizes(problem);
    layernorm(r, t.x, width, {
      affine: affine ? { weight: t.weight, bias: t.bias } : undefined,
      modulation: modulate ? { tensor: t.modulation, stride: 3 * width, shift: width, scale: 2 * width } : undefined,
      out: t.y,
      variant,
    });
  },
  oracle({ x, weight, bias, modulation }, problem) {
    const { rows, width } = sizes(problem);
    const y = new Float64Array(rows * width);
    for (let row = 0; row < rows; row++) {
      const values = x.subarray(row * width, (row + 1) * width);
      const mean = values.reduce((a, b) => a + b, 0) / width;
      const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / width;
      values.forEach((value, i) => {
        let normal = (value - mean) / Math.sqrt(variance + 1e-6);
        if (weight) normal = normal * weight[i] + bias[i];
        if (modulation) {
          const at = row * 3 * width + i;
          normal = normal * (1 + modulation[at + 2 * width]) + modulation[at + width];
        }
        y[row * width + i] = normal;
      });
    }
    return { y };
  },
  flops: (p) => 8 * sizes(p).rows * sizes(p).width,
};
