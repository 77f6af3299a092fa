/** Linear layers that are trained: the weight that the optimizer changes, copies for the kernels, backward. */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { describeTensor, type Tensor } from '../gpu/tensor.ts';
import { type Linear, linear } from './matmul.ts';
import { isPacked, type MatmulVariant, matmulVariants } from './matmul_kernels.ts';
import type { Gradient, Problem } from './op.ts';

/**
 * A linear layer in training. `linear` applies it as any other; after each change of the master weight,
 * `refreshLinear` renews the copies that the CPU kernels read. The other kernels read the master itself.
 */
export interface TrainableLinear extends Linear {
  /** [outputs, inputs] as PyTorch stores it: what the optimizer changes. */
  master: Tensor;
  /** d_x = d_y . w as a layer of its own: from `outputs` to `inputs`. */
  back: Linear;
}

/** Prepares `master` [outputs, inputs] (and `bias` [outputs]) for training; both stay the caller's. */
export function createTrainableLinear(
  device: Device,
  master: Tensor,
  bias?: Tensor,
  options: { variant?: MatmulVariant } = {},
): TrainableLinear {
  const [outputs, inputs] = master.shape;
  if (master.shape.length !== 2 || master.dtype !== 'f32') {
    throw new EmigmError(
      'shape',
      `${master.label}: a trained weight is [outputs, inputs] f32, not ${describeTensor(master)}`,
    );
  }
  const side = (from: number, to: number, transposed: boolean): Linear => {
    const variant = options.variant ?? matmulVariants(device, from, to)[0];
    const weight = isPacked(variant)
      ? device.tensor([packedSize(device, from, to)], 'f32', `${master.label}${transposed ? ' back' : ''}`)
      : master;
    return {
      inputs: from,
      outputs: to,
      variant,
      stored: 'f32',
      weight,
      bias: undefined,
      transposed: transposed && !isPacked(variant),
    };
  };
  return { ...side(inputs, outputs, false), bias, master, back: side(outputs, inputs, true) };
}

function packedSize(device: Device, inputs: number, outputs: number): number {
  return Math.ceil(outputs / (4 * device.lanes)) * inputs * 4 * device.lanes;
}

/** Bytes of the copies that `createTrainableLinear` makes. */
export function trainableLinearBytes(device: Device, outputs: number, inputs: number): number {
  const side = (from: number, to: number) =>
    isPacked(matmulVariants(device, from, to)[0]) ? 4 * packedSize(device, from, to) : 0;
  return side(inputs, outputs) + side(outputs, inputs);
}

/** Frees the copies; master and bias stay. */
export function destroyTrainableLinear({ weight, back, master }: TrainableLinear): void {
  if (weight !== master) weight.destroy();
  if (back.weight !== master) back.weight.destroy();
}

/** Copies the master weight into the layouts that the CPU kernels read; with `backward` false for forward alone. */
export function refreshLinear(r: Recorder, layer: TrainableLinear, backward = true): void {
  const { master, back } = layer;
  for (const side of backward ? [layer, back] : [layer]) {
    if (side.weight === master) continue;
    const blocks = side.weight.size / 16;
    const groups = Math.ceil(blocks / 64);
    r.call({
      op: 'pack',
      kernel: { file: 'matmul/pack', consts: { LANES: r.device.lanes }, overrides: { W_IS_KN: side === back } },
      operands: { w: master, packed: side.weight },
      params: { out_count: side.outputs, in_count: side.inputs },
      grid: [Math.min(groups, 65535), Math.ceil(groups / 65535)],
    });
  }
}

export interface LinearBackwardOptions {
  /** Gradient of x, written, or with `accumulateDx` added to; `none` when x needs none; else a new tensor. */
  dx?: Tensor | 'none';
  accumulateDx?: boolean;
  /** Gradients of weight [outputs, inputs] and bias [outputs]: added to. */
  dw?: Tensor;
  db?: Tensor;
  /** Rows that count, when x and d_y are longer. */
  rows?: number;
  variant?: string;
}

/** Gradients of `linear(x[rows, inputs])` without its epilogue, from d_y[rows, outputs]; returns that of x. */
export function linearBackward(
  r: Recorder,
  dY: Tensor,
  x: Tensor,
  layer: TrainableLinear,
  options: LinearBackwardOptions = {},
): Tensor | undefined {
  const { dx, accumulateDx = false, dw, db } = options;
  const { inputs, outputs } = layer;
  const rows = options.rows ?? x.size / inputs;
  if (!Number.isInteger(rows) || dY.size < rows * outputs) {
    throw new EmigmError(
      'shape',
      `matmul backward: x is ${describeTensor(x)}, d_y ${describeTensor(dY)}; ${layer.master.label} has ${inputs} inputs and ${outputs} outputs`,
    );
  }
  if (dw) weightGradient(r, dY, x, { rows, inputs, outputs }, dw, options.variant);
  if (db) biasGradient(r, dY, rows, outputs, db);
  if (dx === 'none') return undefined;
  return linear(r, dY, layer.back, {
    out: dx ?? r.temp(x.shape, 'f32', `d ${x.label}`),
    accumulate: accumulateDx,
    rows,
  });
}

/** Kernels for the weight's gradient, the preferred one first. */
function weightVariants(device: Device, inputs: number, outputs: number): string[] {
  const { lanes, isCpu, hasSubgroups } = device;
  const subgroup = hasSubgroups && lanes > 0 && lanes <= 32 && inputs % 4 === 0;
  // More than 8 lanes would need too many sums at once.
  const vec4 = outputs % 4 === 0 && lanes <= 8 ? ['weight_grad_cpu_vec4'] : [];
  const cpu = !subgroup ? [] : [...(lanes === 4 ? ['weight_grad_quad'] : []), ...vec4, 'weight_grad_cpu'];
  return isCpu ? [...cpu, 'weight_grad'] : ['weight_grad', ...cpu];
}

interface Sizes {
  rows: number;
  inputs: number;
  outputs: number;
}

/** Rows of a sum whose parts of x and d_y stay in a CPU's cache. */
const CACHED_ROWS = 1024;

/** What a workgroup makes of dw: rows, columns. */
function weightTile(variant: string, lanes: number): { tall: number; wide: number; consts: Record<string, number> } {
  const wide = 4 * lanes;
  if (variant === 'weight_grad_cpu_vec4') return { tall: 4 * lanes, wide, consts: { LANES: lanes } };
  if (variant === 'weight_grad_quad') return { tall: 16, wide, consts: {} };
  if (variant === 'weight_grad') return { tall: 64, wide: 64, consts: {} };
  const tall = Math.max(16, lanes);
  return { tall, wide, consts: { LANES: lanes, ROWS: tall } };
}

/** dw[outputs, inputs] += d_y^T . x */
function weightGradient(r: Recorder, dY: Tensor, x: Tensor, sizes: Sizes, dw: Tensor, wanted?: string): void {
  const { rows, inputs, outputs } = sizes;
  const variant = wanted ?? weightVariants(r.device, inputs, outputs)[0];
  const { tall, wide, consts } = weightTile(variant, r.device.lanes);
  const record = (range: Record<string, number>, count: number) => {
    r.call({
      op: 'matmul dw',
      kernel: { file: `matmul/${variant}`, consts, overrides: { ACCUMULATE: true } },
      operands: { dy: dY, x, dw },
      params: { ...range, k: inputs, n: outputs },
      grid: [Math.ceil(inputs / wide), Math.ceil(outputs / tall)],
      flops: 2 * count * inputs * outputs,
    });
  };
  if (variant === 'weight_grad_cpu_vec4') {
    const part = 2 * Math.ceil(rows / Math.ceil(rows / CACHED_ROWS) / 2);
    for (let first = 0; first < rows; first += part) {
      const end = Math.min(rows, first + part);
      record({ first, end }, end - first);
    }
  } else {
    record({ m: rows }, rows);
  }
}

/** db[columns] += sum of d_y[rows, columns] over the rows. */
export function biasGradient(r: Recorder, dY: Tensor, rows: number, columns: number, db: Tensor): void {
  const cpu = r.device.isCpu && r.device.lanes > 0;
  const wide = cpu ? r.device.lanes : 16;
  const per = cpu && columns % 4 === 0 ? 4 : 1;
  r.call({
    op: 'matmul db',
    kernel: {
      file: 'matmul/bias_grad',
      consts: {
        ...(cpu && { COLUMNS: wide, SLICES: 1 }),
        ...(per === 4 && { Elem: 'vec4<f32>', Sum: 'vec4<f32>' }),
      },
      overrides: { ACCUMULATE: true },
    },
    operands: { dy: dY, db },
    params: { m: rows, n: columns / per },
    grid: [Math.ceil(columns / per / wide)],
    flops: rows * columns,
  });
}

interface MatmulProblem {
  m: number;
  k: number;
  n: number;
  bias?: boolean;
  accumulate?: boolean;
}
const problemSizes = (p: Problem) => p as unknown as MatmulProblem;

export const matmulGradient: Gradient = {
  problems: [
    { m: 3, k: 5, n: 7, bias: true },
    { m: 17, k: 36, n: 20, bias: true },
    { m: 18, k: 12, n: 68, bias: true, accumulate: true },
    { m: 1, k: 4, n: 4 },
    { m: 5, k: 20, n: 9, bias: true },
    { m: 66, k: 7, n: 4 },
    { m: 1027, k: 4, n: 4 },
  ],
  variants(device, problem) {
    const { k, n } = problemSizes(problem);
    const pairs = matmulVariants(device, k, n).map((name, i) => {
      const weights = weightVariants(device, k, n);
      return `${name} ${weights[i % weights.length]}`;
    });
    return pairs;
  },
  inputs(problem) {
    const { m, k, n, bias } = problemSizes(problem);
    return {
      x: { shape: [m, k] },
      w: { shape: [n, k], fill: { scale: 1 / Math.sqrt(k) } },
      ...(bias && { bias: { shape: [n] } }),
    };
  },
  of: (p) => ({
    x: problemSizes(p).accumulate ? 'added' : 'written',
    w: 'added',
    ...(problemSizes(p).bias && { bias: 'added' }),
  }),
  record(r, t, problem, variant) {
    const [forward, weights] = variant.split(' ');
    const layer = createTrainableLinear(r.device, t.w, t.bias, { variant: forward as MatmulVariant });
    refreshLinear(r, layer);
    linearBackward(r, t.d_y, t.x, layer, {
      dx: t.d_x,
      accumulateDx: problemSizes(problem).accumulate,
      dw: t.d_w,
      db: t.d_bias,
      variant: weights,
    });
  },
};
