/** The middle of a GLU mobile convolution: depthwise 3 x 3, then the second half of the channels gates the first. */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { describeTensor, type Tensor } from '../gpu/tensor.ts';
import { tapsFirst } from './conv_weights.ts';
import { vectors } from './elementwise.ts';
import { grid1d, type Op, type Problem } from './op.ts';

/** Weights on the device, as the kernel reads them. */
export interface DepthwiseGlu {
  /** Channels of the result: half of those convolved. */
  channels: number;
  weight: Tensor;
  bias: Tensor;
}

/** Pixels that an invocation makes. */
const STRIP = 4;

/**
 * Puts weights [2 channels, 1, 3, 3], as PyTorch stores them, and the bias [2 channels] on the device.
 * @throws EmigmError 'shape' when they do not fit each other
 */
export function createDepthwiseGlu(
  device: Device,
  label: string,
  weight: Float32Array,
  bias: Float32Array,
): DepthwiseGlu {
  const inputs = bias.length;
  if (weight.length !== inputs * 9 || inputs % 2 !== 0) {
    throw new EmigmError('shape', `${label}: ${weight.length} weights and ${inputs} biases are no gated 3 x 3 kernels`);
  }
  return {
    channels: inputs / 2,
    weight: device.tensor([weight.length], 'f32', label, tapsFirst(weight, inputs, [3, 3])),
    bias: device.tensor([inputs], 'f32', `${label} bias`, bias),
  };
}

/**
 * y[batch, height, width, channels] = z[..first half] silu(z[..second half]), z = depthwise 3 x 3 of x[batch, height,
 * width, 2 channels] + bias, zeros outside. All f32.
 * @throws EmigmError 'shape' when x has another number of channels
 */
export function depthwiseGlu(
  r: Recorder,
  x: Tensor,
  { channels, weight, bias }: DepthwiseGlu,
  options: { out?: Tensor } = {},
): Tensor {
  const [batch, height, width, inputs] = x.shape;
  const y = options.out ?? r.temp([batch, height, width, channels], 'f32', `${weight.label} out`);
  if (x.shape.length !== 4 || inputs !== 2 * channels || y.size * 2 !== x.size) {
    throw new EmigmError(
      'shape',
      `depthwise glu: x is ${describeTensor(x)} (${x.label}), ${weight.label} takes [batch, height, width, ${2 * channels}]`,
    );
  }
  const { per, consts } = vectors(channels);
  r.call({
    op: 'depthwise glu',
    kernel: { file: 'conv/depthwise_glu', consts },
    operands: { x, w: weight, bias, y },
    params: { batch, height, width, channels: channels / per },
    grid: grid1d((batch * height * Math.ceil(width / STRIP) * channels) / per),
    flops: gluFlops(y.size),
  });
  return y;
}

const gluFlops = (size: number) => (2 * 18 + 7) * size;

interface GluProblem {
  batch: number;
  height: number;
  width: number;
  channels: number;
}
const sizes = (p: Problem) => p as unknown as GluProblem;

export const depthwiseGluOp: Op = {
  name: 'depthwise glu',
  variants: () => ['depthwise_glu'],
  problems: {
    test: [
      { batch: 1, height: 1, width: 1, channels: 4 },
      { batch: 2, height: 3, width: 5, channels: 12 },
      { batch: 1, height: 4, width: 8, channels: 7 },
      { batch: 3, height: 2, width: 3, channels: 16 },
      { batch: 1, height: 6, width: 11, channels: 20 },
    ],
    bench: [
      { batch: 1, height: 64, width: 64, channels: 2048 },
      { batch: 1, height: 16, width: 16, channels: 4096 },
    ],
  },
  inputs(problem) {
    const { batch, height, width, channels } = sizes(problem);
    return {
      x: { shape: [batch, height, width, 2 * channels] },
      w: {
        shape: [2 * channels, 1, 3, 3],
        upload: (device, data) => createDepthwiseGlu(device, 'w', data, new Float32Array(2 * channels)).weight,
      },
      bias: { shape: [2 * channels] },
    };
  },
  outputs(problem) {
    const { batch, height, width, channels } = sizes(problem);
    return { y: [batch, height, width, channels] };
  },
  record(r, t, problem) {
    depthwiseGlu(r, t.x, { channels: sizes(problem).channels, weight: t.w, bias: t.bias }, { out: t.y });
  },
  oracle({ x, w, bias }, problem) {
    const { batch, height, width, channels } = sizes(problem);
    const inputs = 2 * channels;
    const conv = (b: number, row: number, column: number, c: number) => {
      let sum = bias[c];
      for (let tap = 0; tap < 9; tap++) {
        const [p, q] = [row + Math.floor(tap / 3) - 1, column + (tap % 3) - 1];
        if (p < 0 || q < 0 || p >= height || q >= width) continue;
        sum += x[((b * height + p) * width + q) * inputs + c] * w[c * 9 + tap];
      }
      return sum;
    };
    const y = Float64Array.from({ length: batch * height * width * channels }, (_, i) => {
      const [c, pixel] = [i % channels, Math.floor(i / channels)];
      const at = [Math.floor(pixel / width / height), Math.floor(pixel / width) % height, pixel % width] as const;
      const gate = conv(...at, channels + c);
      return (conv(...at, c) * gate) / (1 + Math.exp(-gate));
    });
    return { y };
  },
  flops: (p) => gluFlops(sizes(p).batch * sizes(p).height * sizes(p).width * sizes(p).channels),
};
