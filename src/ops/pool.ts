/** What convolutional networks have between convolutions: pooling, and channels of several images side by side. */
import { EmigmError } from '../errors.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { describeTensor, type Tensor } from '../gpu/tensor.ts';
import { vectors } from './elementwise.ts';
import { grid1d, type Op, type Problem } from './op.ts';

export interface PoolOptions {
  /** Rows and columns of the window. */
  window: readonly [number, number];
  /** Default 1. */
  stride?: number;
  /** Pixels outside on all sides that windows reach to and leave out; default 0. */
  padding?: number;
  out?: Tensor;
}

/**
 * y[batch, height', width', channels]: the largest or the mean of each window of x[batch, height, width, channels],
 * f32. What lies outside of x counts for nothing (count_include_pad false).
 * @throws EmigmError 'shape' when x is no image, smaller than the window, or padded by a window or more
 */
export function pool(r: Recorder, x: Tensor, kind: 'max' | 'mean', options: PoolOptions): Tensor {
  const { window, stride = 1, padding = 0 } = options;
  const [batch, height, width, channels] = x.shape;
  const sizes = [height, width].map((size, i) => Math.floor((size + 2 * padding - window[i]) / stride) + 1);
  if (x.shape.length !== 4 || sizes.some((size) => size < 1) || window.some((size) => padding >= size)) {
    throw new EmigmError('shape', `pool: no windows of ${window.join(' x ')} in ${describeTensor(x)} (${x.label})`);
  }
  const shape = [batch, ...sizes, channels];
  const y = options.out ?? r.temp(shape, 'f32', `${x.label} pooled`);
  const size = shape.reduce((a, b) => a * b, 1);
  if (y.size !== size) {
    throw new EmigmError('shape', `pool: ${y.label} is ${describeTensor(y)}, not [${shape.join(', ')}]`);
  }
  const { per, consts } = vectors(channels);
  r.call({
    op: 'pool',
    kernel: { file: 'image/pool', consts, overrides: { MAXIMUM: kind === 'max' } },
    operands: { x, y },
    params: {
      batch,
      in_height: height,
      in_width: width,
      channels: channels / per,
      out_height: sizes[0],
      out_width: sizes[1],
      window_height: window[0],
      window_width: window[1],
      stride,
      pad: padding,
    },
    grid: grid1d(size / per),
    flops: size * window[0] * window[1],
  });
  return y;
}

/** y[..., sum of channels]: the channels of all parts side by side. @throws EmigmError 'shape' for parts of other pixels */
export function concatChannels(r: Recorder, parts: readonly Tensor[], options: { out?: Tensor } = {}): Tensor {
  const counts = parts.map((part) => part.shape.at(-1)!);
  const total = counts.reduce((a, b) => a + b, 0);
  const pixels = parts[0].size / counts[0];
  const y = options.out ?? r.temp([...parts[0].shape.slice(0, -1), total], 'f32', 'channels');
  let first = 0;
  for (const [i, x] of parts.entries()) {
    if (x.size / counts[i] !== pixels || y.size !== pixels * total) {
      throw new EmigmError(
        'shape',
        `concat: ${x.label} is ${describeTensor(x)}, ${y.label} ${describeTensor(y)}; ${pixels} pixels, ${total} channels`,
      );
    }
    const { per, consts } = vectors(counts[i], total, first);
    r.call({
      op: 'concat',
      kernel: { file: 'image/place_channels', consts },
      operands: { x, y },
      params: { pixels, channels: counts[i] / per, out_channels: total / per, first: first / per },
      grid: grid1d(x.size / per),
    });
    first += counts[i];
  }
  return y;
}

interface PoolProblem {
  kind: 'max' | 'mean';
  batch: number;
  height: number;
  width: number;
  channels: number;
  rows: number;
  columns: number;
  stride?: number;
  padding?: number;
}
const poolOf = (p: Problem) => p as unknown as PoolProblem;
const poolSizes = ({ height, width, rows, columns, stride = 1, padding = 0 }: PoolProblem) => [
  Math.floor((height + 2 * padding - rows) / stride) + 1,
  Math.floor((width + 2 * padding - columns) / stride) + 1,
];
const poolShape = (p: PoolProblem) => [p.batch, ...poolSizes(p), p.channels];

export const poolOp: Op = {
  name: 'pool',
  variants: () => ['pool'],
  problems: {
    test: [
      { kind: 'max', batch: 2, height: 9, width: 8, channels: 8, rows: 3, columns: 3, stride: 2 },
      { kind: 'max', batch: 1, height: 4, width: 5, channels: 12, rows: 3, columns: 3, padding: 1 },
      { kind: 'mean', batch: 2, height: 5, width: 4, channels: 8, rows: 3, columns: 3, padding: 1 },
      { kind: 'mean', batch: 1, height: 7, width: 6, channels: 3, rows: 2, columns: 3, stride: 2, padding: 1 },
      { kind: 'mean', batch: 2, height: 11, width: 13, channels: 20, rows: 11, columns: 13 },
    ],
    bench: [
      { kind: 'max', batch: 8, height: 147, width: 147, channels: 64, rows: 3, columns: 3, stride: 2 },
      { kind: 'mean', batch: 8, height: 35, width: 35, channels: 288, rows: 3, columns: 3, padding: 1 },
    ],
  },
  inputs(problem) {
    const { batch, height, width, channels } = poolOf(problem);
    return { x: { shape: [batch, height, width, channels] } };
  },
  outputs: (p) => ({ y: poolShape(poolOf(p)) }),
  record(r, t, problem) {
    const { kind, rows, columns, stride, padding } = poolOf(problem);
    pool(r, t.x, kind, { window: [rows, columns], stride, padding, out: t.y });
  },
  oracle({ x }, problem) {
    const p = poolOf(problem);
    const { kind, batch, height, width, channels, rows, columns, stride = 1, padding = 0 } = p;
    const [outHeight, outWidth] = poolSizes(p);
    const y = new Float64Array(batch * outHeight * outWidth * channels);
    for (let at = 0; at < y.length; at++) {
      const [c, pixel] = [at % channels, Math.floor(at / channels)];
      const [column, row] = [pixel % outWidth, Math.floor(pixel / outWidth) % outHeight];
      const b = Math.floor(pixel / outWidth / outHeight);
      const seen: number[] = [];
      for (let i = row * stride - padding; i < row * stride - padding + rows; i++) {
        for (let j = column * stride - padding; j < column * stride - padding + columns; j++) {
          const inside = i >= 0 && j >= 0 && i < height && j < width;
          if (inside) seen.push(x[((b * height + i) * width + j) * channels + c]);
        }
      }
      y[at] = kind === 'max' ? Math.max(...seen) : seen.reduce((sum, value) => sum + value, 0) / seen.length;
    }
    return { y };
  },
  flops: (p) => poolShape(poolOf(p)).reduce((a, b) => a * b, 1) * poolOf(p).rows * poolOf(p).columns,
};

interface ConcatProblem {
  pixels: number;
  a: number;
  b: number;
  c: number;
}
const concatOf = (p: Problem) => p as unknown as ConcatProblem;

export const concatOp: Op = {
  name: 'concat',
  variants: () => ['concat'],
  problems: {
    test: [
      { pixels: 11, a: 8, b: 4, c: 12 },
      { pixels: 5, a: 4, b: 3, c: 8 },
    ],
    bench: [{ pixels: 9800, a: 64, b: 64, c: 96 }],
  },
  inputs(problem) {
    const { pixels, a, b, c } = concatOf(problem);
    return { a: { shape: [pixels, a] }, b: { shape: [pixels, b] }, c: { shape: [pixels, c] } };
  },
  outputs(problem) {
    const { pixels, a, b, c } = concatOf(problem);
    return { y: [pixels, a + b + c] };
  },
  record: (r, t) => {
    concatChannels(r, [t.a, t.b, t.c], { out: t.y });
  },
  oracle(inputs, problem) {
    const { pixels, a, b, c } = concatOf(problem);
    const row = (p: number) => [
      ...inputs.a.subarray(p * a, (p + 1) * a),
      ...inputs.b.subarray(p * b, (p + 1) * b),
      ...inputs.c.subarray(p * c, (p + 1) * c),
    ];
    return { y: Float64Array.from(Array.from({ length: pixels }, (_, p) => row(p)).flat()) };
  },
  flops: () => 0,
};
