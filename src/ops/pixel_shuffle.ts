/** Pixels into channels and back, with the shortcuts that average or repeat channels (DC-AE), channels last. */
import { EmigmError } from '../errors.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { describeTensor, type Tensor } from '../gpu/tensor.ts';
import { grid1d, type Op, type Problem } from './op.ts';

export interface PixelOptions {
  /** Side of the square of pixels that becomes channels, or the other way; default 2. 1: the shortcut alone. */
  factor?: number;
  /** Unshuffled and averaged, or repeated and shuffled, to the shape of the result, and added. */
  shortcut?: Tensor;
  out?: Tensor;
}

/**
 * y[batch, height / f, width / f, channels] = scale (unshuffled x + averages of the unshuffled shortcut). Channels of
 * x beyond channels / (f f) (padding) are left out.
 * @throws EmigmError 'shape' when sides are no multiples of f, or shortcut channels do not average to `channels`
 */
export function pixelUnshuffle(
  r: Recorder,
  x: Tensor,
  channels: number,
  options: PixelOptions & { scale?: number } = {},
): Tensor {
  const { factor = 2, shortcut, scale = 1 } = options;
  const [batch, height, width, xChannels] = x.shape;
  const area = factor * factor;
  const shape = [batch, height / factor, width / factor, channels];
  const size = shape.reduce((a, b) => a * b, 1);
  const y = options.out ?? r.temp(shape, 'f32', 'pixel unshuffle out');
  const members = shortcut ? (shortcut.shape[3] * area) / channels : 1;
  const fits =
    [shape[1], shape[2], channels / area, members].every(Number.isInteger) &&
    channels / area <= xChannels &&
    (!shortcut || samePixels(x, shortcut));
  if (!fits || y.size !== size) throw misfit('unshuffle', x, y, channels, factor, shortcut);
  r.call({
    op: 'pixel unshuffle',
    kernel: { file: 'image/pixel_unshuffle', overrides: { FACTOR: factor, HAS_SHORTCUT: shortcut !== undefined } },
    operands: { x, shortcut, y },
    params: {
      size,
      width: shape[2],
      channels,
      x_channels: xChannels,
      short_channels: shortcut?.shape[3] ?? 0,
      scale,
    },
    grid: grid1d(size),
    flops: size * (shortcut ? members + 3 : 1),
  });
  return y;
}

/**
 * y[batch, f height, f width, channels] = shuffled x + the shuffled shortcut, its channels repeated. x may come in
 * parts that follow each other in channels, each a multiple of f f; channels that the last one has beyond
 * channels f f (padding) are left out.
 * @throws EmigmError 'shape' when the parts have too few channels, or shortcut channels do not repeat to `channels`
 */
export function pixelShuffle(
  r: Recorder,
  x: Tensor | readonly Tensor[],
  channels: number,
  options: PixelOptions = {},
): Tensor {
  const { factor = 2, shortcut } = options;
  const parts: readonly Tensor[] = Array.isArray(x) ? x : [x];
  const [batch, height, width] = parts[0].shape;
  const area = factor * factor;
  const shape = [batch, height * factor, width * factor, channels];
  const y = options.out ?? r.temp(shape, 'f32', 'pixel shuffle out');
  const repeats = shortcut ? (channels * area) / shortcut.shape[3] : 1;
  let first = 0;
  for (const part of parts) {
    const count = Math.min(channels - first, part.shape[3] / area);
    const isLast = part === parts.at(-1);
    const fits =
      Number.isInteger(repeats) &&
      samePixels(part, parts[0]) &&
      (!shortcut || samePixels(part, shortcut)) &&
      (isLast ? count === channels - first : count > 0 && part.shape[3] % area === 0);
    if (!fits || y.size !== shape.reduce((a, b) => a * b, 1)) {
      throw misfit('shuffle', part, y, channels, factor, shortcut);
    }
    const size = batch * height * width * area * count;
    r.call({
      op: 'pixel shuffle',
      kernel: { file: 'image/pixel_shuffle', overrides: { FACTOR: factor, HAS_SHORTCUT: shortcut !== undefined } },
      operands: { x: part, shortcut, y },
      params: {
        size,
        width,
        channels,
        x_channels: part.shape[3],
        short_channels: shortcut?.shape[3] ?? 0,
        first,
        part: count,
      },
      grid: grid1d(size),
      flops: shortcut ? size : 0,
    });
    first += count;
  }
  return y;
}

const samePixels = (a: Tensor, b: Tensor) => [0, 1, 2].every((i) => a.shape[i] === b.shape[i]);

function misfit(op: string, x: Tensor, y: Tensor, channels: number, factor: number, shortcut?: Tensor): EmigmError {
  return new EmigmError(
    'shape',
    `pixel ${op}: ${channels} channels by ${factor} x ${factor} pixels cannot be had from ${describeTensor(x)} ` +
      `(${x.label})${shortcut ? ` and the shortcut ${describeTensor(shortcut)}` : ''} as ${describeTensor(y)}`,
  );
}

interface PixelProblem {
  batch: number;
  /** Of the smaller map. */
  height: number;
  width: number;
  factor: number;
  /** Channels of y, of x, and of the shortcut, where there is one. */
  channels: number;
  x: number;
  shortcut?: number;
  scale?: number;
  /** Parts that x comes in. */
  parts?: number;
}
const sizes = (p: Problem) => p as unknown as PixelProblem;
const small = ({ batch, height, width }: PixelProblem, channels: number) => [batch, height, width, channels];
const large = ({ batch, height, width, factor }: PixelProblem, channels: number) => {
  return [batch, height * factor, width * factor, channels];
};

/** Calls `visit` for each number of the unshuffled map: pixel (small map), channel, and where it is in the large one. */
function eachNumber(p: PixelProblem, channels: number, visit: (pixel: number, c: number, at: number[]) => void): void {
  const { batch, height, width, factor: f } = p;
  for (let pixel = 0; pixel < batch * height * width; pixel++) {
    const [row, column] = [Math.floor(pixel / width), pixel % width];
    for (let c = 0; c < channels; c++) {
      const [dy, dx] = [Math.floor(c / f) % f, c % f];
      visit(pixel, c, [(row * f + dy) * width * f + column * f + dx, Math.floor(c / (f * f))]);
    }
  }
}

export const pixelUnshuffleOp: Op = {
  name: 'pixel unshuffle',
  variants: () => ['pixel_unshuffle'],
  problems: {
    test: [
      { batch: 2, height: 3, width: 5, factor: 2, channels: 20, x: 5 },
      { batch: 1, height: 2, width: 3, factor: 2, channels: 16, x: 4, shortcut: 12 },
      { batch: 2, height: 1, width: 3, factor: 2, channels: 12, x: 4, shortcut: 6 },
      { batch: 2, height: 3, width: 2, factor: 1, channels: 5, x: 8, shortcut: 20, scale: 0.3189 },
      { batch: 1, height: 2, width: 1, factor: 3, channels: 18, x: 2, shortcut: 4, scale: 2 },
    ],
    bench: [
      { batch: 1, height: 128, width: 128, factor: 2, channels: 512, x: 128, shortcut: 256 },
      { batch: 1, height: 16, width: 16, factor: 1, channels: 32, x: 32, shortcut: 1024 },
    ],
  },
  inputs(problem) {
    const p = sizes(problem);
    return {
      x: { shape: large(p, p.x) },
      ...(p.shortcut && { shortcut: { shape: large(p, p.shortcut) } }),
    };
  },
  outputs: (p) => ({ y: small(sizes(p), sizes(p).channels) }),
  record(r, t, problem) {
    const { channels, factor, scale } = sizes(problem);
    pixelUnshuffle(r, t.x, channels, { factor, scale, shortcut: t.shortcut, out: t.y });
  },
  oracle({ x, shortcut }, problem) {
    const p = sizes(problem);
    const { channels, factor, scale = 1 } = p;
    const y = new Float64Array(small(p, channels).reduce((a, b) => a * b, 1));
    eachNumber(p, channels, (pixel, c, [place, source]) => {
      y[pixel * channels + c] += scale * x[place * p.x + source];
    });
    if (p.shortcut) {
      const all = p.shortcut * factor * factor;
      const members = all / channels;
      eachNumber(p, all, (pixel, c, [place, source]) => {
        y[pixel * channels + Math.floor(c / members)] += (scale * shortcut[place * p.shortcut! + source]) / members;
      });
    }
    return { y };
  },
  flops(problem) {
    const p = sizes(problem);
    const size = small(p, p.channels).reduce((a, b) => a * b, 1);
    return size * (p.shortcut ? (p.shortcut * p.factor ** 2) / p.channels + 3 : 1);
  },
};

export const pixelShuffleOp: Op = {
  name: 'pixel shuffle',
  variants: () => ['pixel_shuffle'],
  problems: {
    test: [
      { batch: 2, height: 3, width: 5, factor: 2, channels: 3, x: 12 },
      { batch: 1, height: 3, width: 2, factor: 2, channels: 6, x: 24, shortcut: 12 },
      { batch: 2, height: 1, width: 3, factor: 2, channels: 5, x: 20, shortcut: 5 },
      { batch: 2, height: 3, width: 2, factor: 1, channels: 20, x: 20, shortcut: 5 },
      { batch: 1, height: 2, width: 3, factor: 3, channels: 2, x: 20, shortcut: 6 },
      { batch: 2, height: 2, width: 3, factor: 2, channels: 9, x: 12, shortcut: 6, parts: 3 },
    ],
    bench: [
      { batch: 1, height: 128, width: 128, factor: 2, channels: 256, x: 1024, shortcut: 512 },
      { batch: 1, height: 16, width: 16, factor: 1, channels: 1024, x: 1024, shortcut: 32 },
    ],
  },
  inputs(problem) {
    const p = sizes(problem);
    const parts = Array.from({ length: p.parts ?? 1 }, (_, i) => [`x${i}`, { shape: small(p, p.x) }]);
    return { ...Object.fromEntries(parts), ...(p.shortcut && { shortcut: { shape: small(p, p.shortcut) } }) };
  },
  outputs: (p) => ({ y: large(sizes(p), sizes(p).channels) }),
  record(r, t, problem) {
    const { channels, factor, parts = 1 } = sizes(problem);
    const x = Array.from({ length: parts }, (_, i) => t[`x${i}`]);
    pixelShuffle(r, x, channels, { factor, shortcut: t.shortcut, out: t.y });
  },
  oracle(inputs, problem) {
    const p = sizes(problem);
    const { channels, factor } = p;
    const all = channels * factor * factor;
    const y = new Float64Array(large(p, channels).reduce((a, b) => a * b, 1));
    eachNumber(p, all, (pixel, c, [place, target]) => {
      const part = Math.floor(c / p.x);
      const value = inputs[`x${part}`][pixel * p.x + (c % p.x)];
      const repeats = p.shortcut ? all / p.shortcut : 1;
      y[place * channels + target] =
        value + (p.shortcut ? inputs.shortcut[pixel * p.shortcut + Math.floor(c / repeats)] : 0);
    });
    return { y };
  },
  flops: (p) => (sizes(p).shortcut ? large(sizes(p), sizes(p).channels).reduce((a, b) => a * b, 1) : 0),
};
