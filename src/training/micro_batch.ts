/** The row numbers and weights of a micro-batch, laid out for the device. */
import { EmigmError } from '../errors.ts';
import { type LossWeighting, lossWeight } from '../masking/schedules.ts';
import { sequenceLength } from '../models/config.ts';
import type { TrunkConfig } from '../models/trunk.ts';
import { MASKED } from '../ops/tokens.ts';

/** Sizes that a recorded program depends on. */
export interface MicroBatchShape {
  images: number;
  /** Tokens that the encoder sees of each image. */
  visible: number;
  /** Tokens that the loss is taken of, in all. */
  rows: number;
  /** Diffusion times and noises for each of them. */
  repeats: number;
}

/** Host numbers of a micro-batch; all index lists are u32. */
export interface MicroBatch {
  shape: MicroBatchShape;
  /** [images] row of the class table: 0 the unconditional input, 1 + class otherwise. */
  classRows: Uint32Array;
  /** [images * visible] row of the token list [images * tokens]; grid position in `visible`. */
  tokenRows: Uint32Array;
  visible: Uint32Array;
  /** [images * tokens] encoder row of each grid position, MASKED where masked. */
  slot: Uint32Array;
  /** The same, but in a single encoder masked positions have rows too: `visible` inverted. */
  place: Uint32Array;
  /** [rows] decoder row, grid position and token row of each token that the loss is taken of. */
  decoderRows: Uint32Array;
  positions: Uint32Array;
  targets: Uint32Array;
  /** [images * (buffer + tokens)] row of the loss of each decoder row, and [images * tokens] of each token; or MASKED. */
  rowOfDecoder: Uint32Array;
  rowOfToken: Uint32Array;
  /** [repeats * rows], repeat after repeat: weight of the row's loss. */
  weights: Float32Array;
}

export interface MicroBatchInput {
  /** [images] class numbers. */
  labels: ArrayLike<number>;
  /** [images], 1 = unconditional. */
  dropped: ArrayLike<number>;
  /** [images * tokens], 1 = masked. */
  mask: ArrayLike<number>;
  /** [images] masking times. */
  p: ArrayLike<number>;
  schedule: string;
  weighting: LossWeighting;
  repeats: number;
  /** Micro-batches whose losses are averaged to one step's. */
  parts?: number;
  /** Take every token through the head, those that are not masked with weight 0: to compare all rows with others. */
  allRows?: boolean;
  /** Take so many more, with weight 0, that the rows of a repeat are a multiple of this: there are fewer shapes then. */
  rowsMultiple?: number;
}

/**
 * Loss = sum(loss * w * mask) / sum(mask) over all rows of the micro-batch (official `forward_loss`, SPEC section 3).
 * @throws EmigmError 'shape' when an encoder without mask tokens would get rows of different length
 */
export function layOutMicroBatch(config: TrunkConfig, input: MicroBatchInput): MicroBatch {
  const { labels, dropped, mask, p, repeats, parts = 1, allRows = false, rowsMultiple = 1 } = input;
  const { bufferSize: buffer, mae } = config;
  const images = labels.length;
  const tokens = sequenceLength(config);
  const seen: number[][] = [];
  const slot = new Uint32Array(images * tokens).fill(MASKED);
  const rowOfDecoder = new Uint32Array(images * (buffer + tokens)).fill(MASKED);
  const rowOfToken = new Uint32Array(images * tokens).fill(MASKED);
  const rows: number[] = [];
  const masked = Array.from(mask).filter((one) => one !== 0).length;
  const wanted = Math.min(images * tokens, Math.ceil(masked / rowsMultiple) * rowsMultiple);
  let spare = allRows ? images * tokens : wanted - masked;
  for (let b = 0; b < images; b++) {
    const visible: number[] = [];
    for (let i = 0; i < tokens; i++) {
      const at = b * tokens + i;
      if (!mask[at]) slot[at] = buffer + (mae ? visible.length : i);
      if (!mae || !mask[at]) visible.push(i);
      if (!mask[at] && spare-- <= 0) continue;
      rowOfDecoder[b * (buffer + tokens) + buffer + i] = rows.length;
      rowOfToken[at] = rows.length;
      rows.push(at);
    }
    if (visible.length !== (seen[0] ?? visible).length) {
      throw new EmigmError('shape', `image ${b} has ${visible.length} visible tokens, image 0 ${seen[0].length}`);
    }
    seen.push(visible);
  }
  const weightOf = Array.from(p, (time) => lossWeight(input.schedule, input.weighting, time));
  const share = 1 / (masked * repeats * parts);
  const weights = new Float32Array(repeats * rows.length);
  for (let repeat = 0; repeat < repeats; repeat++) {
    rows.forEach((at, i) => {
      weights[repeat * rows.length + i] = mask[at] ? weightOf[Math.floor(at / tokens)] * share : 0;
    });
  }
  const decoderRow = (at: number) => Math.floor(at / tokens) * (buffer + tokens) + buffer + (at % tokens);
  return {
    shape: { images, visible: seen[0].length, rows: rows.length, repeats },
    classRows: Uint32Array.from(labels, (label, i) => (dropped[i] ? 0 : 1 + label)),
    tokenRows: Uint32Array.from(seen.flatMap((positions, b) => positions.map((i) => b * tokens + i))),
    visible: Uint32Array.from(seen.flat()),
    slot,
    place: mae ? slot : slot.map((_, at) => buffer + (at % tokens)),
    decoderRows: Uint32Array.from(rows, decoderRow),
    positions: Uint32Array.from(rows, (at) => at % tokens),
    targets: Uint32Array.from(rows),
    rowOfDecoder,
    rowOfToken,
    weights,
  };
}
