/**
 * Mask distributions: how the tokens to mask are drawn at a mask ratio gamma (eMIGM, arXiv 2503.07197, section 3.1).
 * Given the number of masked tokens, both are uniform over the sets of that size: they differ in that number alone.
 */
import type { Draws } from './draws.ts';
import { named } from './named.ts';

export interface MaskDistribution {
  /**
   * Masks of seqLen tokens for each mask ratio, row after row, 1 = masked.
   * @param exchangeable rows are permuted afterwards: any mask of the right count will do
   */
  draw(draws: Draws, seqLen: number, gammas: ArrayLike<number>, exchangeable: boolean): Float32Array;
  /** Masks with fewer masked tokens are drawn again where a micro-batch shares one. */
  fewest: number;
  /** How it is drawn, for people. */
  doc: string;
}

/** Tokens masked at a ratio when their number is fixed: ceil(gamma N), as MAR and MaskGIT round. */
export function maskedCount(gamma: number, seqLen: number): number {
  return Math.min(seqLen, Math.ceil(gamma * seqLen));
}

/** All mask distributions by the names that configurations and checkpoints use. */
export const maskDistributions = {
  independent: {
    draw: (draws, seqLen, gammas) =>
      draws.rand(gammas.length * seqLen).map((value, i) => (value < gammas[Math.floor(i / seqLen)] ? 1 : 0)),
    fewest: 2, // as the official code
    doc: 'each token by itself with probability gamma(t)',
  },
  'fixed-count': {
    draw: (draws, seqLen, gammas, exchangeable) => {
      const mask = new Float32Array(gammas.length * seqLen);
      for (let row = 0; row < gammas.length; row++) {
        const order = exchangeable ? undefined : draws.randperm(seqLen);
        const count = maskedCount(gammas[row], seqLen);
        for (let i = 0; i < count; i++) mask[row * seqLen + (order?.[i] ?? i)] = 1;
      }
      return mask;
    },
    fewest: 1,
    doc: 'exactly ceil(gamma(t) N) tokens, drawn without replacement',
  },
} as const satisfies Record<string, MaskDistribution>;

export type MaskDistributionName = keyof typeof maskDistributions;

/** @throws EmigmError('input') for an unknown name */
export function maskDistribution(name: string): MaskDistribution {
  return named<MaskDistribution>(maskDistributions, name, 'mask distribution');
}
