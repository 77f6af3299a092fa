/** The diffusion head's samplers on the device: time embedding, solver updates, noise. */
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { normalNoise, streamKey } from '../random.ts';
import { grid1d, type Op, type Problem } from './op.ts';

/**
 * exp(-ln(10000) i / half) for i below half = floor(dim / 2), in float32 with the official code's roundings: the
 * angles go up to 1000, so that the last bit of a frequency is seen.
 */
export function sinusoidFrequencies(dim: number): Float32Array {
  const { fround } = Math;
  const half = Math.floor(dim / 2);
  const scale = fround(-Math.log(10000));
  return Float32Array.from({ length: half }, (_, i) => Math.exp(fround(fround(scale * i) / half)));
}

/** y[rows, dim] = [cos | sin] of t[rows] times the frequencies (`sinusoidFrequencies`). */
export function sinusoid(r: Recorder, t: Tensor, frequency: Tensor, dim: number, out?: Tensor): Tensor {
  const y = out ?? r.temp([t.size, dim], 'f32', 'time embedding');
  r.call({
    op: 'sinusoid',
    kernel: { file: 'diffusion/sinusoid' },
    operands: { t, frequency, y },
    params: { rows: t.size, dim },
    grid: grid1d(t.size * dim),
    flops: 20 * t.size * dim,
  });
  return y;
}

/** Guidance of a head evaluation; without it `net` has one row a point. */
export interface HeadRows {
  rows: number;
  channels: number;
  /** Scale; undefined when only the conditional half was evaluated. */
  guidance?: number;
}

/** Coefficients of one DPM-Solver++ evaluation: see `dpmSolverPlan`. */
export interface SolverStep {
  first: boolean;
  alpha: number;
  sigma: number;
  a: number;
  b: number;
  c: number;
}

/** x (both halves when guided) moves to the next point; xBase and mBase keep the outer step's start. */
export function dpmSolverUpdate(
  r: Recorder,
  net: Tensor,
  netWidth: number,
  x: Tensor,
  xBase: Tensor,
  mBase: Tensor,
  { rows, channels, guidance }: HeadRows,
  { first, alpha, sigma, a, b, c }: SolverStep,
): void {
  r.call({
    op: 'dpm_solver',
    kernel: { file: 'diffusion/dpm_solver' },
    operands: { net, x, x_base: xBase, m_base: mBase },
    params: {
      rows,
      channels,
      net_width: netWidth,
      guided: guidance === undefined ? 0 : 1,
      first: first ? 1 : 0,
      guidance: guidance ?? 1,
      alpha,
      sigma,
      a,
      b,
      c,
    },
    grid: grid1d(rows * channels),
    flops: 12 * rows * channels,
  });
}

/** Coefficients of one DDPM step: see `ddpmPlan`. `deviation` is the temperature, 0 in the last step. */
export interface AncestralStep {
  recip: number;
  recipM1: number;
  meanX0: number;
  meanX: number;
  minLog: number;
  maxLog: number;
  deviation: number;
}

/** x (both halves when guided) takes one ancestral step with this noise[rows, channels]. */
export function ddpmUpdate(
  r: Recorder,
  net: Tensor,
  noise: Tensor,
  x: Tensor,
  { rows, channels, guidance }: HeadRows,
  step: AncestralStep,
): void {
  r.call({
    op: 'ddpm',
    kernel: { file: 'diffusion/ddpm' },
    operands: { net, noise, x },
    params: {
      rows,
      channels,
      guided: guidance === undefined ? 0 : 1,
      guidance: guidance ?? 1,
      recip: step.recip,
      recip_m1: step.recipM1,
      mean_x0: step.meanX0,
      mean_x: step.meanX,
      min_log: step.minLog,
      max_log: step.maxLog,
      deviation: step.deviation,
    },
    grid: grid1d(rows * channels),
    flops: 20 * rows * channels,
  });
}

export interface NoiseKey {
  seed: number | bigint;
  stream: number;
  step: number;
  headStep: number;
}

/**
 * Standard normal noise y[count, channels]; each row's by its (image, position) pair in `rows`, from row `offset` on.
 * With `copy` written twice, [2, count, channels]. The same numbers as `normalNoise`, in float32.
 */
export function normal(
  r: Recorder,
  rows: Tensor,
  offset: number,
  count: number,
  channels: number,
  { seed, stream, step, headStep }: NoiseKey,
  out: Tensor,
  copy = false,
): void {
  const [low, high] = streamKey(seed, stream, step);
  r.call({
    op: 'normal',
    kernel: { file: 'random/normal', overrides: { COPY: copy } },
    operands: { rows, y: out },
    params: { key_low: low, key_high: high, count, channels, head_step: headStep, offset },
    grid: grid1d(count * Math.ceil(channels / 2)),
  });
}

type Sizes = Record<string, number>;
const sizes = (p: Problem) => p as unknown as Sizes;

export const sinusoidOp: Op = {
  name: 'sinusoid',
  variants: () => ['sinusoid'],
  problems: {
    test: [
      { rows: 5, dim: 256 },
      { rows: 3, dim: 7 },
    ],
    bench: [{ rows: 64, dim: 256 }],
  },
  inputs: (p) => ({
    t: { shape: [sizes(p).rows], fill: { values: (n) => Array.from({ length: n }, (_, i) => (i * 1234.567) % 999) } },
    frequency: {
      shape: [Math.floor(sizes(p).dim / 2)],
      fill: { values: () => sinusoidFrequencies(sizes(p).dim) },
    },
  }),
  outputs: (p) => ({ y: [sizes(p).rows, sizes(p).dim] }),
  record: (r, t, p) => {
    sinusoid(r, t.t, t.frequency, sizes(p).dim, t.y);
  },
  oracle: ({ t, frequency }, p) => {
    const { dim } = sizes(p);
    const half = frequency.length;
    const y = Float64Array.from({ length: t.length * dim }, (_, at) => {
      const i = at % dim;
      if (i >= 2 * half) return 0;
      // The angle is rounded to float32, as every float32 implementation does.
      const angle = Math.fround(t[Math.floor(at / dim)] * frequency[i % half]);
      return i < half ? Math.cos(angle) : Math.sin(angle);
    });
    return { y };
  },
  flops: (p) => 20 * sizes(p).rows * sizes(p).dim,
};

export const dpmSolverOp: Op = {
  name: 'dpm_solver',
  variants: () => ['dpm_solver'],
  problems: {
    test: [
      { rows: 5, channels: 3, guided: true, first: true },
      { rows: 4, channels: 6 },
      { rows: 3, channels: 2, guided: true },
    ],
    bench: [{ rows: 256, channels: 16, guided: true }],
  },
  inputs: (p) => {
    const { rows, channels } = sizes(p);
    const half = p.guided ? 2 : 1;
    return {
      net: { shape: [half * rows, 2 * channels] },
      x: { shape: [half * rows, channels], inPlace: true },
      xBase: { shape: [rows, channels], inPlace: true },
      mBase: { shape: [rows, channels], inPlace: true },
    };
  },
  outputs: (p) => ({ x: [(p.guided ? 2 : 1) * sizes(p).rows, sizes(p).channels] }),
  record: (r, t, p) => {
    const { rows, channels } = sizes(p);
    dpmSolverUpdate(
      r,
      t.net,
      2 * channels,
      t.x,
      t.xBase,
      t.mBase,
      { rows, channels, guidance: p.guided ? 2.5 : undefined },
      {
        first: p.first === true,
        alpha: 0.7,
        sigma: 0.6,
        a: 0.9,
        b: -0.3,
        c: 0.4,
      },
    );
  },
  oracle: ({ net, x, xBase, mBase }, p) => {
    const { rows, channels } = sizes(p);
    const next = new Float64Array(x.length);
    for (let at = 0; at < rows * channels; at++) {
      const row = Math.floor(at / channels);
      let noise = net[row * 2 * channels + (at % channels)];
      if (p.guided) {
        const u = net[(rows + row) * 2 * channels + (at % channels)];
        noise = u + 2.5 * (noise - u);
      }
      const m = (x[at] - 0.6 * noise) / 0.7;
      const [base, first] = p.first ? [x[at], m] : [xBase[at], mBase[at]];
      next[at] = 0.9 * base - 0.3 * first + 0.4 * m;
      if (p.guided) next[at + rows * channels] = next[at];
    }
    return { x: next };
  },
  flops: (p) => 12 * sizes(p).rows * sizes(p).channels,
};

export const ddpmOp: Op = {
  name: 'ddpm',
  variants: () => ['ddpm'],
  problems: {
    test: [
      { rows: 5, channels: 3, guided: true },
      { rows: 4, channels: 6 },
    ],
    bench: [{ rows: 256, channels: 16, guided: true }],
  },
  inputs: (p) => {
    const { rows, channels } = sizes(p);
    const half = p.guided ? 2 : 1;
    return {
      net: { shape: [half * rows, 2 * channels] },
      noise: { shape: [rows, channels] },
      x: { shape: [half * rows, channels], inPlace: true },
    };
  },
  outputs: (p) => ({ x: [(p.guided ? 2 : 1) * sizes(p).rows, sizes(p).channels] }),
  record: (r, t, p) => {
    const { rows, channels } = sizes(p);
    ddpmUpdate(
      r,
      t.net,
      t.noise,
      t.x,
      { rows, channels, guidance: p.guided ? 2.5 : undefined },
      {
        recip: 1.2,
        recipM1: 0.4,
        meanX0: 0.5,
        meanX: 0.6,
        minLog: -3,
        maxLog: -1,
        deviation: 0.9,
      },
    );
  },
  oracle: ({ net, noise, x }, p) => {
    const { rows, channels } = sizes(p);
    const next = new Float64Array(x.length);
    for (let at = 0; at < rows * channels; at++) {
      const row = Math.floor(at / channels);
      let e = net[row * 2 * channels + (at % channels)];
      const f = (net[row * 2 * channels + (at % channels) + channels] + 1) / 2;
      if (p.guided) {
        const u = net[(rows + row) * 2 * channels + (at % channels)];
        e = u + 2.5 * (e - u);
      }
      const mean = 0.5 * (1.2 * x[at] - 0.4 * e) + 0.6 * x[at];
      next[at] = mean + 0.9 * Math.exp(0.5 * (f * -1 + (1 - f) * -3)) * noise[at];
      if (p.guided) next[at + rows * channels] = next[at];
    }
    return { x: next };
  },
  flops: (p) => 20 * sizes(p).rows * sizes(p).channels,
};

export const normalOp: Op = {
  name: 'normal',
  variants: () => ['normal'],
  problems: {
    test: [
      { count: 5, channels: 7 },
      { count: 3, channels: 16, copy: true },
    ],
    bench: [{ count: 256, channels: 16 }],
  },
  inputs: (p) => ({
    rows: {
      shape: [sizes(p).count + 1, 2],
      dtype: 'u32',
      fill: { values: (n) => Array.from({ length: n }, (_, i) => i * 7 + 1) },
    },
  }),
  outputs: (p) => ({ y: [(p.copy ? 2 : 1) * sizes(p).count, sizes(p).channels] }),
  record: (r, t, p) => {
    const { count, channels } = sizes(p);
    normal(r, t.rows, 1, count, channels, { seed: 2 ** 40 + 3, stream: 3, step: 5, headStep: 2 }, t.y, p.copy === true);
  },
  oracle: ({ rows }, p) => {
    const { count, channels } = sizes(p);
    const noise = Array.from({ length: count }, (_, i) => [
      ...normalNoise(2 ** 40 + 3, 3, 5, rows[2 * i + 2], rows[2 * i + 3], 2, channels),
    ]).flat();
    return { y: Float64Array.from(p.copy ? [...noise, ...noise] : noise) };
  },
  flops: (p) => 100 * sizes(p).count * sizes(p).channels,
};
