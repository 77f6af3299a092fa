/** Group norm over channels-last images, with SiLU after it where asked for. */
import { EmigmError } from '../errors.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { type DType, describeTensor, type Tensor } from '../gpu/tensor.ts';
import type { Norm } from './layernorm.ts';
import { grid1d, type Op, type Problem } from './op.ts';

export interface GroupNormOptions {
  /** Default 32. */
  groups?: number;
  /** Default 1e-6, as KL-16 has it. */
  eps?: number;
  silu?: boolean;
  out?: Tensor;
  dtype?: DType;
  variant?: string;
}

const variants = (channels: number) => (channels % 4 === 0 ? ['group_norm', 'reference'] : ['reference']);

/** Stretches of pixels whose statistics are taken apart: enough to fill a GPU, each long enough to be worth it. */
function stretchesOf(pixels: number): { stretch: number; stretches: number } {
  const stretch = Math.max(16, Math.ceil(pixels / 512));
  return { stretch, stretches: Math.ceil(pixels / stretch) };
}

/**
 * y = group norm of x[batch, ..., channels]: statistics over all pixels and the channels of a group, affine by
 * channel, then SiLU if asked for. x and y are f32 or f16, each by itself; statistics are f32.
 * @throws EmigmError 'shape' when the channels are no multiple of the groups, or the affine has another width
 */
export function groupNorm(r: Recorder, x: Tensor, affine: Norm, options: GroupNormOptions = {}): Tensor {
  const { groups = 32, eps = 1e-6, silu = false, dtype = 'f32' } = options;
  const batch = x.shape[0];
  const channels = x.shape.at(-1)!;
  const pixels = x.size / batch / channels;
  if (channels % groups !== 0 || affine.weight.size !== channels || affine.bias.size !== channels) {
    throw new EmigmError(
      'shape',
      `group norm: x is ${describeTensor(x)} (${x.label}): no ${groups} groups and weights of ${affine.weight.size}`,
    );
  }
  const y = options.out ?? r.temp(x.shape, dtype, 'group norm out');
  const usable = variants(channels);
  const variant = options.variant ?? usable.find((name) => name === r.device.variants.group_norm) ?? usable[0];
  const scalars = { ...(x.dtype === 'f16' && { In: 'f16' }), ...(y.dtype === 'f16' && { Out: 'f16' }) };
  const { weight, bias } = affine;
  if (variant === 'reference') {
    r.call({
      op: 'group norm',
      kernel: { file: 'norm/group_norm_reference', consts: scalars, overrides: { SILU: silu } },
      operands: { x, weight, bias, y },
      params: { batch, pixels, channels, groups, eps },
      grid: [Math.ceil((batch * groups) / 64)],
      flops: groupNormFlops(x.size, silu),
    });
    return y;
  }
  const sizes = { pixels, channels, groups, ...stretchesOf(pixels) };
  const partial = r.temp([batch, sizes.stretches, groups, 2], 'f32', 'group norm partial');
  r.call({
    op: 'group norm',
    kernel: { file: 'norm/group_norm_partial', consts: x.dtype === 'f16' ? { In: 'f16' } : {} },
    operands: { x, partial },
    params: { batch, ...sizes },
    grid: grid1d(batch * sizes.stretches * groups),
    flops: 4 * x.size,
  });
  const stats = r.temp([batch, groups, 2], 'f32', 'group norm statistics');
  r.call({
    op: 'group norm',
    kernel: { file: 'norm/group_norm_combine' },
    operands: { partial, stats },
    params: { ...sizes, eps },
    grid: [groups, batch],
  });
  r.call({
    op: 'group norm',
    kernel: {
      file: 'norm/group_norm',
      consts: { ...(x.dtype === 'f16' && { In4: 'vec4<f16>' }), ...(y.dtype === 'f16' && { Out4: 'vec4<f16>' }) },
      overrides: { SILU: silu },
    },
    operands: { x, stats, weight, bias, y },
    params: { size: x.size / 4, pixels, channels: channels / 4, groups, width: channels / groups },
    grid: grid1d(x.size / 4),
    flops: groupNormFlops(x.size, silu) - 4 * x.size,
  });
  return y;
}

const groupNormFlops = (size: number, silu: boolean) => (silu ? 12 : 8) * size;

interface GroupNormProblem {
  batch: number;
  pixels: number;
  channels: number;
  groups: number;
  silu?: boolean;
  /** Mean of the inputs, where it is not 0. */
  mean?: number;
  stored?: DType;
}
const sizes = (p: Problem) => p as unknown as GroupNormProblem;

export const groupNormOp: Op = {
  name: 'group norm',
  variants: (_, p) => variants(sizes(p).channels),
  problems: {
    test: [
      { batch: 1, pixels: 1, channels: 8, groups: 4 },
      { batch: 2, pixels: 35, channels: 32, groups: 32, silu: true },
      { batch: 3, pixels: 17, channels: 12, groups: 2 },
      { batch: 1, pixels: 9, channels: 10, groups: 5, silu: true },
      { batch: 1, pixels: 1100, channels: 64, groups: 32, mean: 30 },
      { batch: 1, pixels: 8200, channels: 8, groups: 2, silu: true },
      { batch: 2, pixels: 20, channels: 36, groups: 4, silu: true, stored: 'f16' },
    ],
    bench: [
      { batch: 1, pixels: 65536, channels: 128, groups: 32, silu: true },
      { batch: 1, pixels: 4096, channels: 256, groups: 32, silu: true },
      { batch: 1, pixels: 256, channels: 512, groups: 32, silu: true },
    ],
  },
  inputs(problem) {
    const { batch, pixels, channels, stored, mean } = sizes(problem);
    return {
      x: {
        shape: [batch, pixels, channels],
        dtype: stored,
        // Far from zero: a variance taken as a difference of two sums would be lost.
        ...(mean && {
          fill: { values: (size) => Float32Array.from({ length: size }, (_, i) => mean + Math.sin(i * i)) },
        }),
      },
      weight: { shape: [channels] },
      bias: { shape: [channels] },
    };
  },
  outputs: (p) => ({ y: [sizes(p).batch, sizes(p).pixels, sizes(p).channels] }),
  outputType: (p) => sizes(p).stored ?? 'f32',
  record(r, t, problem, variant) {
    const { groups, silu } = sizes(problem);
    groupNorm(r, t.x, { weight: t.weight, bias: t.bias }, { groups, silu, out: t.y, variant });
  },
  oracle({ x, weight, bias }, problem) {
    const { batch, pixels, channels, groups, silu } = sizes(problem);
    const width = channels / groups;
    const y = new Float64Array(x.length);
    for (let b = 0; b < batch; b++) {
      for (let g = 0; g < groups; g++) {
        const places = Array.from(
          { length: pixels * width },
          (_, i) => (b * pixels + Math.floor(i / width)) * channels + g * width + (i % width),
        );
        const mean = places.reduce((sum, at) => sum + x[at], 0) / places.length;
        const variance = places.reduce((sum, at) => sum + (x[at] - mean) ** 2, 0) / places.length;
        for (const at of places) {
          const c = at % channels;
          const value = ((x[at] - mean) / Math.sqrt(variance + 1e-6)) * weight[c] + bias[c];
          y[at] = silu ? value / (1 + Math.exp(-value)) : value;
        }
      }
    }
    return { y };
  },
  flops: (p) => groupNormFlops(sizes(p).batch * sizes(p).pixels * sizes(p).channels, sizes(p).silu === true),
};
