/** Weightings w(t) of the loss (eMIGM, arXiv 2503.07197, section 3.2). They follow from the schedule. */
import { named } from './named.ts';
import type { MaskSchedule } from './schedules.ts';

export interface Weighting {
  /** w(t) at t in (0, 1]. */
  weight(schedule: MaskSchedule, t: number): number;
  doc: string;
}

/** All weightings by the names that configurations and checkpoints use. */
export const lossWeightings = {
  uniform: { weight: () => 1, doc: 'w(t) = 1, as MaskGIT, MAR and eMIGM' },
  elbo: {
    weight: ({ gamma, gammaDerivative }, t) => gammaDerivative(t) / gamma(t),
    doc: "w(t) = gamma'(t) / gamma(t): the loss bounds the negative log-likelihood (masked diffusion)",
  },
} as const satisfies Record<string, Weighting>;

export type LossWeighting = keyof typeof lossWeightings;

/** @throws EmigmError('input') for an unknown name */
export function lossWeighting(name: string): Weighting {
  return named<Weighting>(lossWeightings, name, 'loss weighting');
}
