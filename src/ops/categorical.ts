/**
 * The categorical conditional in sampling: guidance on logits, top-k and top-p, a code for every token by the Gumbel-max
 * trick with its confidence. `code_lists.ts` reveals codes and looks them up; `cross_entropy.ts` trains.
 */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import { describeTensor, type Tensor } from '../gpu/tensor.ts';
import { gumbelNoise, STREAMS, streamKey } from '../random.ts';
import { vectors } from './elementwise.ts';
import { grid1d, type Op, type Problem } from './op.ts';
import type { Index } from './tokens.ts';

/** Rows of `codes` logits in a tensor. @throws EmigmError 'shape' when it holds no whole number of `parts` times rows */
function rowsOf(op: string, logits: Tensor, codes: number, parts = 1): number {
  const rows = logits.size / codes / parts;
  if (Number.isInteger(rows)) return rows;
  const wanted = parts === 1 ? `rows of ${codes}` : `${parts} halves of rows of ${codes}`;
  throw new EmigmError('shape', `${op}: logits are ${describeTensor(logits)}; ${wanted} wanted`);
}

/**
 * Guidance in place: the first half of logits[2 * rows, codes] becomes unconditional + scale (conditional -
 * unconditional), that is conditional + (scale - 1) (conditional - unconditional); the second half stays.
 */
export function guideLogits(r: Recorder, logits: Tensor, codes: number, scale: number): void {
  const size = rowsOf('guidance', logits, codes, 2) * codes;
  const { per, consts } = vectors(size);
  r.call({
    op: 'guide_logits',
    kernel: { file: 'categorical/guide', consts },
    operands: { logits },
    params: { size: size / per, scale },
    grid: grid1d(size / per),
    flops: 3 * size,
  });
}

/** What may be drawn: the `topK` largest logits, and of these the fewest that have a share `topP` of the probability. */
export interface CodeFilter {
  /** 0: no limit. Default 0. */
  topK?: number;
  /** 1: no limit. Default 1. */
  topP?: number;
  /** Of the distribution that topP is a share of. Default 1. */
  temperature?: number;
}

/** @throws EmigmError 'input' for a filter that leaves nothing or cannot be */
export function checkCodeFilter({ topK = 0, topP = 1, temperature = 1 }: CodeFilter): void {
  if (!Number.isSafeInteger(topK) || topK < 0) {
    throw new EmigmError('input', `top-k must be a positive integer, or 0 for no limit, not ${topK}`);
  }
  if (!(topP > 0 && topP <= 1)) throw new EmigmError('input', `top-p must be a share above 0 and up to 1, not ${topP}`);
  if (!(temperature >= 0 && temperature < 1e6)) {
    throw new EmigmError('input', `temperature must be a number from 0, not ${temperature}`);
  }
}

const filters = ({ topK = 0, topP = 1 }: CodeFilter, codes: number) => (topK > 0 && topK < codes) || topP < 1;

const rowVariants = ({ isCpu }: Device) => (isCpu ? ['reference', 'workgroup'] : ['workgroup', 'reference']);

/** Kernel, constants and grid of a kernel that takes a workgroup a row, or an invocation. */
function byRow({ device }: Recorder, file: string, op: string, rows: number, asked: string | undefined) {
  const usable = rowVariants(device);
  const variant = asked ?? usable.find((name) => name === device.variants[op]) ?? usable[0];
  // Lanes of CPU drivers run one after another, and their compilers take long over many.
  const cpuLanes = variant === 'reference' ? device.lanes || 8 : 32;
  const lanes = device.isCpu ? cpuLanes : variant === 'reference' ? 64 : 256;
  const groups = variant === 'reference' ? Math.ceil(rows / lanes) : rows;
  return {
    kernel: { file: variant === 'reference' ? `${file}_reference` : file, consts: { LANES: lanes } },
    grid: groups <= 32768 ? [groups] : [32768, Math.ceil(groups / 32768)],
  };
}

/**
 * threshold[rows]: the smallest logit that the filter keeps; equal logits are kept or dropped together. Undefined when
 * the filter keeps everything.
 * @throws EmigmError 'input' as `checkCodeFilter`; 'shape' when the logits are no rows of `codes`
 */
export function logitThreshold(
  r: Recorder,
  logits: Tensor,
  codes: number,
  filter: CodeFilter,
  options: { rows?: number; out?: Tensor; variant?: string } = {},
): Tensor | undefined {
  checkCodeFilter(filter);
  // At temperature 0 the largest logit is taken, which no filter drops.
  const { topK = 0, topP = 1, temperature = 1 } = filter;
  if (!filters(filter, codes) || temperature === 0) return undefined;
  const rows = options.rows ?? rowsOf('top-k and top-p', logits, codes);
  const threshold = options.out ?? r.temp([rows], 'f32', 'logit threshold');
  r.call({
    op: 'logit_threshold',
    ...byRow(r, 'categorical/threshold', 'logit_threshold', rows, options.variant),
    operands: { logits, threshold },
    params: { rows, codes, top_k: topK < codes ? topK : 0, top_p: topP, sharpness: 1 / temperature },
    flops: (topK > 0 ? 64 : 0) * rows * codes + (topP < 1 ? 128 : 0) * rows * codes,
  });
  return threshold;
}

/** The tokens that are drawn, and the noise they are drawn with. */
export interface CodeRows {
  /** u32 [>= offset + rows]: image in the batch * seqLen + grid position of each row of the logits. */
  positions: Index;
  /** u32 [batch]: index of each image of the batch. */
  images: Tensor;
  seqLen: number;
  rows: number;
}

export interface CodeSampling extends CodeFilter {
  seed: number | bigint;
  /** Step of the reveal loop. */
  step: number;
  /** Temperature of the Gumbel noise that the confidence gets: see `annealedTemperature`. Default 0. */
  choiceTemperature?: number;
  variant?: string;
}

export interface SampledCodes {
  /** u32 and f32, as long as `positions`, written from its offset on. */
  sampled: Tensor;
  confidence: Tensor;
}

/**
 * A code for each row of logits[rows, codes], drawn from softmax(logits / temperature) as filtered, and the confidence
 * log softmax(logits)[code] + choiceTemperature gumbel. A token's noise depends on seed, step, image and position alone.
 * Temperature 0 takes the largest logit.
 * @throws EmigmError 'input' as `checkCodeFilter`; 'shape' when tensors do not fit together
 */
export function sampleCodes(
  r: Recorder,
  logits: Tensor,
  codes: number,
  { positions, images, seqLen, rows }: CodeRows,
  sampling: CodeSampling,
  out?: Partial<SampledCodes> & { threshold?: Tensor },
): SampledCodes {
  const { temperature = 1, choiceTemperature = 0, seed, step, variant } = sampling;
  if (logits.size < rows * codes || positions.tensor.size < positions.offset + rows) {
    const given = `logits are ${describeTensor(logits)}, positions ${describeTensor(positions.tensor)}`;
    throw new EmigmError('shape', `sampling codes: ${given}; ${rows} rows of ${codes} wanted`);
  }
  const threshold = logitThreshold(r, logits, codes, sampling, { rows, variant, out: out?.threshold });
  const sampled = out?.sampled ?? r.temp(positions.tensor.shape, 'u32', 'sampled codes');
  const confidence = out?.confidence ?? r.temp(positions.tensor.shape, 'f32', 'confidence');
  const [low, high] = streamKey(seed, STREAMS.codes, step);
  const { kernel, grid } = byRow(r, 'categorical/sample', 'sample_codes', rows, variant);
  r.call({
    op: 'sample_codes',
    kernel: { ...kernel, overrides: { FILTER: threshold !== undefined } },
    operands: { logits, threshold, positions: positions.tensor, images, sampled, confidence },
    params: {
      rows,
      codes,
      seq_len: seqLen,
      offset: positions.offset,
      key_low: low,
      key_high: high,
      temperature,
      choice_temperature: choiceTemperature,
    },
    grid,
    flops: 100 * rows * codes,
  });
  return { sampled, confidence };
}

interface Sizes extends CodeFilter {
  rows: number;
  codes: number;
  /** Distinct levels of the logits in tests of filters: rounding then cannot move a threshold. */
  levels?: number;
  choiceTemperature?: number;
}
const sizes = (p: Problem) => p as unknown as Sizes;

/** Logits on few levels, or normal ones. */
const fill = ({ levels }: Sizes) =>
  levels
    ? { values: (n: number) => Array.from({ length: n }, (_, i) => Math.round(levels * Math.sin(0.37 * i * i)) / 4) }
    : { scale: 3 };

export const guideLogitsOp: Op = {
  name: 'guide_logits',
  variants: () => ['guide'],
  problems: {
    test: [
      { rows: 3, codes: 7 },
      { rows: 5, codes: 36 },
    ],
    bench: [{ rows: 1024, codes: 16384 }],
  },
  inputs: (p) => ({ logits: { shape: [2, sizes(p).rows, sizes(p).codes], inPlace: true } }),
  outputs: (p) => ({ logits: [2, sizes(p).rows, sizes(p).codes] }),
  record: (r, t, p) => guideLogits(r, t.logits, sizes(p).codes, 3.5),
  oracle: ({ logits }) => {
    const half = logits.length / 2;
    return { logits: logits.map((x, i) => (i < half ? x + (3.5 - 1) * (x - logits[half + i]) : x)) };
  },
  flops: (p) => 3 * sizes(p).rows * sizes(p).codes,
};

/** The threshold of one row, by sorting. */
function rowThreshold(row: Float64Array, { topK = 0, topP = 1, temperature = 1 }: CodeFilter): number {
  const falling = Float64Array.from(row).sort().reverse();
  const kth = topK > 0 && topK < row.length ? falling[topK - 1] : Number.NEGATIVE_INFINITY;
  const kept = falling.filter((x) => x >= kth);
  const masses = kept.map((x) => Math.exp((x - falling[0]) / temperature));
  const wanted = topP * masses.reduce((a, b) => a + b, 0);
  let mass = 0;
  for (let i = 0; i < kept.length; i++) {
    mass += masses[i];
    // The mass of a level is complete at its last.
    if (kept[i + 1] !== kept[i] && mass >= wanted) return kept[i];
  }
  return kept[kept.length - 1];
}

export const logitThresholdOp: Op = {
  name: 'logit_threshold',
  variants: rowVariants,
  problems: {
    test: [
      { rows: 3, codes: 7, topK: 3 },
      { rows: 9, codes: 100, topK: 1 },
      { rows: 4, codes: 50, levels: 8, topP: 0.83 },
      { rows: 5, codes: 333, levels: 12, topK: 40, topP: 0.61, temperature: 1.7 },
      { rows: 2, codes: 16384, levels: 40, topK: 1000, topP: 0.9 },
      { rows: 2, codes: 5, topP: 0.001 },
    ],
    bench: [{ rows: 1024, codes: 16384, topK: 1000, topP: 0.95 }],
  },
  inputs: (p) => ({ logits: { shape: [sizes(p).rows, sizes(p).codes], fill: fill(sizes(p)) } }),
  outputs: (p) => ({ threshold: [sizes(p).rows] }),
  record: (r, t, p, variant) => {
    logitThreshold(r, t.logits, sizes(p).codes, sizes(p), { out: t.threshold, variant });
  },
  oracle: ({ logits }, p) => {
    const { rows, codes } = sizes(p);
    const row = (i: number) => logits.subarray(i * codes, (i + 1) * codes);
    return { threshold: Float64Array.from({ length: rows }, (_, i) => rowThreshold(row(i), sizes(p))) };
  },
  flops: (p) => 64 * sizes(p).rows * sizes(p).codes,
};

/** Test problems: images of a batch, tokens of an image, and a list that begins before the rows. */
const [SEED, STEP, SEQ_LEN, BATCH, OFFSET] = [2 ** 40 + 3, 5, 16, 8, 2];
const token = (i: number) => (i * 5 + 3) % (SEQ_LEN * BATCH);

export const sampleCodesOp: Op = {
  name: 'sample_codes',
  variants: rowVariants,
  problems: {
    test: [
      { rows: 3, codes: 7 },
      { rows: 70, codes: 12, temperature: 0.8, choiceTemperature: 3 },
      { rows: 9, codes: 101, temperature: 0, choiceTemperature: 0.5 },
      { rows: 5, codes: 333, topK: 3, temperature: 2.5 },
      { rows: 6, codes: 64, levels: 9, topK: 20, topP: 0.7, temperature: 1.5 },
      { rows: 3, codes: 16384, choiceTemperature: 1 },
      { rows: 2, codes: 1 },
    ],
    bench: [
      { rows: 1024, codes: 16384 },
      { rows: 4096, codes: 512 },
    ],
  },
  inputs: (p) => {
    const { rows, codes } = sizes(p);
    const unwritten = { shape: [OFFSET + rows], inPlace: true };
    return {
      logits: { shape: [rows, codes], fill: fill(sizes(p)) },
      positions: {
        shape: [OFFSET + rows],
        dtype: 'u32',
        fill: { values: (n) => Array.from({ length: n }, (_, i) => (i < OFFSET ? 0 : token(i - OFFSET))) },
      },
      images: {
        shape: [BATCH],
        dtype: 'u32',
        fill: { values: (n) => Array.from({ length: n }, (_, i) => 900 + 7 * i) },
      },
      sampled: { ...unwritten, dtype: 'u32', fill: { values: (n) => new Array(n).fill(77777) } },
      confidence: { ...unwritten, fill: { values: (n) => new Array(n).fill(-9) } },
    };
  },
  outputs: (p) => ({ sampled: [OFFSET + sizes(p).rows], confidence: [OFFSET + sizes(p).rows] }),
  record: (r, t, p, variant) => {
    const { rows, codes } = sizes(p);
    const at = { positions: { tensor: t.positions, offset: OFFSET }, images: t.images, seqLen: SEQ_LEN, rows };
    const sampling = { ...sizes(p), seed: SEED, step: STEP, variant };
    sampleCodes(r, t.logits, codes, at, sampling, { sampled: t.sampled, confidence: t.confidence });
  },
  oracle: ({ logits, images, sampled, confidence }, p) => {
    const { rows, codes, temperature = 1, choiceTemperature = 0 } = sizes(p);
    const result = { sampled: sampled.slice(), confidence: confidence.slice() };
    for (let row = 0; row < rows; row++) {
      const x = logits.subarray(row * codes, (row + 1) * codes);
      const [image, position] = [images[Math.floor(token(row) / SEQ_LEN)], token(row) % SEQ_LEN];
      const noise = (draw: number, count: number) =>
        gumbelNoise(SEED, STREAMS.codes, STEP, image, position, draw, count);
      const smallest = filters(sizes(p), codes) ? rowThreshold(x, sizes(p)) : Number.NEGATIVE_INFINITY;
      const gumbels = noise(0, codes);
      const scores = x.map((logit, i) => (logit >= smallest ? logit + temperature * gumbels[i] : -1e30));
      const code = scores.indexOf(scores.reduce((a, b) => Math.max(a, b)));
      const most = x.reduce((a, b) => Math.max(a, b));
      const logSum = most + Math.log(x.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
      result.sampled[OFFSET + row] = code;
      result.confidence[OFFSET + row] = x[code] - logSum + choiceTemperature * noise(1, 1)[0];
    }
    return result;
  },
  flops: (p) => 100 * sizes(p).rows * sizes(p).codes,
};
