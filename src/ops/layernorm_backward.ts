/** Backward of layer norm: gradients of its input and of the modulation row by row, of its weights column by column. */
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import type { LayerNormOptions, Norm } from './layernorm.ts';
import type { Gradient, Problem } from './op.ts';
import { vectors } from './elementwise.ts';

export interface LayerNormBackwardOptions extends Pick<LayerNormOptions, 'affine' | 'modulation' | 'eps' | 'variant'> {
  /** Gradient of x; a new tensor when left out. With `accumulate` it is added to (the residual stream). */
  dX?: Tensor;
  accumulate?: boolean;
  /** Gradients of weight and bias, added to; with `affine`. */
  dAffine?: Norm;
  /** Gradient of the modulation, laid out as it is; its shift and scale columns are written. */
  dModulation?: Tensor;
}

function variants(device: Device, width: number): string[] {
  if (width % 4 !== 0) return ['reference'];
  const subgroup = device.hasSubgroups && device.lanes > 0 && device.lanes <= 64;
  if (device.isCpu && subgroup) return ['subgroup', 'reference', 'workgroup'];
  return ['workgroup', 'reference', ...(subgroup ? ['subgroup'] : [])];
}

const FILES: Record<string, string> = {
  subgroup: 'norm/backward_subgroup',
  workgroup: 'norm/backward',
  reference: 'norm/backward_reference',
};

/** Gradients of `layernorm(x[rows, width])` from d_y[rows, width]; returns that of x. The modulation is f32. */
export function layernormBackward(
  r: Recorder,
  x: Tensor,
  dY: Tensor,
  width: number,
  options: LayerNormBackwardOptions = {},
): Tensor {
  const { affine, modulation, eps = 1e-6, accumulate = false, dAffine, dModulation } = options;
  const rows = x.size / width;
  const dX = options.dX ?? r.temp([rows, width], 'f32', `d ${x.label}`);
  const variant = options.variant ?? variants(r.device, width)[0];
  const stats = affine && r.temp([rows, 2], 'f32', 'layernorm statistics');
  const stride = modulation?.stride ?? 0;
  const scale = modulation?.scale ?? 0;
  r.call({
    op: 'layernorm backward',
    kernel: {
      file: FILES[variant],
      consts: variant === 'subgroup' ? { LANES: r.device.lanes } : {},
      overrides: { AFFINE: affine !== undefined, MODULATE: modulation !== undefined, ACCUMULATE: accumulate },
    },
    operands: {
      x,
      weight: affine?.weight,
      bias: affine?.bias,
      modulation: modulation?.tensor,
      d_y: dY,
      d_x: dX,
      d_modulation: modulation && dModulation,
      stats,
    },
    params: { rows, width, eps, stride, shift_offset: modulation?.shift ?? 0, scale_offset: scale },
    grid: variant === 'reference' ? [Math.ceil(rows / 64)] : rows <= 32768 ? [rows] : [32768, Math.ceil(rows / 32768)],
    flops: 16 * rows * width,
  });
  if (affine && dAffine) {
    const { per, consts } = vectors(width, stride, scale);
    const cpu = r.device.isCpu && r.device.lanes > 0;
    const columns = cpu ? r.device.lanes : 16;
    r.call({
      op: 'layernorm backward',
      kernel: {
        file: 'norm/backward_weights',
        consts: { ...consts, ...(cpu && { COLUMNS: columns, SLICES: 1 }) },
        overrides: { MODULATE: modulation !== undefined },
      },
      operands: {
        x,
        modulation: modulation?.tensor,
        d_y: dY,
        stats,
        d_weight: dAffine.weight,
        d_bias: dAffine.bias,
      },
      params: { rows, width: width / per, stride: stride / per, scale_offset: scale / per },
      grid: [Math.ceil(width / per / columns)],
      flops: 5 * rows * width,
    });
  }
  return dX;
}

interface LayerNormProblem {
  rows: number;
  width: number;
  affine?: boolean;
  modulate?: boolean;
  accumulate?: boolean;
}
const sizes = (p: Problem) => p as unknown as LayerNormProblem;

export const layernormGradient: Gradient = {
  problems: [
    { rows: 3, width: 7, affine: true },
    { rows: 5, width: 48, affine: true, accumulate: true },
    { rows: 9, width: 20, modulate: true },
    { rows: 3, width: 68, affine: true, modulate: true },
    { rows: 4, width: 9, affine: true, modulate: true, accumulate: true },
    { rows: 70, width: 4, affine: true },
    { rows: 6, width: 12 },
  ],
  variants: (device, p) => variants(device, sizes(p).width),
  of: (p) => ({
    x: sizes(p).accumulate ? 'added' : 'written',
    ...(sizes(p).affine && { weight: 'added', bias: 'added' }),
    ...(sizes(p).modulate && { modulation: 'columns' }),
  }),
  record(r, t, problem, variant) {
    const { width, affine, modulate, accumulate } = sizes(problem);
    layernormBackward(r, t.x, t.d_y, width, {
      affine: affine ? { weight: t.weight, bias: t.bias } : undefined,
      modulation: modulate ? { tensor: t.modulation, stride: 3 * width, shift: width, scale: 2 * width } : undefined,
      dX: t.d_x,
      accumulate,
      dAffine: affine ? { weight: t.d_weight, bias: t.d_bias } : undefined,
      dModulation: t.d_modulation,
      variant,
    });
  },
};
