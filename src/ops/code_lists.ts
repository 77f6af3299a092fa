/**
 * Codes of tokens on the device: revealing them by confidence, row numbers of what is masked and what is visible, rows of
 * the embedding table. Counts are the host's; nothing is read back.
 */
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import type { SampledCodes } from './categorical.ts';
import { type Arrays, grid1d, type Op, type Problem } from './op.ts';
import { type Index, MASKED } from './tokens.ts';

export interface Reveal {
  batch: number;
  /** Candidates of each image, listed image after image; 1024 at most is what the kernel is made for. */
  masked: number;
  /** Of them revealed, the most confident first. */
  count: number;
}

/**
 * Reveals codes in place: the `count` most confident of each image's `masked` candidates get their sampled code in
 * codes[batch * seqLen] (u32, MASKED before). Lists as `sampleCodes` made them. With count = masked all candidates are
 * revealed: so in the last step, and where the host has planned which tokens come.
 * @returns chosen[batch, count] u32: the tokens that were revealed, an image's most confident first
 */
export function revealConfident(
  r: Recorder,
  { sampled, confidence }: SampledCodes,
  positions: Index,
  codes: Tensor,
  { batch, masked, count }: Reveal,
  out?: Tensor,
): Tensor {
  const chosen = out ?? r.temp([batch, count], 'u32', 'revealed tokens');
  r.call({
    op: 'reveal_confident',
    kernel: { file: 'categorical/select' },
    operands: { confidence, sampled, positions: positions.tensor, codes, chosen },
    params: { batch, masked, count, offset: positions.offset },
    grid: grid1d(batch * masked),
  });
  return chosen;
}

export interface PositionList {
  batch: number;
  seqLen: number;
  /** Which tokens are listed. */
  of: 'masked' | 'visible';
  /** How many of each image. */
  count: number;
  /** Row number = image * stride + shift + position: defaults seqLen and 0, the token's number. */
  stride?: number;
  shift?: number;
}

/** list[batch, count]: row numbers of the masked or the visible tokens of codes[batch, seqLen], written from its offset on. */
export function positionList(r: Recorder, codes: Tensor, list: Index, options: PositionList): void {
  const { batch, seqLen, of, count, stride = seqLen, shift = 0 } = options;
  r.call({
    op: 'position_list',
    kernel: { file: 'categorical/position_list', overrides: { MASKED_TOKENS: of === 'masked' } },
    operands: { codes, list: list.tensor },
    params: { batch, seq_len: seqLen, count, stride, shift, offset: list.offset },
    grid: grid1d(batch * seqLen),
  });
}

/**
 * slot[batch, seqLen]: row of each token in an encoder of `shift` buffer slots and the visible tokens in order, MASKED
 * where masked; written from its offset on. What `decoderInput` reads.
 */
export function slotList(
  r: Recorder,
  codes: Tensor,
  slot: Index,
  { batch, seqLen, shift }: { batch: number; seqLen: number; shift: number },
): void {
  r.call({
    op: 'slot_list',
    kernel: { file: 'categorical/position_list', overrides: { MASKED_TOKENS: false, SLOTS: true } },
    operands: { codes, list: slot.tensor },
    params: { batch, seq_len: seqLen, count: 0, stride: 0, shift, offset: slot.offset },
    grid: grid1d(batch * seqLen),
  });
}

/**
 * y[count]: rows of the embedding table for the listed tokens of codes[*], `maskRow` where masked; `gatherRows` then looks
 * the embeddings up.
 */
export function codeRows(
  r: Recorder,
  codes: Tensor,
  rows: Index,
  count: number,
  maskRow: number,
  out?: Tensor,
): Tensor {
  const y = out ?? r.temp([count], 'u32', 'rows of codes');
  r.call({
    op: 'code_rows',
    kernel: { file: 'categorical/code_rows' },
    operands: { codes, rows: rows.tensor, y },
    params: { count, offset: rows.offset, mask_row: maskRow },
    grid: grid1d(count),
  });
  return y;
}

// Tests read integers as float32: MASKED is rounded in the oracles too, and equality is wanted.
interface Sizes {
  batch: number;
  seqLen: number;
  masked: number;
  count: number;
  of: 'masked' | 'visible' | 'slots';
  ties?: boolean;
}
const sizes = (p: Problem) => p as unknown as Sizes;
const OFFSET = 3;
const SHIFT = 5;

/** Masked tokens of the test problems: `masked` of each image, scattered. */
const isMasked = ({ seqLen, masked }: Sizes, i: number) =>
  ((i % seqLen) * 7 + 3 * Math.floor(i / seqLen)) % seqLen < masked;

/** Codes of which `masked` of each image are MASKED; seqLen has no factor 7. */
const codesOf = (p: Problem) => ({
  shape: [sizes(p).batch, sizes(p).seqLen],
  dtype: 'u32' as const,
  fill: { values: (n: number) => Array.from({ length: n }, (_, i) => (isMasked(sizes(p), i) ? MASKED : 100 + i)) },
});

/** Token numbers, after OFFSET that are not read. */
const listed = (p: Problem, wanted: (i: number) => boolean) => {
  const { batch, seqLen } = sizes(p);
  const tokens = Array.from({ length: batch * seqLen }, (_, i) => i).filter(wanted);
  return [...new Array(OFFSET).fill(0), ...tokens];
};

export const revealConfidentOp: Op = {
  name: 'reveal_confident',
  variants: () => ['select'],
  problems: {
    test: [
      { batch: 3, seqLen: 10, masked: 6, count: 2 },
      { batch: 2, seqLen: 25, masked: 25, count: 9, ties: true },
      { batch: 2, seqLen: 100, masked: 37, count: 37 },
      { batch: 5, seqLen: 16, masked: 1, count: 1 },
      { batch: 1, seqLen: 1024, masked: 1024, count: 300, ties: true },
    ],
    bench: [{ batch: 64, seqLen: 1024, masked: 1024, count: 64 }],
  },
  inputs: (p) => {
    const { batch, masked, count, ties } = sizes(p);
    const length = OFFSET + batch * masked;
    const numbers = (f: (i: number) => number) => ({
      values: (n: number) => Array.from({ length: n }, (_, i) => f(i)),
    });
    return {
      confidence: { shape: [length], ...(ties && { fill: numbers((i) => Math.round(3 * Math.sin(i * i)) || -0) }) },
      sampled: { shape: [length], dtype: 'u32', fill: numbers((i) => 5000 + ((i * 31) % 977)) },
      positions: {
        shape: [length],
        dtype: 'u32',
        fill: { values: () => listed(p, (i) => isMasked(sizes(p), i)) },
      },
      codes: { ...codesOf(p), inPlace: true },
      chosen: { shape: [batch, count], dtype: 'u32', fill: numbers(() => 99999), inPlace: true },
    };
  },
  outputs: (p) => ({ codes: [sizes(p).batch, sizes(p).seqLen], chosen: [sizes(p).batch, sizes(p).count] }),
  record: (r, t, p) => {
    const positions = { tensor: t.positions, offset: OFFSET };
    revealConfident(r, { sampled: t.sampled, confidence: t.confidence }, positions, t.codes, sizes(p), t.chosen);
  },
  oracle: (inputs, p) => {
    const { batch, masked, count } = sizes(p);
    const codes = inputs.codes.slice();
    const chosen: number[] = [];
    for (let image = 0; image < batch; image++) {
      const candidates = Array.from({ length: masked }, (_, j) => OFFSET + image * masked + j);
      candidates.sort((a, b) => inputs.confidence[b] - inputs.confidence[a] || a - b);
      for (const at of candidates.slice(0, count)) {
        codes[inputs.positions[at]] = inputs.sampled[at];
        chosen.push(inputs.positions[at]);
      }
    }
    return { codes: codes.map(Math.fround), chosen: Float64Array.from(chosen) };
  },
  tolerance: 0,
  flops: (p) => 2 * sizes(p).batch * sizes(p).masked ** 2,
};

export const positionListOp: Op = {
  name: 'position_list',
  variants: () => ['position_list'],
  problems: {
    test: [
      { batch: 3, seqLen: 10, masked: 6, of: 'masked' },
      { batch: 3, seqLen: 10, masked: 6, of: 'visible' },
      { batch: 2, seqLen: 25, masked: 11, of: 'slots' },
      { batch: 2, seqLen: 16, masked: 0, of: 'slots' },
      { batch: 1, seqLen: 1024, masked: 1000, of: 'masked' },
    ],
    bench: [{ batch: 64, seqLen: 1024, masked: 512, of: 'masked' }],
  },
  inputs: (p) => ({
    codes: codesOf(p),
    list: {
      shape: [OFFSET + listLength(sizes(p))],
      dtype: 'u32',
      fill: { values: (n) => new Array(n).fill(99999) },
      inPlace: true,
    },
  }),
  outputs: (p) => ({ list: [OFFSET + listLength(sizes(p))] }),
  record: (r, t, p) => {
    const { batch, seqLen, of } = sizes(p);
    const list = { tensor: t.list, offset: OFFSET };
    if (of === 'slots') slotList(r, t.codes, list, { batch, seqLen, shift: SHIFT });
    else {
      const count = listLength(sizes(p)) / batch;
      positionList(r, t.codes, list, { batch, seqLen, of, count, stride: seqLen + SHIFT, shift: SHIFT });
    }
  },
  oracle: listOracle,
  tolerance: 0,
  flops: (p) => sizes(p).batch * sizes(p).seqLen ** 2,
};

function listLength({ batch, seqLen, masked, of }: Sizes): number {
  return batch * (of === 'slots' ? seqLen : of === 'masked' ? masked : seqLen - masked);
}

function listOracle({ codes, list }: Arrays, p: Problem): Arrays {
  const { batch, seqLen, of } = sizes(p);
  const rows: number[] = [];
  for (let image = 0; image < batch; image++) {
    let visible = 0;
    for (let position = 0; position < seqLen; position++) {
      const masked = codes[image * seqLen + position] === MASKED;
      if (of === 'slots') rows.push(masked ? MASKED : SHIFT + visible++);
      else if (masked === (of === 'masked')) rows.push(image * (seqLen + SHIFT) + SHIFT + position);
    }
  }
  return { list: Float64Array.from([...list.slice(0, OFFSET), ...rows], Math.fround) };
}

export const codeRowsOp: Op = {
  name: 'code_rows',
  variants: () => ['code_rows'],
  problems: {
    test: [
      { batch: 3, seqLen: 10, masked: 6, count: 20 },
      { batch: 1, seqLen: 100, masked: 100, count: 7 },
    ],
    bench: [{ batch: 64, seqLen: 1024, masked: 512, count: 65536 }],
  },
  inputs: (p) => ({
    codes: codesOf(p),
    rows: {
      shape: [OFFSET + sizes(p).batch * sizes(p).seqLen],
      dtype: 'u32',
      fill: { values: () => listed(p, () => true) },
    },
  }),
  outputs: (p) => ({ y: [sizes(p).count] }),
  outputType: () => 'u32',
  record: (r, t, p) => {
    codeRows(r, t.codes, { tensor: t.rows, offset: OFFSET }, sizes(p).count, 16384, t.y);
  },
  oracle: ({ codes, rows }, p) => ({
    y: Float64Array.from({ length: sizes(p).count }, (_, i) => {
      const code = codes[rows[OFFSET + i]];
      return code === MASKED ? 16384 : code;
    }),
  }),
  tolerance: 0,
  flops: () => 0,
};
