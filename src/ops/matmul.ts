/** Linear layers: y = epilogue(x . w^T + bias). The weights are laid out for the kernel that will read them. */
import { EmigmError } from '../errors.ts';
import { float32ToHalf } from '../float16.ts';
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { type DType, describeTensor, type Tensor } from '../gpu/tensor.ts';
import { int8Words, packInt8, roundToInt8 } from './int8.ts';
import {
  isPacked,
  matmulKernel,
  matmulTiles,
  type MatmulVariant,
  matmulVariants,
  rounds,
  type Stored,
} from './matmul_kernels.ts';
import type { Op, Problem } from './op.ts';

export type Activation = 'none' | 'gelu' | 'silu';
const ACTIVATIONS: Record<Activation, number> = { none: 0, gelu: 1, silu: 2 };

/** A linear layer's weights on the device. */
export interface Linear {
  inputs: number;
  outputs: number;
  variant: MatmulVariant;
  /** `f16` as pairs in u32 words for the CPU kernels, as f16 for the others; `int8` in u32 words, see int8.ts. */
  stored: Stored;
  /** How its input is best stored; f32 unless given. */
  input?: DType;
  weight: Tensor;
  bias: Tensor | undefined;
  /** The weight lies as [inputs, outputs]: `tiled` and `reference` only. */
  transposed?: boolean;
}

/**
 * Packs [out, in] weights for `matmul/cpu.wgsl`: [ceil(out / 4 lanes)][in / 4][lane] blocks of 4 inputs x 4 outputs,
 * zero padded, so that a lane reads one block a load.
 */
export function packForCpu(weight: Float32Array, outputs: number, inputs: number, lanes: number): Float32Array {
  const groups = Math.ceil(outputs / (4 * lanes));
  const quads = Math.ceil(inputs / 4);
  const packed = new Float32Array(groups * quads * lanes * 16);
  for (let out = 0; out < outputs; out++) {
    const group = Math.floor(out / (4 * lanes));
    const lane = Math.floor((out % (4 * lanes)) / 4);
    const at = group * quads * lanes * 16 + lane * 16 + (out % 4);
    const row = out * inputs;
    for (let i = 0; i < inputs; i++) packed[at + (i >> 2) * lanes * 16 + (i & 3) * 4] = weight[row + i];
  }
  return packed;
}

export interface LinearForm {
  /** Default f32. Half precision where the device has it, and for the kernels that unpack it; int8 everywhere. */
  stored?: Stored;
  variant?: MatmulVariant;
}

/** Puts a linear layer on the device. `weight` is [outputs, inputs] as PyTorch stores it. */
export function createLinear(
  device: Device,
  label: string,
  shape: readonly [number, number],
  weight: Float32Array,
  bias?: Float32Array,
  form: LinearForm = {},
): Linear {
  const layer = allocateLinear(device, label, shape, bias !== undefined, form);
  writeLinear(device, layer, weight, bias);
  return layer;
}

/** A linear layer [outputs, inputs] whose numbers are written later; programs that use it can be recorded at once. */
export function allocateLinear(
  device: Device,
  label: string,
  [outputs, inputs]: readonly [number, number],
  hasBias: boolean,
  form: LinearForm = {},
): Linear {
  let stored = form.stored ?? 'f32';
  const variant = form.variant ?? matmulVariants(device, inputs, outputs, stored)[0];
  const packed = isPacked(variant);
  if (!packed && !device.hasF16 && stored === 'f16') stored = 'f32';
  const weight = device.tensor(...weightForm(device, [outputs, inputs], stored, packed), label);
  const bias = hasBias ? device.tensor([outputs], 'f32', `${label} bias`) : undefined;
  const input = packed || stored === 'f32' || !device.hasF16 ? 'f32' : 'f16';
  return { inputs, outputs, variant, stored, input, weight, bias };
}

/** Shape and type of the tensor that holds the weights. */
function weightForm(
  { lanes }: Device,
  [outputs, inputs]: readonly [number, number],
  stored: Stored,
  packed: boolean,
): [number[], DType] {
  if (stored === 'int8') return [[int8Words(outputs, inputs, packed ? lanes : undefined)], 'u32'];
  if (!packed) return [[outputs, inputs], stored];
  const size = Math.ceil(outputs / (4 * lanes)) * Math.ceil(inputs / 4) * lanes * 16;
  return stored === 'f32' ? [[size], 'f32'] : [[size / 2], 'u32'];
}

/** Writes a layer's numbers, `weight` [outputs, inputs], in the form that its kernel reads. */
export function writeLinear(device: Device, layer: Linear, weight: Float32Array, bias?: Float32Array): void {
  const { inputs, outputs, variant, stored } = layer;
  const size = weight.length;
  if (size !== outputs * inputs)
    throw new EmigmError(
      'shape',
      `${layer.weight.label} is [${outputs}, ${inputs}]: ${outputs * inputs} numbers, not ${size}`,
    );
  if (device.isPlan) return;
  if (bias && layer.bias) device.write(layer.bias, bias);
  if (stored === 'int8') {
    const lanes = isPacked(variant) ? device.lanes : undefined;
    device.write(layer.weight, packInt8(weight, outputs, inputs, { label: layer.weight.label, lanes }));
    return;
  }
  if (!isPacked(variant)) {
    device.write(layer.weight, weight);
    return;
  }
  const packed = packForCpu(weight, outputs, inputs, device.lanes);
  device.write(layer.weight, stored === 'f32' ? packed : new Uint32Array(float32ToHalf(packed).buffer));
}

/**
 * How the layer's input is best stored: half precision where its weights are or are smaller still, on the kernels for
 * GPUs, which then move half the bytes; what is added up along a network stays f32.
 */
export const inputType = ({ input = 'f32' }: Linear): DType => input;

export function destroyLinear({ weight, bias }: Linear): void {
  weight.destroy();
  bias?.destroy();
}

export interface LinearOptions {
  activation?: Activation;
  /** Multiplies the result: columns `offset`.. of a [rows, stride] tensor. */
  gate?: { tensor: Tensor; offset: number; stride: number };
  residual?: Tensor;
  /** Written instead of a new tensor; with `accumulate` added to. */
  out?: Tensor;
  /** How a new tensor stores its numbers; `f16` where the device has it. Sums, gate and residual are f32. */
  dtype?: DType;
  accumulate?: boolean;
  /** Rows of x that count, when x is longer. */
  rows?: number;
  /** Rows that a workgroup takes on, of `matmulTiles`; else those that suit. */
  tile?: number;
}

/**
 * y[rows, outputs] = [out +] [residual +] gate * activation(x[rows, inputs] . w^T + bias).
 * x and y are f32 or f16, each by itself.
 */
export function linear(r: Recorder, x: Tensor, layer: Linear, options: LinearOptions = {}): Tensor {
  const { activation = 'none', gate, residual, accumulate = false } = options;
  const { inputs, outputs, weight, bias } = layer;
  const rows = options.rows ?? x.size / inputs;
  if (!Number.isInteger(rows) || rows * inputs > x.size) {
    throw new EmigmError(
      'shape',
      `matmul: x is ${describeTensor(x)} (${x.label}), ${weight.label} takes ${inputs} inputs`,
    );
  }
  const y = options.out ?? r.temp([rows, outputs], options.dtype ?? 'f32', `${weight.label} out`);
  if (y.size < rows * outputs) {
    throw new EmigmError('shape', `matmul: y is ${describeTensor(y)}, ${weight.label} makes [${rows}, ${outputs}]`);
  }
  const { kernel, grid } = matmulKernel(r.device, layer, { rows, x: x.dtype, y: y.dtype, tile: options.tile });
  r.call({
    op: 'matmul',
    kernel: {
      file: kernel.file,
      consts: kernel.consts,
      overrides: {
        HAS_BIAS: bias !== undefined,
        ACTIVATION: ACTIVATIONS[activation],
        HAS_GATE: gate !== undefined,
        HAS_RESIDUAL: residual !== undefined,
        ACCUMULATE: accumulate,
        ...(layer.transposed && { W_IS_KN: true }),
      },
    },
    operands: { x, w: weight, bias, gate: gate?.tensor, residual, y },
    params: { m: rows, k: inputs, n: outputs, gate_stride: gate?.stride ?? 0, gate_offset: gate?.offset ?? 0 },
    grid,
    flops: 2 * rows * inputs * outputs,
  });
  return y;
}

function erf(x: number): number {
  // Taylor series, then the continued fraction of erfc: float64 accuracy for the oracle.
  const a = Math.abs(x);
  if (a < 2.5) {
    let term = a;
    let sum = a;
    for (let n = 1; n < 80; n++) sum += (term *= (-a * a) / n) / (2 * n + 1);
    return Math.sign(x) * sum * (2 / Math.sqrt(Math.PI));
  }
  let f = 0;
  for (let n = 60; n > 0; n--) f = n / 2 / (a + f);
  return Math.sign(x) * (1 - Math.exp(-a * a) / (a + f) / Math.sqrt(Math.PI));
}

/** Activations in float64, for oracles. */
export const activate: Record<Activation, (x: number) => number> = {
  none: (x) => x,
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  silu: (x) => x / (1 + Math.exp(-x)),
};

interface MatmulProblem {
  m: number;
  k: number;
  n: number;
  activation?: Activation;
  bias?: boolean;
  gate?: boolean;
  residual?: boolean;
  accumulate?: boolean;
  stored?: Stored;
  x?: DType;
  y?: DType;
}
const sizes = (p: Problem) => p as unknown as MatmulProblem;

/** Inputs and outputs of the models' layers. */
const MODEL_SHAPES = '448x1344 448x1792 1792x448 768x2304 768x768 768x3072 3072x768 1024x4096 1280x5120 5120x1280'
  .split(' ')
  .map((shape) => shape.split('x').map(Number));

const layerOf = (problem: Problem, variant: string) => {
  const { k, n, stored = 'f32' } = sizes(problem);
  return { inputs: k, outputs: n, variant: variant as MatmulVariant, stored };
};

export const matmulOp: Op = {
  name: 'matmul',
  variants: (device, p) => matmulVariants(device, sizes(p).k, sizes(p).n, sizes(p).stored),
  // An f32 operand is rounded to f16 there: each product is off by half a unit in the last place of 11 bits at most.
  tolerance: (p, variant) => (rounds(variant) && sizes(p).x !== 'f16' ? 2 ** -10 : undefined),
  problems: {
    test: [
      { m: 1, k: 4, n: 4 },
      { m: 3, k: 5, n: 7, bias: true },
      { m: 17, k: 36, n: 20, bias: true, activation: 'gelu' },
      { m: 33, k: 132, n: 68, bias: true, activation: 'silu', residual: true },
      { m: 65, k: 16, n: 100, bias: true, gate: true, accumulate: true },
      { m: 70, k: 64, n: 40, gate: true, residual: true, stored: 'f16' },
      { m: 33, k: 36, n: 20, bias: true, activation: 'gelu', x: 'f16', y: 'f16' },
      { m: 5, k: 7, n: 9, bias: true, x: 'f16', residual: true },
      { m: 18, k: 64, n: 100, bias: true, x: 'f16', gate: true, accumulate: true, stored: 'f16' },
      { m: 9, k: 64, n: 36, y: 'f16', stored: 'f16' },
      { m: 67, k: 300, n: 72, bias: true, activation: 'gelu', residual: true },
      { m: 66, k: 140, n: 132, bias: true, x: 'f16', y: 'f16', gate: true, stored: 'f16' },
      { m: 3, k: 1100, n: 20, bias: true },
      { m: 5, k: 7, n: 9, bias: true, activation: 'silu', residual: true, stored: 'int8' },
      { m: 67, k: 300, n: 72, bias: true, activation: 'gelu', residual: true, stored: 'int8' },
      { m: 66, k: 140, n: 132, bias: true, x: 'f16', y: 'f16', gate: true, stored: 'int8' },
      { m: 18, k: 64, n: 100, bias: true, gate: true, accumulate: true, stored: 'int8' },
      { m: 1, k: 36, n: 4, stored: 'int8' },
    ],
    bench: [64, 320, 1024].flatMap((m) => MODEL_SHAPES.map(([k, n]) => ({ m, k, n, bias: true }))),
  },
  inputs(problem) {
    const p = sizes(problem);
    return {
      x: { shape: [p.m, p.k], dtype: p.x },
      w: {
        shape: [p.n, p.k],
        dtype: p.stored === 'int8' ? 'f32' : p.stored,
        ...(p.stored === 'int8' && { round: (data: Float32Array) => roundToInt8(data, p.n, p.k) }),
        fill: { scale: 1 / Math.sqrt(p.k) },
        upload: (device, data, variant) =>
          createLinear(device, 'w', [p.n, p.k], data, undefined, {
            stored: p.stored,
            variant: variant as MatmulVariant,
          }).weight,
      },
      ...(p.bias && { bias: { shape: [p.n] } }),
      ...(p.gate && { gate: { shape: [p.m, 2 * p.n + 4] } }),
      ...(p.residual && { residual: { shape: [p.m, p.n] } }),
      ...(p.accumulate && { y: { shape: [p.m, p.n], inPlace: true } }),
    };
  },
  outputs: (p) => ({ y: [sizes(p).m, sizes(p).n] }),
  outputType: (p) => sizes(p).y ?? 'f32',
  record(r, tensors, problem, variant, tile) {
    const p = sizes(problem);
    const layer: Linear = {
      ...layerOf(problem, variant),
      stored: p.stored === 'int8' ? 'int8' : tensors.w.dtype === 'f32' ? 'f32' : 'f16',
      weight: tensors.w,
      bias: tensors.bias,
    };
    linear(r, tensors.x, layer, {
      activation: p.activation,
      gate: p.gate ? { tensor: tensors.gate, offset: p.n, stride: 2 * p.n + 4 } : undefined,
      residual: tensors.residual,
      accumulate: p.accumulate,
      out: tensors.y,
      tile,
    });
  },
  tiles: {
    of: (device, problem, variant) => matmulTiles(device, layerOf(problem, variant), sizes(problem).m),
    rows: (problem) => sizes(problem).m,
  },
  oracle({ x, w, bias, gate, residual, y: before }, problem) {
    const p = sizes(problem);
    const y = new Float64Array(p.m * p.n);
    for (let i = 0; i < p.m; i++) {
      for (let j = 0; j < p.n; j++) {
        let sum = bias ? bias[j] : 0;
        for (let c = 0; c < p.k; c++) sum += x[i * p.k + c] * w[j * p.k + c];
        let value = activate[p.activation ?? 'none'](sum);
        if (gate) value *= gate[i * (2 * p.n + 4) + p.n + j];
        if (residual) value += residual[i * p.n + j];
        if (before) value += before[i * p.n + j];
        y[i * p.n + j] = value;
      }
    }
    return { y };
  },
  flops: (p) => 2 * sizes(p).m * sizes(p).k * sizes(p).n,
};
