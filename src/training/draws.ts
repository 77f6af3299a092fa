/** Random draws of a training step: pure functions of (seed, step, micro-batch), so that a resumed run repeats them. */
import { DIFFUSION_STEPS } from '../diffusion/betas.ts';
import { drawMasks } from '../masking/axes.ts';
import type { Draws } from '../masking/draws.ts';
import type { RandomMask } from '../masking/random_masking.ts';
import { CounterRandom, STREAMS } from '../random.ts';
import type { Hyperparameters } from './settings.ts';

/** Draws in sequence from one stream. */
export class SequentialDraws implements Draws {
  private readonly random: CounterRandom;
  private drawn = 0;

  constructor(seed: number | bigint, stream: number, step: number) {
    this.random = new CounterRandom(seed, stream, step);
  }

  rand(n: number): Float32Array {
    const values = new Float32Array(n);
    // 24 bits: a float32 below 1.
    for (let i = 0; i < n; i++) values[i] = (this.random.words(this.drawn++, 0)[0] >>> 8) / 2 ** 24;
    return values;
  }

  randperm(n: number): Int32Array {
    return this.random.permutation(n, this.drawn++, 1);
  }

  randint(n: number): number {
    return this.random.integer(n, this.drawn++, 2);
  }
}

/** What is random in a micro-batch but for noise and dropout, which the device draws. */
export interface MicroBatchDraws extends RandomMask {
  /** [images], 1 = the label is replaced by the unconditional input. */
  dropped: Uint8Array;
  /** [rows] diffusion times 0..999 for each repeat of each masked token, repeat after repeat. */
  times(rows: number): Uint32Array;
}

/** Draws for micro-batch number `index` of the run; the masks as the axes say. */
export function drawMicroBatch(
  settings: Pick<Hyperparameters, 'seed' | 'axes' | 'labelDrop'>,
  { images, tokens, mae }: { images: number; tokens: number; mae: boolean },
  index: number,
): MicroBatchDraws {
  const { seed, axes, labelDrop } = settings;
  const masks = drawMasks(
    new SequentialDraws(seed, STREAMS.trainMask, index),
    { ...axes, network: mae ? 'mae' : 'single' },
    { batch: images, seqLen: tokens },
  );
  const labels = new CounterRandom(seed, STREAMS.labelDrop, index);
  const dropped = Uint8Array.from({ length: images }, (_, i) => (labels.uniform(i, 0) < labelDrop ? 1 : 0));
  const noise = new CounterRandom(seed, STREAMS.trainNoise, index);
  return {
    ...masks,
    dropped,
    times: (rows) => Uint32Array.from({ length: rows }, (_, i) => noise.integer(DIFFUSION_STEPS, i, 0xffffffff)),
  };
}
