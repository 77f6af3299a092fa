/** Moving tokens: gather and scatter of rows, the encoder's and the decoder's input, patches. */
import type { Recorder } from '../gpu/recorder.ts';
import type { DType, Tensor } from '../gpu/tensor.ts';
import { grid1d, type Op, type Problem } from './op.ts';

/** Marks a masked position in a slot list. */
export const MASKED = 0xffffffff;

/** Row numbers in a u32 tensor, from `offset` on. */
export interface Index {
  tensor: Tensor;
  offset: number;
}

/** y[i] = x[index[i]] for `count` rows, stored as x is; with `addTo` y[i] += x[index[i]] in place. */
export function gatherRows(
  r: Recorder,
  x: Tensor,
  index: Index,
  count: number,
  width: number,
  options: { addTo?: Tensor; out?: Tensor } = {},
): Tensor {
  const y = options.addTo ?? options.out ?? r.temp([count, width], x.dtype, `rows of ${x.label}`);
  r.call({
    op: 'gather_rows',
    kernel: {
      file: 'tokens/gather_rows',
      consts: x.dtype === 'f16' ? { Elem: 'f16' } : {},
      overrides: { ADD: options.addTo !== undefined },
    },
    operands: { x, index: index.tensor, y },
    params: { count, width, offset: index.offset },
    grid: grid1d(count * width),
  });
  return y;
}

/** out[index[i]] = x[i] for `count` rows, stored as x is; other rows of `out` stay. */
export function scatterRows(r: Recorder, x: Tensor, index: Index, count: number, width: number, out: Tensor): void {
  r.call({
    op: 'scatter_rows',
    kernel: { file: 'tokens/scatter_rows', consts: x.dtype === 'f16' ? { Elem: 'f16' } : {} },
    operands: { x, index: index.tensor, y: out },
    params: { count, width, offset: index.offset },
    grid: grid1d(count * width),
  });
}

export interface SequenceShape {
  batch: number;
  buffer: number;
  width: number;
}

/** The encoder's sequence [batch, buffer + visible, width]: class embedding slots and visible tokens, plus positions. */
export function encoderInput(
  r: Recorder,
  classes: Tensor,
  tokens: Tensor | undefined,
  index: Index,
  position: Tensor,
  shape: SequenceShape & { visible: number },
  out?: Tensor,
): Tensor {
  const { batch, buffer, visible, width } = shape;
  const y = out ?? r.temp([batch, buffer + visible, width], 'f32', 'encoder input');
  r.call({
    op: 'encoder_input',
    kernel: { file: 'tokens/encoder_input' },
    operands: { classes, tokens, index: index.tensor, position, y },
    params: { batch, buffer, visible, width, offset: index.offset },
    grid: grid1d(batch * (buffer + visible) * width),
  });
  return y;
}

/** The decoder's sequence [batch, buffer + grid, width]: encoder rows in their places, mask tokens elsewhere, plus positions. */
export function decoderInput(
  r: Recorder,
  x: Tensor,
  slot: Index,
  maskToken: Tensor,
  position: Tensor,
  shape: SequenceShape & { grid: number; from: number },
  out?: Tensor,
): Tensor {
  const { batch, buffer, grid, from, width } = shape;
  const y = out ?? r.temp([batch, buffer + grid, width], 'f32', 'decoder input');
  r.call({
    op: 'decoder_input',
    kernel: { file: 'tokens/decoder_input' },
    operands: { x, slot: slot.tensor, mask_token: maskToken, position, y },
    params: { batch, buffer, grid, from_rows: from, width, offset: slot.offset },
    grid: grid1d(batch * (buffer + grid) * width),
  });
  return y;
}

/** Masked rows of y[batch, buffer + grid, width] become the mask token, in place. */
export function replaceMasked(
  r: Recorder,
  slot: Index,
  maskToken: Tensor,
  shape: SequenceShape & { grid: number },
  y: Tensor,
): void {
  const { batch, buffer, grid, width } = shape;
  r.call({
    op: 'replace_masked',
    kernel: { file: 'tokens/replace_masked' },
    operands: { slot: slot.tensor, mask_token: maskToken, y },
    params: { batch, buffer, grid, width, offset: slot.offset },
    grid: grid1d(batch * (buffer + grid) * width),
  });
}

export interface PatchShape {
  channels: number;
  /** Cells along each side of the grid. */
  side: number;
  /** Pixels along each side of a cell. */
  patch: number;
  scale?: number;
}

/** Images [batch, channels, side * patch, side * patch] to tokens [batch, side^2, channels * patch^2], times scale. */
export function patchify(r: Recorder, x: Tensor, shape: PatchShape, out?: Tensor): Tensor {
  return patches(r, x, shape, false, out);
}

/** Tokens back to images, times scale. */
export function unpatchify(r: Recorder, x: Tensor, shape: PatchShape, out?: Tensor): Tensor {
  return patches(r, x, shape, true, out);
}

function patches(r: Recorder, x: Tensor, shape: PatchShape, inverse: boolean, out?: Tensor): Tensor {
  const { channels, side, patch, scale = 1 } = shape;
  const batch = x.size / (channels * side * side * patch * patch);
  const y =
    out ??
    (inverse
      ? r.temp([batch, channels, side * patch, side * patch], 'f32', 'images')
      : r.temp([batch, side * side, channels * patch * patch], 'f32', 'tokens'));
  r.call({
    op: inverse ? 'unpatchify' : 'patchify',
    kernel: { file: 'tokens/patchify', overrides: { INVERSE: inverse } },
    operands: { x, y },
    params: { size: x.size, channels, side, patch_size: patch, scale },
    grid: grid1d(x.size),
  });
  return y;
}

type Sizes = Record<string, number>;
const sizes = (p: Problem) => p as unknown as Sizes;

export const gatherOp: Op = {
  name: 'gather_rows',
  variants: () => ['gather_rows'],
  problems: {
    test: [
      { rows: 9, count: 5, width: 7 },
      { rows: 6, count: 3, width: 10, stored: 'f16' },
    ],
    bench: [{ rows: 320, count: 256, width: 768 }],
  },
  inputs: (p) => ({
    x: { shape: [sizes(p).rows, sizes(p).width], dtype: p.stored as DType },
    index: { shape: [sizes(p).count], dtype: 'u32', fill: { index: sizes(p).rows } },
  }),
  outputs: (p) => ({ y: [sizes(p).count, sizes(p).width] }),
  outputType: (p) => (p.stored as DType) ?? 'f32',
  record: (r, t, p) => {
    gatherRows(r, t.x, { tensor: t.index, offset: 0 }, sizes(p).count, sizes(p).width, { out: t.y });
  },
  oracle: ({ x, index }, p) => {
    const { width } = sizes(p);
    return {
      y: Float64Array.from(
        { length: index.length * width },
        (_, i) => x[index[Math.floor(i / width)] * width + (i % width)],
      ),
    };
  },
  flops: () => 0,
};

export const scatterOp: Op = {
  name: 'scatter_rows',
  variants: () => ['scatter_rows'],
  problems: {
    test: [
      { rows: 9, count: 5, width: 7 },
      { rows: 6, count: 3, width: 10, stored: 'f16' },
    ],
    bench: [{ rows: 256, count: 64, width: 16 }],
  },
  inputs: (p) => ({
    x: { shape: [sizes(p).count, sizes(p).width], dtype: p.stored as DType },
    index: { shape: [sizes(p).count], dtype: 'u32', fill: { index: sizes(p).rows } },
    y: { shape: [sizes(p).rows, sizes(p).width], dtype: p.stored as DType, inPlace: true },
  }),
  outputs: (p) => ({ y: [sizes(p).rows, sizes(p).width] }),
  outputType: (p) => (p.stored as DType) ?? 'f32',
  record: (r, t, p) => scatterRows(r, t.x, { tensor: t.index, offset: 0 }, sizes(p).count, sizes(p).width, t.y),
  oracle: ({ x, index, y: before }, p) => {
    const { width } = sizes(p);
    const y = Float64Array.from(before);
    for (const [i, row] of index.entries()) y.set(x.subarray(i * width, (i + 1) * width), row * width);
    return { y };
  },
  flops: () => 0,
};

export const encoderInputOp: Op = {
  name: 'encoder_input',
  variants: () => ['encoder_input'],
  problems: {
    test: [{ batch: 2, buffer: 3, visible: 4, grid: 9, width: 5 }],
    bench: [{ batch: 1, buffer: 64, visible: 128, grid: 256, width: 768 }],
  },
  inputs: (p) => {
    const { batch, buffer, visible, grid, width } = sizes(p);
    return {
      classes: { shape: [batch, width] },
      tokens: { shape: [batch * visible, width] },
      index: { shape: [batch * visible], dtype: 'u32', fill: { index: grid } },
      position: { shape: [buffer + grid, width] },
    };
  },
  outputs: (p) => ({ y: [sizes(p).batch, sizes(p).buffer + sizes(p).visible, sizes(p).width] }),
  record: (r, t, p) => {
    const { batch, buffer, visible, width } = sizes(p);
    encoderInput(
      r,
      t.classes,
      t.tokens,
      { tensor: t.index, offset: 0 },
      t.position,
      { batch, buffer, visible, width },
      t.y,
    );
  },
  oracle: ({ classes, tokens, index, position }, p) => {
    const { batch, buffer, visible, width } = sizes(p);
    const length = buffer + visible;
    const y = Float64Array.from({ length: batch * length * width }, (_, at) => {
      const [c, j, b] = [at % width, Math.floor(at / width) % length, Math.floor(at / width / length)];
      if (j < buffer) return classes[b * width + c] + position[j * width + c];
      const token = b * visible + j - buffer;
      return tokens[token * width + c] + position[(buffer + index[token]) * width + c];
    });
    return { y };
  },
  flops: (p) => sizes(p).batch * (sizes(p).buffer + sizes(p).visible) * sizes(p).width,
};

export const decoderInputOp: Op = {
  name: 'decoder_input',
  variants: () => ['decoder_input'],
  problems: {
    test: [{ batch: 2, buffer: 3, grid: 9, from: 7, width: 5 }],
    bench: [{ batch: 1, buffer: 64, grid: 256, from: 192, width: 768 }],
  },
  inputs: (p) => {
    const { batch, buffer, grid, from, width } = sizes(p);
    return {
      x: { shape: [batch * from, width] },
      slot: {
        shape: [batch * grid],
        dtype: 'u32',
        fill: { values: (n) => Array.from({ length: n }, (_, i) => (i % 2 ? MASKED : buffer + (i % (from - buffer)))) },
      },
      mask_token: { shape: [width] },
      position: { shape: [buffer + grid, width] },
    };
  },
  outputs: (p) => ({ y: [sizes(p).batch, sizes(p).buffer + sizes(p).grid, sizes(p).width] }),
  record: (r, t, p) => {
    const { batch, buffer, grid, from, width } = sizes(p);
    decoderInput(
      r,
      t.x,
      { tensor: t.slot, offset: 0 },
      t.mask_token,
      t.position,
      { batch, buffer, grid, from, width },
      t.y,
    );
  },
  oracle: ({ x, slot, mask_token, position }, p) => {
    const { batch, buffer, grid, from, width } = sizes(p);
    const length = buffer + grid;
    const y = Float64Array.from({ length: batch * length * width }, (_, at) => {
      const [c, j, b] = [at % width, Math.floor(at / width) % length, Math.floor(at / width / length)];
      const row = j < buffer ? j : slot[b * grid + j - buffer];
      return (row === MASKED ? mask_token[c] : x[(b * from + row) * width + c]) + position[j * width + c];
    });
    return { y };
  },
  flops: (p) => sizes(p).batch * (sizes(p).buffer + sizes(p).grid) * sizes(p).width,
};

export const replaceMaskedOp: Op = {
  name: 'replace_masked',
  variants: () => ['replace_masked'],
  problems: {
    test: [{ batch: 2, buffer: 3, grid: 5, width: 7 }],
    bench: [{ batch: 1, buffer: 64, grid: 256, width: 768 }],
  },
  inputs: (p) => {
    const { batch, buffer, grid, width } = sizes(p);
    return {
      slot: {
        shape: [batch * grid],
        dtype: 'u32',
        fill: { values: (n) => Array.from({ length: n }, (_, i) => (i % 3 ? MASKED : i)) },
      },
      mask_token: { shape: [width] },
      y: { shape: [batch * (buffer + grid), width], inPlace: true },
    };
  },
  outputs: (p) => ({ y: [sizes(p).batch * (sizes(p).buffer + sizes(p).grid), sizes(p).width] }),
  record: (r, t, p) => {
    const { batch, buffer, grid, width } = sizes(p);
    replaceMasked(r, { tensor: t.slot, offset: 0 }, t.mask_token, { batch, buffer, grid, width }, t.y);
  },
  oracle: ({ slot, mask_token, y: before }, p) => {
    const { buffer, grid, width } = sizes(p);
    const y = before.map((value, at) => {
      const [j, b] = [Math.floor(at / width) % (buffer + grid), Math.floor(at / width / (buffer + grid))];
      return j >= buffer && slot[b * grid + j - buffer] === MASKED ? mask_token[at % width] : value;
    });
    return { y };
  },
  flops: () => 0,
};

export const patchifyOp: Op = {
  name: 'patchify',
  variants: () => ['patchify'],
  problems: {
    test: [
      { batch: 2, channels: 3, side: 3, patch: 2 },
      { batch: 2, channels: 2, side: 3, patch: 3, inverse: true },
    ],
    bench: [{ batch: 8, channels: 3, side: 8, patch: 4, inverse: true }],
  },
  inputs: (p) => {
    const { batch, channels, side, patch } = sizes(p);
    return { x: { shape: [batch * channels * side * side * patch * patch] } };
  },
  outputs: (p) => {
    const { batch, channels, side, patch } = sizes(p);
    return { y: [batch * channels * side * side * patch * patch] };
  },
  record: (r, t, p) => {
    const { channels, side, patch } = sizes(p);
    (p.inverse ? unpatchify : patchify)(r, t.x, { channels, side, patch, scale: 0.5 }, t.y);
  },
  oracle: ({ x }, p) => {
    const { batch, channels, side, patch } = sizes(p);
    const y = new Float64Array(x.length);
    let token = 0;
    for (let b = 0; b < batch; b++)
      for (let row = 0; row < side; row++)
        for (let column = 0; column < side; column++)
          for (let c = 0; c < channels; c++)
            for (let i = 0; i < patch; i++)
              for (let j = 0; j < patch; j++) {
                const image = ((b * channels + c) * side * patch + row * patch + i) * side * patch + column * patch + j;
                if (p.inverse) y[image] = 0.5 * x[token++];
                else y[token++] = 0.5 * x[image];
              }
    return { y };
  },
  flops: (p) => sizes(p).batch * sizes(p).channels * (sizes(p).side * sizes(p).patch) ** 2,
};
