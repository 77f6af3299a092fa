/** RMS norm over the channels of each pixel, channels last, with a bias; ReLU and a residual after it where asked for. */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { describeTensor, type Tensor } from '../gpu/tensor.ts';
import type { Norm } from './layernorm.ts';
import { grid1d, type Op, type Problem } from './op.ts';

export interface RmsNormOptions {
  /** Default 1e-5, as DC-AE has it. */
  eps?: number;
  relu?: boolean;
  /** Added at the end: of the shape of x, another buffer than the result's. */
  residual?: Tensor;
  out?: Tensor;
  variant?: string;
}

/** Rows that a workgroup of the CPU kernel takes. */
const CPU_ROWS = 8;

function variants(device: Device, width: number): string[] {
  if (width % 4 !== 0) return ['reference'];
  const subgroup = device.hasSubgroups && device.lanes > 0 && device.lanes <= 64;
  if (device.isCpu && subgroup) return ['subgroup', 'reference', 'workgroup'];
  return ['workgroup', 'reference', ...(subgroup ? ['subgroup'] : [])];
}

/**
 * y = [residual +] [relu] (x / sqrt(mean(x^2) + eps) weight + bias), means over the channels of x[..., channels]. All
 * f32.
 * @throws EmigmError 'shape' when the norm or the residual has another size than x
 */
export function rmsNorm(r: Recorder, x: Tensor, { weight, bias }: Norm, options: RmsNormOptions = {}): Tensor {
  const { eps = 1e-5, relu = false, residual } = options;
  const width = x.shape.at(-1)!;
  const rows = x.size / width;
  const y = options.out ?? r.temp(x.shape, 'f32', 'rms norm out');
  if (weight.size !== width || bias.size !== width || y.size !== x.size || (residual && residual.size !== x.size)) {
    throw new EmigmError(
      'shape',
      `rms norm: x is ${describeTensor(x)} (${x.label}), weights of ${weight.size}, y ${describeTensor(y)}` +
        (residual ? `, residual ${describeTensor(residual)}` : ''),
    );
  }
  const usable = variants(r.device, width);
  const variant = options.variant ?? usable.find((name) => name === r.device.variants.rms_norm) ?? usable[0];
  const isSubgroup = variant === 'subgroup';
  const groups = isSubgroup ? Math.ceil(rows / CPU_ROWS) : rows;
  r.call({
    op: 'rms norm',
    kernel: {
      file: `norm/rms_norm_channels${variant === 'workgroup' ? '' : `_${variant}`}`,
      consts: isSubgroup ? { LANES: r.device.lanes, ROWS: CPU_ROWS } : {},
      overrides: { ACTIVATION: relu ? 3 : 0, HAS_RESIDUAL: residual !== undefined },
    },
    operands: { x, weight, bias, residual, y },
    params: { rows, width, eps },
    grid: variant === 'reference' ? grid1d(rows) : grid1d(64 * groups),
    flops: 5 * x.size,
  });
  return y;
}

interface RmsNormProblem {
  rows: number;
  width: number;
  relu?: boolean;
  residual?: boolean;
}
const sizes = (p: Problem) => p as unknown as RmsNormProblem;

export const rmsNormOp: Op = {
  name: 'rms norm',
  variants: (device, p) => variants(device, sizes(p).width),
  problems: {
    test: [
      { rows: 3, width: 7, relu: true },
      { rows: 1, width: 4 },
      { rows: 19, width: 36, residual: true },
      { rows: 8, width: 516, relu: true },
      { rows: 5, width: 1024, relu: true, residual: true },
    ],
    bench: [
      { rows: 65536, width: 256, residual: true },
      { rows: 4096, width: 512, residual: true },
      { rows: 256, width: 1024, residual: true },
    ],
  },
  inputs(problem) {
    const { rows, width, residual } = sizes(problem);
    return {
      x: { shape: [rows, width], fill: { scale: 3 } },
      weight: { shape: [width] },
      bias: { shape: [width] },
      ...(residual && { residual: { shape: [rows, width] } }),
    };
  },
  outputs: (p) => ({ y: [sizes(p).rows, sizes(p).width] }),
  record(r, t, problem, variant) {
    const { relu } = sizes(problem);
    rmsNorm(r, t.x, { weight: t.weight, bias: t.bias }, { relu, residual: t.residual, out: t.y, variant });
  },
  oracle({ x, weight, bias, residual }, problem) {
    const { width, relu } = sizes(problem);
    const y = x.map((value, i) => {
      const row = x.subarray(i - (i % width), i - (i % width) + width);
      const square = row.reduce((sum, v) => sum + v * v, 0) / width;
      const normal = (value / Math.sqrt(square + 1e-5)) * weight[i % width] + bias[i % width];
      return (relu ? Math.max(normal, 0) : normal) + (residual ? residual[i] : 0);
    });
    return { y };
  },
  flops: (p) => 5 * sizes(p).rows * sizes(p).width,
};
