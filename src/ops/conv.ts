/**
 * Two-dimensional convolution, channels last: y = activation(x * w + bias) + residual. Strides, padding of each side,
 * groups, depthwise, and nearest upsampling of the input that is never stored. Weights are laid out for the kernel
 * that will read them.
 */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { type DType, describeTensor, type Tensor } from '../gpu/tensor.ts';
import { convWeight, mergePhases, type Sides, tapsFirst } from './conv_weights.ts';
import { grid1d } from './op.ts';
import { cpuRows } from './tile_rows.ts';

export type ConvVariant = 'reference' | 'tiled' | 'cpu' | 'cpu_quad' | 'depthwise';
export type ConvActivation = 'none' | 'silu' | 'relu';
const ACTIVATIONS: Record<ConvActivation, number> = { none: 0, silu: 2, relu: 3 };

/** What a convolution is, apart from its weights. */
export interface ConvShape {
  inputs: number;
  outputs: number;
  /** Rows and columns of the kernel. */
  kernel: readonly [number, number];
  /** Default 1. */
  stride?: number;
  /** Zeros around x: of all sides, or top, left, bottom, right. Default 0. */
  padding?: number | Sides;
  /** Default 1; `inputs` groups and as many outputs make it depthwise. */
  groups?: number;
  /** The convolution sees x enlarged twice, each pixel repeated: 3 x 3, stride 1, padding 1 only. */
  upsample?: boolean;
}

/** A convolution's weights on the device. */
export interface Conv {
  shape: ConvShape;
  variant: ConvVariant;
  weight: Tensor;
  bias: Tensor | undefined;
}

const isPacked = (variant: ConvVariant) => variant === 'cpu' || variant === 'cpu_quad';

/** The kernels that can serve this shape on this device, the preferred one first. */
export function convVariants(device: Device, shape: ConvShape): ConvVariant[] {
  const { inputs, outputs, groups = 1 } = shape;
  const { lanes, isCpu } = device;
  const depthwise = groups === inputs && groups === outputs && !shape.upsample;
  const packed =
    lanes > 0 && lanes <= 32 && device.hasSubgroups && (inputs / groups) % 4 === 0 && (outputs / groups) % 4 === 0;
  const cpu: ConvVariant[] = !packed ? [] : lanes === 4 ? ['cpu_quad', 'cpu'] : ['cpu'];
  const usable: ConvVariant[] = [
    ...(depthwise ? (['depthwise'] as const) : []),
    ...(isCpu ? ([...cpu, 'reference', 'tiled'] as const) : (['tiled', 'reference', ...cpu] as const)),
  ];
  const wanted = usable.find((name) => name === device.variants.conv);
  return wanted ? [wanted, ...usable.filter((name) => name !== wanted)] : usable;
}

function sides(padding: number | Sides = 0): Sides {
  return typeof padding === 'number' ? { top: padding, left: padding, bottom: padding, right: padding } : padding;
}

/** Rows and columns of y for an x of this size. */
export function convSize(shape: ConvShape, height: number, width: number): [number, number] {
  const { kernel, stride = 1, upsample } = shape;
  const { top, left, bottom, right } = sides(shape.padding);
  const zoom = upsample ? 2 : 1;
  return [
    Math.floor((height * zoom + top + bottom - kernel[0]) / stride) + 1,
    Math.floor((width * zoom + left + right - kernel[1]) / stride) + 1,
  ];
}

/** Throws EmigmError('shape') for a convolution that there is no kernel for. */
function check(shape: ConvShape, label: string): void {
  const { inputs, outputs, kernel, stride = 1, groups = 1, upsample } = shape;
  if (inputs % groups !== 0 || outputs % groups !== 0) {
    throw new EmigmError('shape', `conv ${label}: ${inputs} inputs and ${outputs} outputs are not ${groups} groups`);
  }
  const { top, left, bottom, right } = sides(shape.padding);
  const plain = kernel[0] === 3 && kernel[1] === 3 && stride === 1 && [top, left, bottom, right].every((n) => n === 1);
  if (upsample && !plain) {
    throw new EmigmError('shape', `conv ${label}: upsampling goes with 3 x 3, stride 1 and padding 1 only`);
  }
}

/**
 * Puts a convolution on the device. `weight` is [outputs, inputs / groups, rows, columns] as PyTorch stores it.
 * Half precision is for the GPU kernels, where the device has it; CPU kernels read f32.
 * @throws EmigmError 'shape' when weight, groups or upsampling do not fit
 */
export function createConv(
  device: Device,
  label: string,
  shape: ConvShape,
  weight: Float32Array,
  bias?: Float32Array,
  options: { stored?: 'f32' | 'f16'; variant?: ConvVariant } = {},
): Conv {
  check(shape, label);
  const { inputs, outputs, kernel, groups = 1 } = shape;
  const size = (outputs * inputs * kernel[0] * kernel[1]) / groups;
  if (weight.length !== size || (bias && bias.length !== outputs)) {
    throw new EmigmError('shape', `conv ${label}: ${weight.length} weights, the shape has ${size}`);
  }
  const variant = options.variant ?? convVariants(device, shape)[0];
  const half = options.stored === 'f16' && device.hasF16 && (variant === 'tiled' || variant === 'reference');
  let data: Float32Array;
  if (variant === 'depthwise') {
    data = tapsFirst(weight, outputs, kernel);
  } else {
    const phases = shape.upsample && variant !== 'reference' ? mergePhases(weight) : [weight];
    const window = phases.length > 1 ? ([2, 2] as const) : kernel;
    data = convWeight(phases, { outputs, inputs: inputs / groups, kernel: window, groups }, laneCount(device, variant));
  }
  return {
    shape,
    variant,
    weight: device.tensor([data.length], half ? 'f16' : 'f32', label, data),
    bias: bias && device.tensor([outputs], 'f32', `${label} bias`, bias),
  };
}

const laneCount = (device: Device, variant: ConvVariant) => (isPacked(variant) ? device.lanes : undefined);

/** Frees the weights. */
export function destroyConv({ weight, bias }: Conv): void {
  weight.destroy();
  bias?.destroy();
}

export interface ConvOptions {
  activation?: ConvActivation;
  /** Added after the activation: f32, of the shape of y, another buffer than y's. */
  residual?: Tensor;
  /** Written instead of a new tensor. */
  out?: Tensor;
  /** How a new tensor stores its numbers; `f16` where the device has it. */
  dtype?: DType;
}

/**
 * y[batch, height', width', outputs] = activation(x[batch, height, width, inputs] * w + bias) [+ residual].
 * x and y are f32 or f16, each by itself; sums are f32.
 * @throws EmigmError 'shape' when x, residual or out have another shape than the convolution asks for
 */
export function conv(r: Recorder, x: Tensor, layer: Conv, options: ConvOptions = {}): Tensor {
  const { shape, weight, variant, bias } = layer;
  const [batch, height, width, channels] = x.shape;
  if (x.shape.length !== 4 || channels !== shape.inputs) {
    throw new EmigmError(
      'shape',
      `conv: x is ${describeTensor(x)} (${x.label}), ${weight.label} takes [batch, height, width, ${shape.inputs}]`,
    );
  }
  const [outHeight, outWidth] = convSize(shape, height, width);
  const outShape = [batch, outHeight, outWidth, shape.outputs];
  const { residual, activation = 'none' } = options;
  const y = options.out ?? r.temp(outShape, options.dtype ?? 'f32', `${weight.label} out`);
  for (const tensor of [y, ...(residual ? [residual] : [])]) {
    if (tensor.size !== outShape.reduce((a, b) => a * b, 1)) {
      throw new EmigmError(
        'shape',
        `conv: ${tensor.label} is ${describeTensor(tensor)}, ${weight.label} makes [${outShape.join(', ')}]`,
      );
    }
  }
  const { stride = 1, groups = 1, upsample = false } = shape;
  const { top, left } = sides(shape.padding);
  const phases = upsample && variant !== 'reference';
  const [kernelHeight, kernelWidth] = phases ? [2, 2] : shape.kernel;
  const pixels = phases ? batch * height * width : batch * outHeight * outWidth;
  const { file, consts, per, grid } = convKernel(r.device, layer, x.dtype, y.dtype, pixels, y.size);
  r.call({
    op: variant === 'depthwise' ? 'conv depthwise' : 'conv',
    kernel: {
      file,
      consts,
      overrides: {
        HAS_BIAS: bias !== undefined,
        ACTIVATION: ACTIVATIONS[activation],
        HAS_RESIDUAL: residual !== undefined,
        ...(upsample && { [phases ? 'PHASES' : 'UPSAMPLE']: true }),
      },
    },
    operands: { x, w: weight, bias, residual, y },
    params: {
      batch,
      in_height: height,
      in_width: width,
      out_height: outHeight,
      out_width: outWidth,
      kernel_height: kernelHeight,
      kernel_width: kernelWidth,
      stride,
      pad_top: top,
      pad_left: left,
      ...(variant === 'depthwise'
        ? { channels: channels / per }
        : { in_channels: channels, out_channels: shape.outputs, groups }),
    },
    grid,
    flops: (2 * y.size * kernelHeight * kernelWidth * channels) / groups,
  });
  return y;
}

interface Choice {
  file: string;
  consts: Record<string, string | number>;
  /** Channels of a vector, for `depthwise`. */
  per: number;
  grid: number[];
}

function convKernel(
  device: Device,
  { shape, variant, weight }: Conv,
  x: DType,
  y: DType,
  pixels: number,
  size: number,
): Choice {
  const { groups = 1, upsample } = shape;
  const file = `conv/${variant}`;
  const outputs = shape.outputs / groups;
  const depth = groups * (upsample ? 4 : 1);
  if (variant === 'depthwise') {
    const per = shape.outputs % 4 === 0 ? 4 : 1;
    const type = (scalar: DType) => (per === 4 ? `vec4<${scalar}>` : scalar);
    return { file, consts: { Vec: type('f32'), In: type(x), Out: type(y) }, per, grid: grid1d(size / per) };
  }
  if (isPacked(variant)) {
    const { lanes } = device;
    const rows = variant === 'cpu' ? cpuRows(lanes, pixels, weight.size) : 16;
    const consts: Record<string, string | number> = {
      ...(variant === 'cpu' && { LANES: lanes, ROWS: rows }),
      ...(x === 'f16' && { In4: 'vec4<f16>' }),
      ...(y === 'f16' && { Out4: 'vec4<f16>' }),
    };
    return { file, consts, per: 4, grid: tileGrid(Math.ceil(pixels / rows), Math.ceil(outputs / (4 * lanes)), depth) };
  }
  const consts = {
    ...(x === 'f16' && { In: 'f16' }),
    ...(y === 'f16' && { Out: 'f16' }),
    ...(weight.dtype === 'f16' && { Weight: 'f16' }),
  };
  const tiled = () => tileGrid(Math.ceil(pixels / 64), Math.ceil(outputs / 64), depth);
  return { file, consts, per: 1, grid: variant === 'tiled' ? tiled() : grid1d(size) };
}

/** Workgroups for so many tiles of pixels and of outputs; the former folded over y as the kernels unfold them. */
function tileGrid(tiles: number, across: number, depth: number): [number, number, number] {
  const [x, folds] = grid1d(64 * tiles);
  return [x, across * folds, depth];
}
