/** Convolution for tests and benchmarks: problems and the float64 oracle. */
import type { DType } from '../gpu/tensor.ts';
import {
  type ConvActivation,
  type ConvShape,
  type ConvVariant,
  conv,
  convSize,
  convVariants,
  createConv,
} from './conv.ts';
import type { Op, Problem } from './op.ts';

interface ConvProblem {
  batch: number;
  height: number;
  width: number;
  inputs: number;
  outputs: number;
  kernel: number;
  stride?: number;
  /** Of all sides, or `end`: one row below, one column to the right (KL-16's downsampling). */
  padding?: number | 'end';
  groups?: number;
  upsample?: boolean;
  bias?: boolean;
  activation?: ConvActivation;
  residual?: boolean;
  stored?: 'f32' | 'f16';
  x?: DType;
  y?: DType;
}
const sizes = (p: Problem) => p as unknown as ConvProblem;

const pads = (p: ConvProblem) =>
  p.padding === 'end' ? { top: 0, left: 0, bottom: 1, right: 1 } : (p.padding ?? Math.floor(p.kernel / 2));

const shapeOf = (p: ConvProblem): ConvShape => ({
  inputs: p.inputs,
  outputs: p.outputs,
  kernel: [p.kernel, p.kernel],
  stride: p.stride,
  padding: pads(p),
  groups: p.groups,
  upsample: p.upsample,
});

const outSize = (p: ConvProblem) => [p.batch, ...convSize(shapeOf(p), p.height, p.width), p.outputs];
const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** Side, inputs and outputs of KL-16's 3 x 3 layers at 256 px, batch 1. */
const KL16_LAYERS = [
  [256, 128, 128],
  [128, 128, 128],
  [64, 256, 256],
  [32, 256, 256],
  [16, 512, 512],
] as const;

export const convOp: Op = {
  name: 'conv',
  variants: (device, p) => convVariants(device, shapeOf(sizes(p))),
  problems: {
    test: [
      { batch: 1, height: 1, width: 1, inputs: 4, outputs: 4, kernel: 3 },
      { batch: 2, height: 5, width: 7, inputs: 8, outputs: 20, kernel: 3, bias: true, activation: 'silu' },
      { batch: 1, height: 6, width: 5, inputs: 3, outputs: 10, kernel: 3, bias: true },
      { batch: 1, height: 9, width: 4, inputs: 36, outputs: 68, kernel: 1, bias: true, residual: true },
      { batch: 2, height: 6, width: 8, inputs: 12, outputs: 36, kernel: 3, stride: 2, padding: 'end', bias: true },
      { batch: 1, height: 7, width: 9, inputs: 4, outputs: 8, kernel: 3, stride: 2, activation: 'relu' },
      { batch: 2, height: 3, width: 5, inputs: 8, outputs: 12, kernel: 3, upsample: true, bias: true, residual: true },
      { batch: 1, height: 2, width: 4, inputs: 5, outputs: 3, kernel: 3, upsample: true },
      { batch: 1, height: 4, width: 5, inputs: 24, outputs: 60, kernel: 1, groups: 3, padding: 0, bias: true },
      { batch: 2, height: 4, width: 3, inputs: 6, outputs: 4, kernel: 3, groups: 2, bias: true },
      { batch: 2, height: 5, width: 6, inputs: 12, outputs: 12, kernel: 5, groups: 12, bias: true },
      { batch: 1, height: 5, width: 4, inputs: 7, outputs: 7, kernel: 3, groups: 7, stride: 2, residual: true },
      { batch: 1, height: 5, width: 6, inputs: 20, outputs: 24, kernel: 3, stored: 'f16', bias: true },
      { batch: 1, height: 5, width: 6, inputs: 12, outputs: 16, kernel: 3, x: 'f16', y: 'f16', activation: 'silu' },
      { batch: 1, height: 4, width: 4, inputs: 8, outputs: 8, kernel: 3, groups: 8, x: 'f16', y: 'f16' },
    ],
    bench: [
      ...KL16_LAYERS.map(([side, inputs, outputs]) => ({
        batch: 1,
        height: side,
        width: side,
        inputs,
        outputs,
        kernel: 3,
        bias: true,
      })),
      { batch: 1, height: 128, width: 128, inputs: 128, outputs: 128, kernel: 3, upsample: true, bias: true },
      {
        batch: 1,
        height: 128,
        width: 128,
        inputs: 128,
        outputs: 128,
        kernel: 3,
        stride: 2,
        padding: 'end',
        bias: true,
      },
      { batch: 1, height: 16, width: 16, inputs: 3072, outputs: 3072, kernel: 5, groups: 3072 },
      { batch: 1, height: 32, width: 32, inputs: 4096, outputs: 4096, kernel: 3, groups: 4096, bias: true },
    ],
  },
  inputs(problem) {
    const p = sizes(problem);
    const fan = (p.inputs / (p.groups ?? 1)) * p.kernel ** 2;
    return {
      x: { shape: [p.batch, p.height, p.width, p.inputs], dtype: p.x },
      w: {
        shape: [p.outputs, p.inputs / (p.groups ?? 1), p.kernel, p.kernel],
        dtype: p.stored,
        fill: { scale: 1 / Math.sqrt(fan) },
        upload: (device, data, variant) =>
          createConv(device, 'w', shapeOf(p), data, undefined, {
            stored: p.stored,
            variant: variant as ConvVariant,
          }).weight,
      },
      ...(p.bias && { bias: { shape: [p.outputs] } }),
      ...(p.residual && { residual: { shape: outSize(p) } }),
    };
  },
  outputs: (p) => ({ y: outSize(sizes(p)) }),
  outputType: (p) => sizes(p).y ?? 'f32',
  record(r, t, problem, variant) {
    const p = sizes(problem);
    const layer = { shape: shapeOf(p), variant: variant as ConvVariant, weight: t.w, bias: t.bias };
    conv(r, t.x, layer, { activation: p.activation, residual: t.residual, out: t.y });
  },
  oracle({ x, w, bias, residual }, problem) {
    const p = sizes(problem);
    const { height, width, inputs, outputs, kernel, stride = 1, groups = 1 } = p;
    const padding = pads(p);
    const [top, left] = typeof padding === 'number' ? [padding, padding] : [padding.top, padding.left];
    const zoom = p.upsample ? 2 : 1;
    const perGroup = inputs / groups;
    const [, outHeight, outWidth] = outSize(p);
    const y = new Float64Array(product(outSize(p)));
    const activate = {
      none: (v: number) => v,
      relu: (v: number) => Math.max(v, 0),
      silu: (v: number) => v / (1 + Math.exp(-v)),
    };
    for (let at = 0; at < y.length; at++) {
      const o = at % outputs;
      const column = Math.floor(at / outputs) % outWidth;
      const row = Math.floor(at / outputs / outWidth) % outHeight;
      const b = Math.floor(at / outputs / outWidth / outHeight);
      let sum = bias ? bias[o] : 0;
      for (let i = 0; i < kernel; i++) {
        for (let j = 0; j < kernel; j++) {
          const inRow = row * stride + i - top;
          const inColumn = column * stride + j - left;
          if (inRow < 0 || inColumn < 0 || inRow >= height * zoom || inColumn >= width * zoom) continue;
          const pixel = (b * height + Math.floor(inRow / zoom)) * width + Math.floor(inColumn / zoom);
          const first = Math.floor(o / (outputs / groups)) * perGroup;
          for (let c = 0; c < perGroup; c++) {
            sum += x[pixel * inputs + first + c] * w[((o * perGroup + c) * kernel + i) * kernel + j];
          }
        }
      }
      y[at] = activate[p.activation ?? 'none'](sum) + (residual ? residual[at] : 0);
    }
    return { y };
  },
  /** Upsampling: of the four phases, each with 2 x 2 products. */
  flops(problem) {
    const p = sizes(problem);
    const taps = p.upsample ? 4 : p.kernel ** 2;
    return (2 * product(outSize(p)) * taps * p.inputs) / (p.groups ?? 1);
  },
};
