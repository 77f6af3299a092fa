/** Host plan of DDPM sampling with a learned-range variance: the scalars of every step, in float64. */
import { spacedDiffusion } from './respacing.ts';

/**
 * One step, for the update (Ho et al., arXiv 2006.11239, eq. 7 and 15; Nichol and Dhariwal, arXiv 2102.09672,
 * eq. 15), with eps and v the two halves of the head's output:
 *   x0 = sqrtRecipAlphaBar * x - sqrtRecipm1AlphaBar * eps
 *   logVariance = f * maxLog + (1 - f) * minLog,  f = (v + 1) / 2
 *   x' = meanCoef1 * x0 + meanCoef2 * x + nonzero * exp(logVariance / 2) * temperature * noise
 * Guided, eps is guided and v is that of the conditional half.
 */
export interface DdpmStep {
  /** The t given to the network. */
  netT: number;
  sqrtRecipAlphaBar: number;
  sqrtRecipm1AlphaBar: number;
  meanCoef1: number;
  meanCoef2: number;
  /** Clipped posterior log variance. */
  minLog: number;
  /** Logarithm of the (respaced) beta. */
  maxLog: number;
  /** 0 in the last step, which adds no noise; else 1. */
  nonzero: 0 | 1;
}

/**
 * All steps in the order in which they run, from the noisiest.
 * @param respacing as `spacedTimesteps` takes it
 * @throws EmigmError('input') when the respacing cannot be met
 */
export function ddpmPlan(respacing: string): DdpmStep[] {
  const tables = spacedDiffusion(respacing);
  const steps = Array.from(
    tables.timestepMap,
    (netT, i): DdpmStep => ({
      netT,
      sqrtRecipAlphaBar: tables.sqrtRecipAlphasCumprod[i],
      sqrtRecipm1AlphaBar: tables.sqrtRecipm1AlphasCumprod[i],
      meanCoef1: tables.posteriorMeanCoef1[i],
      meanCoef2: tables.posteriorMeanCoef2[i],
      minLog: tables.posteriorLogVarianceClipped[i],
      maxLog: Math.log(tables.betas[i]),
      nonzero: i === 0 ? 0 : 1,
    }),
  );
  return steps.reverse();
}
