/**
 * Counter-based random numbers: Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw, "Parallel
 * Random Numbers: As Easy as 1, 2, 3", SC 2011). A number is a pure function of (seed, stream, counters),
 * so what is drawn for one image does not depend on the batch, the order of work or the machine.
 * The GPU kernels compute the same function; `normalNoise` is their float64 oracle.
 */
import { EmigmError } from './errors.ts';

/** Two 32-bit words, each an unsigned integer held in a number. */
export type Words = readonly [number, number];

/** What a stream of random numbers is for. Never renumber: saved seeds depend on the values. */
export const STREAMS = {
  /** How many tokens each sampling step reveals; counters (position). */
  revealCount: 1,
  /** The order in which an image's tokens are revealed; counters (image). */
  revealOrder: 2,
  /** Gaussian noise of the diffusion head; headStep 0 is the initial noise, k the noise of its k-th step. */
  headNoise: 3,
  /** Training: the time and mask of a micro-batch. */
  trainMask: 4,
  /** Training: diffusion time and noise of the head's loss. */
  trainNoise: 5,
  /** Training: dropout. */
  dropout: 6,
  /** Training: dropped labels. */
  labelDrop: 7,
  /** Training: order of the data, flips. */
  data: 8,
  /** Initial values of parameters. */
  initialization: 9,
  /** Samples of a tokenizer's posterior. */
  posterior: 10,
  /** Gumbel noise of sampled codes (draw 0) and of the confidence order (draw 1). */
  codes: 11,
  /** First codes of a codebook. */
  codebook: 12,
} as const;

const ROTATIONS = [13, 15, 26, 6, 17, 29, 16, 24];
const KEY_PARITY = 0x1bd11bda;

/** Threefry-2x32-20: encrypts `counter` under `key`. Checked against Random123's known answers. */
export function threefry(key: Words, counter: Words): Words {
  const schedule = [key[0], key[1], KEY_PARITY ^ key[0] ^ key[1]];
  let x0 = (counter[0] + key[0]) | 0;
  let x1 = (counter[1] + key[1]) | 0;
  for (let round = 0; round < 20; round++) {
    const rotation = ROTATIONS[round & 7];
    x0 = (x0 + x1) | 0;
    x1 = ((x1 << rotation) | (x1 >>> (32 - rotation))) ^ x0;
    if ((round & 3) === 3) {
      const injection = (round >> 2) + 1;
      x0 = (x0 + schedule[injection % 3]) | 0;
      x1 = (x1 + schedule[(injection + 1) % 3] + injection) | 0;
    }
  }
  return [x0 >>> 0, x1 >>> 0];
}

/**
 * The key of a seed: its low and high 32 bits.
 * @param seed integer in [0, 2^53] as a number, or in [0, 2^64) as a bigint
 * @throws EmigmError('input') otherwise
 */
export function seedKey(seed: number | bigint): Words {
  const valid = typeof seed === 'bigint' ? seed >= 0n && seed < 1n << 64n : Number.isSafeInteger(seed) && seed >= 0;
  if (!valid) {
    throw new EmigmError(
      'input',
      `seed ${seed} is not an integer from 0 to 2^64 - 1; give one (above 2^53 as a bigint)`,
    );
  }
  const bits = BigInt(seed);
  return [Number(bits & 0xffffffffn), Number(bits >> 32n)];
}

/** The key of one stream at one step: what kernels that draw noise receive. */
export function streamKey(seed: number | bigint, stream: number, step = 0): Words {
  return threefry(seedKey(seed), [stream >>> 0, step >>> 0]);
}

/** 24 bits of a word as a uniform number strictly inside (0, 1), so that its logarithm is finite. */
function openUniform(word: number): number {
  return ((word >>> 8) + 0.5) / 2 ** 24;
}

/** Two independent standard normals of two words (Box and Muller 1958), in float64. */
function boxMuller([first, second]: Words): [number, number] {
  const radius = Math.sqrt(-2 * Math.log(openUniform(first)));
  const angle = 2 * Math.PI * openUniform(second);
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
}

/**
 * Random numbers keyed by (seed, stream, step). Counters are folded in pairs, each pair encrypted under
 * the key that the pairs before it made; a missing counter is 0. Use one number of counters within a stream:
 * words drawn with few counters are the keys of those drawn with more.
 */
export class CounterRandom {
  readonly key: Words;

  constructor(seed: number | bigint, stream: number, step = 0) {
    this.key = streamKey(seed, stream, step);
  }

  /** 64 random bits for these counters (unsigned 32-bit integers). */
  words(...counters: number[]): Words {
    let words = this.key;
    for (let i = 0; i < Math.max(1, counters.length); i += 2) {
      words = threefry(words, [(counters[i] ?? 0) >>> 0, (counters[i + 1] ?? 0) >>> 0]);
    }
    return words;
  }

  /** Uniform in [0, 1), 53 bits. */
  uniform(...counters: number[]): number {
    const [high, low] = this.words(...counters);
    return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53;
  }

  /** Standard normal (the first of the Box-Muller pair). */
  normal(...counters: number[]): number {
    return boxMuller(this.words(...counters))[0];
  }

  /** Uniform integer in [0, bound), without bias, for 1 <= bound <= 2^32. */
  integer(bound: number, ...counters: number[]): number {
    return wordSource(this.words(...counters))(bound);
  }

  /** A uniformly random order of 0..n-1 (Fisher and Yates; bounded integers by rejection, hence unbiased). */
  permutation(n: number, ...counters: number[]): Int32Array {
    const order = Int32Array.from({ length: n }, (_, i) => i);
    const below = wordSource(this.words(...counters));
    for (let i = n - 1; i > 0; i--) {
      const j = below(i + 1);
      const kept = order[i];
      order[i] = order[j];
      order[j] = kept;
    }
    return order;
  }
}

/** Unbiased bounded integers from the words of one key, in sequence. */
function wordSource(key: Words): (bound: number) => number {
  let counter = 0;
  let spare: number | undefined;
  const next = () => {
    if (spare !== undefined) {
      const word = spare;
      spare = undefined;
      return word;
    }
    const [first, second] = threefry(key, [counter++, 0]);
    spare = second;
    return first;
  };
  return (bound) => {
    const limit = 2 ** 32 - (2 ** 32 % bound);
    let word = next();
    while (word >= limit) word = next();
    return word % bound;
  };
}

/**
 * Standard normal noise of one token, as the GPU kernel makes it but in float64:
 * key0 = threefry(seed, (stream, step)), row = threefry(key0, (image, position)),
 * words = threefry(row, (headStep, p)), elements 2p and 2p+1 = Box-Muller of the words.
 * @param channels length of the result; the last half pair of an odd length is dropped
 */
export function normalNoise(
  seed: number | bigint,
  stream: number,
  step: number,
  image: number,
  position: number,
  headStep: number,
  channels: number,
): Float64Array {
  const row = threefry(streamKey(seed, stream, step), [image >>> 0, position >>> 0]);
  const noise = new Float64Array(channels);
  for (let pair = 0; 2 * pair < channels; pair++) {
    const [cosine, sine] = boxMuller(threefry(row, [headStep >>> 0, pair]));
    noise[2 * pair] = cosine;
    if (2 * pair + 1 < channels) noise[2 * pair + 1] = sine;
  }
  return noise;
}

/** Standard Gumbel noise of a word, -log(-log(1 - u)) with u = (word + 0.5) / 2^32, in float64. */
export function gumbel(word: number): number {
  return -Math.log(-Math.log1p(-(word + 0.5) / 2 ** 32));
}

/**
 * Standard Gumbel noise of one token, as the GPU kernel makes it but in float64: the row's key as in `normalNoise`,
 * words = threefry(row, (draw, p)), elements 2p and 2p+1 = `gumbel` of the words.
 */
export function gumbelNoise(
  seed: number | bigint,
  stream: number,
  step: number,
  image: number,
  position: number,
  draw: number,
  count: number,
): Float64Array {
  const row = threefry(streamKey(seed, stream, step), [image >>> 0, position >>> 0]);
  const noise = new Float64Array(count);
  for (let pair = 0; 2 * pair < count; pair++) {
    const words = threefry(row, [draw >>> 0, pair]);
    noise[2 * pair] = gumbel(words[0]);
    if (2 * pair + 1 < count) noise[2 * pair + 1] = gumbel(words[1]);
  }
  return noise;
}
