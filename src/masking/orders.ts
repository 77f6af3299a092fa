/** Orders in which the tokens of an image are revealed. An order is a permutation of 0..seqLen-1 (row-major). */
import { EmigmError } from '../errors.ts';
import { CounterRandom, STREAMS } from '../random.ts';

export interface RevealOrderOptions {
  seed: number | bigint;
  seqLen: number;
  /** Tokens in a row of the grid. */
  gridWidth: number;
}

export interface RevealOrder {
  /** The order of one image; depends on the seed and this index alone. */
  order(options: RevealOrderOptions, imageIndex: number): Int32Array;
  doc: string;
}

/** All reveal orders by name. */
export const revealOrders = {
  random: {
    order: ({ seed, seqLen }, imageIndex) => orderRandom(seed).permutation(seqLen, imageIndex),
    doc: 'uniformly random, as the official sampler',
  },
  halton: {
    order: (options) => haltonOrder(options.seqLen, options.gridWidth),
    doc: 'the Halton sequence: early tokens lie far apart',
  },
  checkerboard: {
    order: ({ seed, seqLen, gridWidth }, imageIndex) => {
      const parity = (token: number) => (Math.floor(token / gridWidth) + (token % gridWidth)) & 1;
      const random = orderRandom(seed).permutation(seqLen, imageIndex);
      return Int32Array.from([...random.filter((x) => parity(x) === 0), ...random.filter((x) => parity(x) === 1)]);
    },
    doc: 'the even cells of a checkerboard in random order, then the odd ones',
  },
} satisfies Record<string, RevealOrder>;

export type RevealOrderName = keyof typeof revealOrders;

function orderRandom(seed: number | bigint): CounterRandom {
  return new CounterRandom(seed, STREAMS.revealOrder);
}

/** The i-th term (i >= 1) of the van der Corput sequence: the digits of i mirrored at the radix point. */
function radicalInverse(i: number, base: number): number {
  let [value, scale] = [0, 1];
  for (let rest = i; rest > 0; rest = Math.floor(rest / base)) {
    scale /= base;
    value += scale * (rest % base);
  }
  return value;
}

/**
 * Halton order of a token grid: cells in the order in which the two-dimensional Halton sequence (base 2 along a
 * row, base 3 down the rows) first meets them (Besnier et al., "Halton Scheduler for Masked Generative Image
 * Transformer", ICLR 2025, arXiv 2503.17076). The same for every image and seed.
 */
export function haltonOrder(seqLen: number, gridWidth: number): Int32Array {
  const gridHeight = seqLen / gridWidth;
  if (!Number.isInteger(gridHeight)) {
    throw new EmigmError('input', `${seqLen} tokens do not fill rows of ${gridWidth}; give the width of the grid`);
  }
  const met = new Set<number>();
  for (let i = 1; met.size < seqLen; i++) {
    const column = Math.floor(radicalInverse(i, 2) * gridWidth);
    const row = Math.floor(radicalInverse(i, 3) * gridHeight);
    met.add(row * gridWidth + column);
  }
  return Int32Array.from(met);
}
