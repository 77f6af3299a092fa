/**
 * The centre crop that ImageNet models are trained and evaluated on (`center_crop_arr` of guided
 * diffusion): halve with a box filter while the shorter side is at least twice the size, then resize
 * it to the size with a bicubic filter, then cut the middle. Exact to the byte with Pillow, whose
 * resampling (libImaging/Resample.c) weighs 8-bit pixels by fixed-point coefficients, first along rows,
 * then along columns, with bytes in between.
 */
import { EmigmError } from '../errors.ts';
import type { RgbImage } from './rgb.ts';

interface Filter {
  readonly support: number;
  readonly at: (x: number) => number;
}

const BOX: Filter = { support: 0.5, at: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) };

const BICUBIC: Filter = {
  support: 2,
  at: (signed) => {
    const a = -0.5;
    const x = Math.abs(signed);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
  },
};

const PRECISION_BITS = 32 - 8 - 2;

interface Weights {
  /** The first source pixel of each target pixel, and its coefficients from there. */
  readonly first: Int32Array;
  readonly coefficients: Int32Array[];
}

function weightsOf(from: number, to: number, filter: Filter): Weights {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const first = new Int32Array(to);
  const coefficients: Int32Array[] = [];
  for (let i = 0; i < to; i++) {
    const center = (i + 0.5) * scale;
    const begin = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(from, Math.trunc(center + support + 0.5));
    const w = Array.from({ length: end - begin }, (_, k) => filter.at((k + begin - center + 0.5) * (1 / stretch)));
    const sum = w.reduce((a, b) => a + b, 0);
    first[i] = begin;
    coefficients.push(
      Int32Array.from(w, (v) => {
        const fixed = (sum === 0 ? v : v / sum) * (1 << PRECISION_BITS);
        return Math.trunc(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
      }),
    );
  }
  return { first, coefficients };
}

/** Resizes along one direction: `lines` lines of pixels `step` apart, lines `lineStep` apart (in pixels). */
function pass(
  source: Uint8Array,
  target: Uint8Array,
  { first, coefficients }: Weights,
  lines: number,
  steps: { source: [number, number]; target: [number, number] },
): void {
  const [step, lineStep] = steps.source;
  const [toStep, toLineStep] = steps.target;
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < first.length; i++) {
      const k = coefficients[i];
      const to = 3 * (line * toLineStep + i * toStep);
      for (let c = 0; c < 3; c++) {
        let sum = 1 << (PRECISION_BITS - 1);
        let from = 3 * (line * lineStep + first[i] * step) + c;
        for (let j = 0; j < k.length; j++, from += 3 * step) sum += source[from] * k[j];
        target[to + c] = Math.min(255, Math.max(0, sum >> PRECISION_BITS));
      }
    }
  }
}

function resize(image: RgbImage, width: number, height: number, filter: Filter): RgbImage {
  let { rgb } = image;
  if (width !== image.width) {
    const out = new Uint8Array(width * image.height * 3);
    const steps = { source: [1, image.width] as [number, number], target: [1, width] as [number, number] };
    pass(rgb, out, weightsOf(image.width, width, filter), image.height, steps);
    rgb = out;
  }
  if (height !== image.height) {
    const out = new Uint8Array(width * height * 3);
    const steps = { source: [width, 1] as [number, number], target: [width, 1] as [number, number] };
    pass(rgb, out, weightsOf(image.height, height, filter), width, steps);
    rgb = out;
  }
  return { width, height, rgb };
}

/** Rounds as Python does: to the nearest, ties to even. */
function pythonRound(x: number): number {
  const floor = Math.floor(x);
  if (x - floor === 0.5) return floor + (floor % 2);
  return Math.round(x);
}

/** The square of `size` pixels from the middle of an image of any size. Throws EmigmError('input'). */
export function centerCrop(image: RgbImage, size: number): RgbImage {
  if (!Number.isInteger(size) || size < 1) throw new EmigmError('input', `cannot crop an image to ${size} pixels`);
  let current = image;
  while (Math.min(current.width, current.height) >= 2 * size) {
    current = resize(current, current.width >> 1, current.height >> 1, BOX);
  }
  const scale = size / Math.min(current.width, current.height);
  current = resize(current, pythonRound(current.width * scale), pythonRound(current.height * scale), BICUBIC);
  const left = (current.width - size) >> 1;
  const top = (current.height - size) >> 1;
  const rgb = new Uint8Array(size * size * 3);
  for (let y = 0; y < size; y++) {
    const from = 3 * ((top + y) * current.width + left);
    rgb.set(current.rgb.subarray(from, from + 3 * size), 3 * y * size);
  }
  return { width: size, height: size, rgb };
}
