/** 8-bit images resized as TensorFlow 1 resizes them, for networks that were trained behind it. */
import { EmigmError } from '../errors.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { describeTensor, type Tensor } from '../gpu/tensor.ts';
import { grid1d, type Op, type Problem } from './op.ts';

export interface ResizeOptions {
  /** Images, and their rows and columns. */
  from: readonly [number, number, number];
  /** Rows and columns of y. */
  to: readonly [number, number];
  /** y = scale (x - mean); default the bytes themselves. */
  mean?: number;
  scale?: number;
  out?: Tensor;
}

/** Bytes of images as the words that `resize` reads. */
export function imageWords(images: readonly Uint8Array[]): Uint32Array<ArrayBuffer> {
  const bytes = new Uint8Array(Math.ceil(images.reduce((sum, { length }) => sum + length, 0) / 4) * 4);
  let at = 0;
  for (const image of images) {
    bytes.set(image, at);
    at += image.length;
  }
  return new Uint32Array(bytes.buffer);
}

/**
 * y[images, rows, columns, 4]: 8-bit RGB images (words of `imageWords`) resized as TensorFlow 1 does it: bilinear,
 * corners on corners of pixel 0, no antialiasing; the fourth channel is zero.
 * @throws EmigmError 'shape' when x holds fewer bytes
 */
export function resize(r: Recorder, x: Tensor, options: ResizeOptions): Tensor {
  const { from, to, mean = 0, scale = 1 } = options;
  const [batch, height, width] = from;
  const shape = [batch, ...to, 4];
  const y = options.out ?? r.temp(shape, 'f32', 'resized');
  const size = shape.reduce((a, b) => a * b, 1);
  if (4 * x.size < 3 * batch * height * width || y.size !== size) {
    throw new EmigmError(
      'shape',
      `resize: ${x.label} is ${describeTensor(x)}, ${y.label} ${describeTensor(y)}; ${batch} images of ${height} x ${width} to [${shape.join(', ')}]`,
    );
  }
  r.call({
    op: 'resize',
    kernel: { file: 'image/resize' },
    operands: { x, y },
    params: {
      batch,
      height,
      width,
      out_height: to[0],
      out_width: to[1],
      row_scale: height / to[0],
      column_scale: width / to[1],
      mean,
      scale,
    },
    grid: grid1d(size / 4),
    flops: 24 * (size / 4),
  });
  return y;
}

interface ResizeProblem {
  batch: number;
  height: number;
  width: number;
  toHeight: number;
  toWidth: number;
  mean?: number;
  scale?: number;
}
const resizeOf = (p: Problem) => p as unknown as ResizeProblem;

export const resizeOp: Op = {
  name: 'resize',
  variants: () => ['resize'],
  problems: {
    test: [
      { batch: 2, height: 5, width: 7, toHeight: 11, toWidth: 9, mean: 128, scale: 1 / 128 },
      { batch: 1, height: 20, width: 31, toHeight: 7, toWidth: 13 },
      { batch: 3, height: 1, width: 3, toHeight: 4, toWidth: 3, mean: 128, scale: 1 / 128 },
      { batch: 1, height: 6, width: 6, toHeight: 6, toWidth: 6 },
    ],
    bench: [{ batch: 8, height: 256, width: 256, toHeight: 299, toWidth: 299, mean: 128, scale: 1 / 128 }],
  },
  inputs(problem) {
    const { batch, height, width } = resizeOf(problem);
    const values = (size: number) => Float64Array.from({ length: size }, (_, i) => Math.imul(i + 1, 0x9e3779b9) >>> 0);
    return { x: { shape: [Math.ceil((3 * batch * height * width) / 4)], dtype: 'u32', fill: { values } } };
  },
  outputs: (p) => ({ y: [resizeOf(p).batch, resizeOf(p).toHeight, resizeOf(p).toWidth, 4] }),
  record(r, t, problem) {
    const { batch, height, width, toHeight, toWidth, mean, scale } = resizeOf(problem);
    resize(r, t.x, { from: [batch, height, width], to: [toHeight, toWidth], mean, scale, out: t.y });
  },
  oracle({ x }, problem) {
    const { batch, height, width, toHeight, toWidth, mean = 0, scale = 1 } = resizeOf(problem);
    const bytes = new Uint8Array(Uint32Array.from(x).buffer);
    const pixel = (b: number, row: number, column: number, c: number) =>
      bytes[((b * height + Math.min(row, height - 1)) * width + Math.min(column, width - 1)) * 3 + c];
    const y = new Float64Array(batch * toHeight * toWidth * 4);
    for (let at = 0; at < y.length; at++) {
      const [c, column, row] = [at % 4, Math.floor(at / 4) % toWidth, Math.floor(at / 4 / toWidth) % toHeight];
      if (c === 3) continue;
      const b = Math.floor(at / 4 / toWidth / toHeight);
      // Positions are float32 by definition.
      const [p, q] = [
        Math.fround(row * Math.fround(height / toHeight)),
        Math.fround(column * Math.fround(width / toWidth)),
      ];
      const [i, j] = [Math.floor(p), Math.floor(q)];
      const across = (line: number) =>
        pixel(b, line, j, c) + (pixel(b, line, j + 1, c) - pixel(b, line, j, c)) * (q - j);
      y[at] = scale * (across(i) + (across(i + 1) - across(i)) * (p - i) - mean);
    }
    return { y };
  },
  flops: (p) => 24 * resizeOf(p).batch * resizeOf(p).toHeight * resizeOf(p).toWidth,
};
