/**
 * Backward of moving tokens. Every element of a gradient is one sum in a fixed order, so that the host has to say who
 * is added up: inverse indices where a row is used once, lists of uses where it is used several times.
 */
import { EmigmError } from '../errors.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { vectors } from './elementwise.ts';
import { biasGradient } from './matmul_backward.ts';
import { type Gradient, grid1d, type Problem } from './op.ts';
import { decoderInputOp, gatherOp, gatherRows, type Index, MASKED, type SequenceShape } from './tokens.ts';

/**
 * Gradient of x in y = x[index], where no row is gathered twice: d_x[j] = d_y[inverse[j]] for the `rows` rows of x,
 * zero where inverse[j] is MASKED. With `accumulate` it is added to `out`, and rows not gathered stay.
 */
export function gatherRowsBackward(
  r: Recorder,
  dY: Tensor,
  inverse: Index,
  rows: number,
  width: number,
  { out, accumulate = false }: { out?: Tensor; accumulate?: boolean } = {},
): Tensor {
  if (accumulate && !out) throw new EmigmError('shape', 'gatherRowsBackward: accumulate needs out, what to add to');
  const dX = out ?? r.temp([rows, width], 'f32', `rows of ${dY.label}`);
  const { per, consts } = vectors(width);
  r.call({
    op: 'gather_rows backward',
    kernel: { file: 'tokens/gather_rows_backward', consts, overrides: { ADD: accumulate } },
    operands: { d_y: dY, inverse: inverse.tensor, d_x: dX },
    params: { count: rows, width: width / per, offset: inverse.offset },
    grid: grid1d((rows * width) / per),
  });
  return dX;
}

const PLACES = 2 ** 21;

/**
 * The list that `embeddingBackward` wants for y = table[index]: the row numbers in ascending order, then for each its
 * place in `index`, 2 * index.length numbers in all. Places that hold MASKED use no row.
 */
export function rowUses(index: ArrayLike<number>): Uint32Array<ArrayBuffer> {
  const count = index.length;
  if (count > PLACES) throw new EmigmError('shape', `rowUses: ${count} places, ${PLACES} is the limit`);
  // Row and place in the 53 bits of a number, so that sorting numbers sorts both.
  const keys = Float64Array.from(index, (row, i) => row * PLACES + i).sort();
  const uses = new Uint32Array(2 * count);
  keys.forEach((key, i) => {
    uses[i] = Math.floor(key / PLACES);
    uses[count + i] = key % PLACES;
  });
  return uses;
}

/**
 * d_table[index[i]] += d_y[i] for the `count` rows of d_y; rows may repeat. `uses` holds `rowUses(index)`. The cost
 * grows with `count`, not with the table.
 */
export function embeddingBackward(
  r: Recorder,
  dY: Tensor,
  uses: Index,
  count: number,
  width: number,
  dTable: Tensor,
): void {
  const { per, consts } = vectors(width);
  r.call({
    op: 'embedding backward',
    kernel: { file: 'tokens/embedding_backward', consts },
    operands: { d_y: dY, uses: uses.tensor, d_table: dTable },
    params: { count, width: width / per, offset: uses.offset },
    grid: grid1d((count * width) / per),
    flops: count * width,
  });
}

/**
 * d_position[buffer + grid, width] += sum over the batch of d_y[batch, length, width]. With `slot` (as `decoderInput`
 * takes it) the row of a grid position is looked up there and MASKED ones have none, else every position has its own.
 * With no buffer it is the gradient of any table of which a batch entry uses each row once at most.
 */
export function positionBackward(
  r: Recorder,
  dY: Tensor,
  shape: SequenceShape & { grid: number; length: number },
  dPosition: Tensor,
  slot?: Index,
): void {
  const { batch, buffer, grid, length, width } = shape;
  if (!slot && length !== buffer + grid) {
    throw new EmigmError('shape', `positionBackward: ${length} rows for ${buffer + grid} positions; give their slots`);
  }
  const { per, consts } = vectors(width);
  r.call({
    op: 'position backward',
    kernel: { file: 'tokens/position_backward', consts, overrides: { SLOTS: slot !== undefined } },
    operands: { d_y: dY, slot: slot?.tensor, d_position: dPosition },
    params: { batch, buffer, grid, length, width: width / per, offset: slot?.offset ?? 0 },
    grid: grid1d(((buffer + grid) * width) / per),
    flops: batch * length * width,
  });
}

/** Grid positions of one partial sum: enough sums for a GPU, few enough to add up. */
const MASK_CHUNK = 32;

/** d_mask_token += sum of the masked rows of d_y[batch, buffer + grid, width]; with `zero` these become 0 in place. */
function maskTokenBackward(
  r: Recorder,
  dY: Tensor,
  slot: Index,
  shape: SequenceShape & { grid: number },
  dMaskToken: Tensor,
  zero: boolean,
): void {
  const { batch, buffer, grid, width } = shape;
  const chunks = Math.ceil(grid / MASK_CHUNK);
  const partial = r.temp([batch * chunks, width], 'f32', 'mask token sums');
  const { per, consts } = vectors(width);
  r.call({
    op: 'mask token backward',
    kernel: { file: 'tokens/mask_token_backward', consts: { ...consts, CHUNK: MASK_CHUNK }, overrides: { ZERO: zero } },
    operands: { slot: slot.tensor, d_y: dY, partial },
    params: { batch, buffer, grid, width: width / per, offset: slot.offset },
    grid: grid1d((batch * chunks * width) / per),
    flops: batch * grid * width,
  });
  biasGradient(r, partial, batch * chunks, width, dMaskToken);
}

/**
 * Gradients of `encoderInput` from d_y[batch, buffer + visible, width]: of the class embeddings [batch, width] and the
 * tokens [batch * visible, width], written (new tensors unless given) and returned; of the positions, added to
 * `dPosition`. `slot` is the encoder row of each grid position, as `decoderInput` takes it.
 */
export function encoderInputBackward(
  r: Recorder,
  dY: Tensor,
  slot: Index,
  shape: SequenceShape & { visible: number; grid: number },
  gradients: { dClasses?: Tensor; dTokens?: Tensor; dPosition: Tensor },
): { dClasses: Tensor; dTokens: Tensor | undefined } {
  const { batch, buffer, visible, width } = shape;
  const dClasses = gradients.dClasses ?? r.temp([batch, width], 'f32', 'd classes');
  const dTokens =
    visible > 0 ? (gradients.dTokens ?? r.temp([batch * visible, width], 'f32', 'd visible tokens')) : undefined;
  const { per, consts } = vectors(width);
  r.call({
    op: 'encoder_input backward',
    kernel: { file: 'tokens/encoder_input_backward', consts },
    operands: { d_y: dY, d_classes: dClasses, d_tokens: dTokens },
    params: { batch, buffer, visible, width: width / per },
    grid: grid1d((batch * (1 + visible) * width) / per),
    flops: batch * buffer * width,
  });
  positionBackward(r, dY, { ...shape, length: buffer + visible }, gradients.dPosition, slot);
  return { dClasses, dTokens };
}

/**
 * Gradients of `decoderInput` from d_y[batch, buffer + grid, width]: of the encoder's rows [batch, from, width],
 * written and returned; of the mask token and the positions, added to. Each encoder row has one place: `slot` as in
 * the forward pass, `visible` its inverse, the grid position of each visible token [batch, from - buffer].
 */
export function decoderInputBackward(
  r: Recorder,
  dY: Tensor,
  { slot, visible }: { slot: Index; visible: Index },
  shape: SequenceShape & { grid: number; from: number },
  gradients: { dX?: Tensor; dMaskToken: Tensor; dPosition: Tensor },
): Tensor {
  const { batch, buffer, grid, from, width } = shape;
  const dX = gradients.dX ?? r.temp([batch, from, width], 'f32', 'd encoder rows');
  const { per, consts } = vectors(width);
  r.call({
    op: 'decoder_input backward',
    kernel: { file: 'tokens/decoder_input_backward', consts },
    operands: { d_y: dY, visible: visible.tensor, d_x: dX },
    params: { batch, buffer, grid, from_rows: from, width: width / per, offset: visible.offset },
    grid: grid1d((batch * from * width) / per),
  });
  maskTokenBackward(r, dY, slot, shape, gradients.dMaskToken, false);
  positionBackward(r, dY, { ...shape, length: buffer + grid }, gradients.dPosition);
  return dX;
}

/**
 * Backward of `replaceMasked`, in place as it is: the masked rows of d_y[batch, buffer + grid, width] are added to
 * `dMaskToken` and become zero.
 */
export function replaceMaskedBackward(
  r: Recorder,
  slot: Index,
  shape: SequenceShape & { grid: number },
  dY: Tensor,
  dMaskToken: Tensor,
): void {
  maskTokenBackward(r, dY, slot, shape, dMaskToken, true);
}

type Sizes = Record<string, number>;
const sizes = (p: Problem) => p as unknown as Sizes;
const whole = (tensor: Tensor): Index => ({ tensor, offset: 0 });

/** Position of each number in `index`: out[index[i]] = base + i, MASKED elsewhere. */
function inverted(index: ArrayLike<number>, size: number, base = 0): Uint32Array {
  const inverse = new Uint32Array(size).fill(MASKED);
  for (let i = 0; i < index.length; i++) inverse[index[i]] = base + i;
  return inverse;
}

/** One after the other. */
function joined(parts: readonly Uint32Array[]): Uint32Array {
  return Uint32Array.from(parts.flatMap((part) => [...part]));
}

export const gatherGradient: Gradient = {
  problems: [
    { rows: 9, count: 5, width: 7 },
    { rows: 9, count: 5, width: 12, accumulate: true },
    { rows: 6, count: 23, width: 5, repeats: true },
    { rows: 11, count: 70, width: 8, repeats: true },
  ],
  variants: () => ['gather_rows'],
  of: (p) => ({ x: p.accumulate || p.repeats ? 'added' : 'written' }),
  inputs(p) {
    const inputs = gatherOp.inputs(p);
    // Some rows often, some never.
    const values = (n: number) => Array.from({ length: n }, (_, i) => (i * i + (i >> 2)) % (sizes(p).rows - 1));
    return p.repeats ? { ...inputs, index: { ...inputs.index, fill: { values } } } : inputs;
  },
  derived: ({ index }, p): Record<string, Uint32Array> =>
    p.repeats ? { uses: rowUses(index) } : { inverse: inverted(index, sizes(p).rows) },
  record(r, t, p) {
    const { rows, count, width } = sizes(p);
    if (p.repeats) embeddingBackward(r, t.d_y, whole(t.uses), count, width, t.d_x);
    else gatherRowsBackward(r, t.d_y, whole(t.inverse), rows, width, { out: t.d_x, accumulate: Boolean(p.accumulate) });
  },
};

export const scatterGradient: Gradient = {
  problems: [{ rows: 9, count: 5, width: 7 }],
  variants: () => ['gather_rows'],
  of: () => ({ x: 'written' }),
  record: (r, t, p) => {
    gatherRows(r, t.d_y, whole(t.index), sizes(p).count, sizes(p).width, { out: t.d_x });
  },
};

export const encoderInputGradient: Gradient = {
  problems: [
    { batch: 2, buffer: 3, visible: 4, grid: 9, width: 5 },
    { batch: 3, buffer: 2, visible: 6, grid: 7, width: 8 },
  ],
  variants: () => ['encoder_input'],
  of: () => ({ classes: 'written', tokens: 'written', position: 'added' }),
  derived({ index }, p) {
    const { batch, buffer, visible, grid } = sizes(p);
    const entries = Array.from({ length: batch }, (_, b) => index.subarray(b * visible, (b + 1) * visible));
    return { slot: joined(entries.map((entry) => inverted(entry, grid, buffer))) };
  },
  record(r, t, p) {
    const { batch, buffer, visible, grid, width } = sizes(p);
    const gradients = { dClasses: t.d_classes, dTokens: t.d_tokens, dPosition: t.d_position };
    encoderInputBackward(r, t.d_y, whole(t.slot), { batch, buffer, visible, grid, width }, gradients);
  },
};

export const decoderInputGradient: Gradient = {
  problems: [
    { batch: 2, buffer: 3, grid: 9, from: 7, width: 5 },
    { batch: 3, buffer: 1, grid: 35, from: 4, width: 4 },
    { batch: 1, buffer: 2, grid: 5, from: 7, width: 8 },
  ],
  variants: () => ['decoder_input'],
  of: () => ({ x: 'written', mask_token: 'added', position: 'added' }),
  inputs(p) {
    const { buffer, grid, from } = sizes(p);
    const inputs = decoderInputOp.inputs(p);
    // Every encoder row in one place: the odd grids have a visible token at every second position, wrapping around.
    const values = (n: number) => {
      const slots = new Uint32Array(n).fill(MASKED);
      for (let first = 0; first < n; first += grid) {
        for (let i = 0; i < from - buffer; i++) slots[first + ((first / grid + 2 * i) % grid)] = buffer + i;
      }
      return slots;
    };
    return { ...inputs, slot: { ...inputs.slot, fill: { values } } };
  },
  derived({ slot }, p) {
    const { batch, buffer, grid, from } = sizes(p);
    const visible = new Uint32Array(batch * (from - buffer));
    slot.forEach((row, at) => {
      if (row !== MASKED) visible[Math.floor(at / grid) * (from - buffer) + row - buffer] = at % grid;
    });
    return { visible };
  },
  record(r, t, p) {
    const { batch, buffer, grid, from, width } = sizes(p);
    const gradients = { dX: t.d_x, dMaskToken: t.d_mask_token, dPosition: t.d_position };
    const at = { slot: whole(t.slot), visible: whole(t.visible) };
    decoderInputBackward(r, t.d_y, at, { batch, buffer, grid, from, width }, gradients);
  },
};

export const replaceMaskedGradient: Gradient = {
  problems: [
    { batch: 2, buffer: 3, grid: 5, width: 7 },
    { batch: 3, buffer: 2, grid: 34, width: 4 },
  ],
  variants: () => ['replace_masked'],
  // In place: the gradient from above is where that of y is left.
  of: () => ({ y: 'written', mask_token: 'added' }),
  record(r, t, p) {
    const { batch, buffer, grid, width } = sizes(p);
    replaceMaskedBackward(r, whole(t.slot), { batch, buffer, grid, width }, t.d_y, t.d_mask_token);
  },
};
