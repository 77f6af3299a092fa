/** Images and latents at the borders of an autoencoder: layout, scale, and the posterior's sample. */
import { EmigmError } from '../errors.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { type DType, describeTensor, type Tensor } from '../gpu/tensor.ts';
import { grid1d, type Op, type Problem } from './op.ts';

/** `planes`: [batch, channels, height, width]; `last`: [batch, height, width, channels]. */
export type ImageLayout = 'planes' | 'last';

export interface LayoutOptions {
  /** Channels of y, those that x lacks zero; default: as many as x has. */
  channels?: number;
  /** Multiplies every number; default 1. */
  scale?: number;
  out?: Tensor;
  dtype?: DType;
}

/** y = scale x with x in layout `source` and y in layout `result`, channels added or dropped. f32 or f16 each. */
export function imageLayout(
  r: Recorder,
  x: Tensor,
  source: ImageLayout,
  result: ImageLayout,
  options: LayoutOptions = {},
): Tensor {
  if (x.shape.length !== 4) throw new EmigmError('shape', `layout: ${x.label} is ${describeTensor(x)}, not 4 sizes`);
  const [batch, ...rest] = x.shape;
  const [height, width, inputs] = source === 'last' ? rest : [rest[1], rest[2], rest[0]];
  const { channels = inputs, scale = 1, dtype = 'f32' } = options;
  const shape = result === 'last' ? [batch, height, width, channels] : [batch, channels, height, width];
  const y = options.out ?? r.temp(shape, dtype, `${x.label} ${result === 'last' ? 'channels last' : 'planes'}`);
  const size = batch * height * width * channels;
  if (y.size !== size) {
    throw new EmigmError('shape', `layout: ${y.label} is ${describeTensor(y)}, not [${shape.join(', ')}]`);
  }
  r.call({
    op: 'layout',
    kernel: {
      file: 'image/layout',
      consts: { ...(x.dtype === 'f16' && { In: 'f16' }), ...(y.dtype === 'f16' && { Out: 'f16' }) },
      overrides: { IN_PLANES: source === 'planes', OUT_PLANES: result === 'planes' },
    },
    operands: { x, y },
    params: { size, pixels: height * width, in_channels: inputs, out_channels: channels, scale },
    grid: grid1d(size),
    flops: size,
  });
  return y;
}

/**
 * A latent from an encoder's moments [..., 2 channels]: y[..., channels] = scale (mean + std noise), std = exp of half
 * the log variance clamped to [-30, 20]; without noise the mode, scale * mean.
 */
export function posterior(
  r: Recorder,
  moments: Tensor,
  { noise, scale = 1, out }: { noise?: Tensor; scale?: number; out?: Tensor } = {},
): Tensor {
  const channels = moments.shape.at(-1)! / 2;
  const y = out ?? r.temp([...moments.shape.slice(0, -1), channels], 'f32', 'latent');
  const size = moments.size / 2;
  if (y.size !== size || (noise && noise.size !== size) || !Number.isInteger(channels)) {
    throw new EmigmError(
      'shape',
      `posterior: moments ${describeTensor(moments)}, latent ${describeTensor(y)}` +
        (noise ? `, noise ${describeTensor(noise)}` : ''),
    );
  }
  r.call({
    op: 'posterior',
    kernel: { file: 'image/posterior', overrides: { NOISE: noise !== undefined } },
    operands: { moments, noise, y },
    params: { rows: size / channels, channels, scale },
    grid: grid1d(size),
    flops: 8 * size,
  });
  return y;
}

interface LayoutProblem {
  batch: number;
  height: number;
  width: number;
  inputs: number;
  outputs: number;
  source: ImageLayout;
  result: ImageLayout;
  scale?: number;
  stored?: DType;
}
const layoutOf = (p: Problem) => p as unknown as LayoutProblem;

function shapeIn(p: LayoutProblem, layout: ImageLayout, channels: number): number[] {
  return layout === 'last' ? [p.batch, p.height, p.width, channels] : [p.batch, channels, p.height, p.width];
}

export const layoutOp: Op = {
  name: 'layout',
  variants: () => ['layout'],
  problems: {
    test: [
      { batch: 2, height: 3, width: 5, inputs: 3, outputs: 4, source: 'planes', result: 'last' },
      { batch: 2, height: 3, width: 5, inputs: 4, outputs: 3, source: 'last', result: 'planes' },
      { batch: 1, height: 2, width: 7, inputs: 5, outputs: 5, source: 'last', result: 'last', scale: 1 / 0.2325 },
      { batch: 1, height: 4, width: 3, inputs: 3, outputs: 4, source: 'planes', result: 'last', stored: 'f16' },
    ],
    bench: [{ batch: 1, height: 256, width: 256, inputs: 4, outputs: 3, source: 'last', result: 'planes' }],
  },
  inputs(problem) {
    const p = layoutOf(problem);
    return { x: { shape: shapeIn(p, p.source, p.inputs), dtype: p.stored } };
  },
  outputs: (p) => ({ y: shapeIn(layoutOf(p), layoutOf(p).result, layoutOf(p).outputs) }),
  outputType: (p) => layoutOf(p).stored ?? 'f32',
  record(r, t, problem) {
    const { source, result, outputs, scale } = layoutOf(problem);
    imageLayout(r, t.x, source, result, { channels: outputs, scale, out: t.y });
  },
  oracle({ x }, problem) {
    const { batch, height, width, inputs, outputs, source, result, scale = 1 } = layoutOf(problem);
    const pixels = height * width;
    const at = (layout: ImageLayout, channels: number, b: number, p: number, c: number) =>
      b * pixels * channels + (layout === 'last' ? p * channels + c : c * pixels + p);
    const y = new Float64Array(batch * pixels * outputs);
    for (let b = 0; b < batch; b++) {
      for (let p = 0; p < pixels; p++) {
        for (let c = 0; c < Math.min(inputs, outputs); c++) {
          y[at(result, outputs, b, p, c)] = scale * x[at(source, inputs, b, p, c)];
        }
      }
    }
    return { y };
  },
  flops: (p) => layoutOf(p).batch * layoutOf(p).height * layoutOf(p).width * layoutOf(p).outputs,
};

interface PosteriorProblem {
  rows: number;
  channels: number;
  noise?: boolean;
  scale?: number;
}
const posteriorOf = (p: Problem) => p as unknown as PosteriorProblem;

export const posteriorOp: Op = {
  name: 'posterior',
  variants: () => ['posterior'],
  problems: {
    test: [
      { rows: 7, channels: 16, noise: true, scale: 0.2325 },
      { rows: 5, channels: 3 },
      { rows: 3, channels: 5, noise: true },
    ],
    bench: [{ rows: 256, channels: 16, noise: true, scale: 0.2325 }],
  },
  inputs(problem) {
    const { rows, channels, noise } = posteriorOf(problem);
    return {
      moments: { shape: [rows, 2 * channels], fill: { scale: 3 } },
      ...(noise && { noise: { shape: [rows, channels] } }),
    };
  },
  outputs: (p) => ({ y: [posteriorOf(p).rows, posteriorOf(p).channels] }),
  record: (r, t, p) => {
    posterior(r, t.moments, { noise: t.noise, scale: posteriorOf(p).scale, out: t.y });
  },
  oracle({ moments, noise }, problem) {
    const { rows, channels, scale = 1 } = posteriorOf(problem);
    const y = Float64Array.from({ length: rows * channels }, (_, i) => {
      const at = i + Math.floor(i / channels) * channels;
      const logvar = Math.min(20, Math.max(-30, moments[at + channels]));
      return scale * (moments[at] + (noise ? Math.exp(logvar / 2) * noise[i] : 0));
    });
    return { y };
  },
  flops: (p) => 8 * posteriorOf(p).rows * posteriorOf(p).channels,
};
