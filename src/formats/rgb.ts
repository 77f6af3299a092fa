/** RGB images in memory: bytes in rows from the top, three a pixel. Pure, for the browser too. */
import { EmigmError } from '../errors.ts';
import { GLYPH_HEIGHT, GLYPH_WIDTH, glyphDot } from './pixel_font.ts';

export interface RgbImage {
  readonly width: number;
  readonly height: number;
  /** height * width * 3 bytes: red, green, blue. */
  readonly rgb: Uint8Array;
}

/** Checks that the bytes fill the size. Throws EmigmError('shape'). */
export function rgbImage(rgb: Uint8Array, width: number, height: number): RgbImage {
  if (!(width > 0 && height > 0) || rgb.length !== width * height * 3) {
    throw new EmigmError('shape', `${rgb.length} bytes are no RGB image of ${width} x ${height} pixels`);
  }
  return { width, height, rgb };
}

/** Rounds to the nearest whole number, ties to even. */
function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}

/**
 * Decoded floats [3, height, width] in [-1, 1] as bytes: round-half-even(clip((x + 1) / 2 * 255, 0, 255))
 * in float32, as the official evaluation has it.
 */
export function toBytes(chw: Float32Array, width: number, height: number): RgbImage {
  const pixels = width * height;
  if (chw.length !== 3 * pixels) {
    throw new EmigmError('shape', `${chw.length} floats are no image of 3 x ${height} x ${width}`);
  }
  const rgb = new Uint8Array(3 * pixels);
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < pixels; i++) {
      const unit = Math.fround(Math.fround(chw[c * pixels + i] + 1) / 2);
      const value = Math.fround(unit * 255);
      rgb[3 * i + c] = roundHalfEven(Math.min(255, Math.max(0, value)));
    }
  }
  return { width, height, rgb };
}

/** Bytes as floats [3, height, width] in [-1, 1]: (x / 255 - 0.5) / 0.5 in float32 (ToTensor, Normalize). */
export function toFloats({ width, height, rgb }: RgbImage): Float32Array<ArrayBuffer> {
  const pixels = width * height;
  const level = Float32Array.from({ length: 256 }, (_, v) => Math.fround(Math.fround(v / 255) - 0.5) / 0.5);
  const chw = new Float32Array(3 * pixels);
  for (let c = 0; c < 3; c++) for (let i = 0; i < pixels; i++) chw[c * pixels + i] = level[rgb[3 * i + c]];
  return chw;
}

/** The image enlarged a whole number of times, every pixel a square. */
export function enlarge(image: RgbImage, scale: number): RgbImage {
  if (!Number.isInteger(scale) || scale < 1) throw new EmigmError('input', `cannot enlarge ${scale} times`);
  if (scale === 1) return image;
  const out = blank(image.width * scale, image.height * scale, 0);
  paste(out, image, 0, 0, scale);
  return out;
}

function blank(width: number, height: number, shade: number): RgbImage {
  return { width, height, rgb: new Uint8Array(width * height * 3).fill(shade) };
}

function paste(onto: RgbImage, image: RgbImage, left: number, top: number, scale: number): void {
  for (let y = 0; y < image.height * scale; y++) {
    const from = Math.floor(y / scale) * image.width;
    const to = (top + y) * onto.width + left;
    for (let x = 0; x < image.width * scale; x++) {
      const source = 3 * (from + Math.floor(x / scale));
      const target = 3 * (to + x);
      onto.rgb[target] = image.rgb[source];
      onto.rgb[target + 1] = image.rgb[source + 1];
      onto.rgb[target + 2] = image.rgb[source + 2];
    }
  }
}

function drawText(onto: RgbImage, text: string, left: number, top: number, dot: number): void {
  for (const [i, character] of [...text].entries()) {
    for (let y = 0; y < GLYPH_HEIGHT * dot; y++) {
      for (let x = 0; x < GLYPH_WIDTH * dot; x++) {
        if (!glyphDot(character, Math.floor(x / dot), Math.floor(y / dot))) continue;
        const at = 3 * ((top + y) * onto.width + left + i * (GLYPH_WIDTH + 1) * dot + x);
        onto.rgb.fill(32, at, at + 3);
      }
    }
  }
}

export interface ContactSheetOptions {
  /** White pixels between and around the images; 4 by default. */
  gap?: number;
  /** How many times each image is enlarged; 1 by default. */
  scale?: number;
  /** A label for each row, drawn at its left. */
  labels?: readonly string[];
}

/** Images of one size in rows of `columns`, on white. Throws EmigmError('input') or ('shape'). */
export function contactSheet(
  images: readonly RgbImage[],
  columns: number,
  { gap = 4, scale = 1, labels = [] }: ContactSheetOptions = {},
): RgbImage {
  if (images.length === 0 || !Number.isInteger(columns) || columns < 1) {
    throw new EmigmError('input', `no contact sheet of ${images.length} images in ${columns} columns`);
  }
  if (!Number.isInteger(scale) || scale < 1 || !Number.isInteger(gap) || gap < 0) {
    throw new EmigmError('input', `a contact sheet cannot have scale ${scale} and gap ${gap}`);
  }
  const { width, height } = images[0];
  const other = images.find((image) => image.width !== width || image.height !== height);
  if (other) {
    throw new EmigmError('shape', `images of ${width} x ${height} and ${other.width} x ${other.height} on one sheet`);
  }
  const rows = Math.ceil(images.length / columns);
  const cellWidth = width * scale + gap;
  const cellHeight = height * scale + gap;
  // Dots of the labels: a fifth of the row at the most, three pixels at the most.
  const dot = Math.max(1, Math.min(3, Math.floor(cellHeight / (5 * GLYPH_HEIGHT))));
  const longest = Math.max(0, ...labels.slice(0, rows).map((label) => [...label].length));
  const labelWidth = longest > 0 ? longest * (GLYPH_WIDTH + 1) * dot + 2 * dot : 0;
  const sheet = blank(gap + labelWidth + columns * cellWidth, gap + rows * cellHeight, 255);
  for (const [i, image] of images.entries()) {
    const left = gap + labelWidth + (i % columns) * cellWidth;
    paste(sheet, image, left, gap + Math.floor(i / columns) * cellHeight, scale);
  }
  for (const [row, label] of labels.slice(0, rows).entries()) {
    const top = gap + row * cellHeight + Math.floor((cellHeight - gap - GLYPH_HEIGHT * dot) / 2);
    if (cellHeight - gap >= GLYPH_HEIGHT) drawText(sheet, label, gap + dot, top, dot);
  }
  return sheet;
}
