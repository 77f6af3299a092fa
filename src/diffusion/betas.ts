/** The noise schedule of the diffusion head: cosine betas and what follows from them, in float64. */
import { EmigmError } from '../errors.ts';

/** Diffusion steps of training; respacing takes some of them for sampling. */
export const DIFFUSION_STEPS = 1000;

/**
 * Cosine betas (Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", arXiv 2102.09672,
 * eq. 17): beta_i = min(1 - f((i+1)/T)/f(i/T), 0.999), f(t) = cos^2(pi/2 (t + 0.008)/1.008).
 */
export function cosineBetas(steps = DIFFUSION_STEPS): Float64Array {
  const alphaBar = (t: number) => Math.cos((((t + 0.008) / 1.008) * Math.PI) / 2) ** 2;
  return Float64Array.from({ length: steps }, (_, i) =>
    Math.min(1 - alphaBar((i + 1) / steps) / alphaBar(i / steps), 0.999),
  );
}

/** Products alpha_0 ... alpha_i of alpha = 1 - beta. */
export function cumulativeAlphas(betas: Float64Array): Float64Array {
  let product = 1;
  return betas.map((beta) => (product *= 1 - beta));
}

/** Per-step tables of a diffusion process, each of length `betas.length`. */
export interface DiffusionTables {
  betas: Float64Array;
  /** alpha-bar of step i, and of step i-1 (1 for i = 0). */
  alphasCumprod: Float64Array;
  alphasCumprodPrev: Float64Array;
  sqrtAlphasCumprod: Float64Array;
  sqrtOneMinusAlphasCumprod: Float64Array;
  logOneMinusAlphasCumprod: Float64Array;
  /** x0 = sqrtRecipAlphasCumprod * x - sqrtRecipm1AlphasCumprod * eps. */
  sqrtRecipAlphasCumprod: Float64Array;
  sqrtRecipm1AlphasCumprod: Float64Array;
  /** Posterior q(x_{i-1} | x_i, x0): mean = coef1 * x0 + coef2 * x; its variance is 0 at step 0. */
  posteriorVariance: Float64Array;
  /** Logarithm of it, step 0 taking the value of step 1. */
  posteriorLogVarianceClipped: Float64Array;
  posteriorMeanCoef1: Float64Array;
  posteriorMeanCoef2: Float64Array;
}

/**
 * Tables of the process with these betas (Ho et al., arXiv 2006.11239, eq. 4, 6, 7, 15).
 * With a single step the clipped log variance, which nothing uses, is log beta.
 * @throws EmigmError('input') when a beta is outside (0, 1]
 */
export function diffusionTables(betas: Float64Array): DiffusionTables {
  if (betas.length === 0 || !betas.every((beta) => beta > 0 && beta <= 1)) {
    throw new EmigmError('input', 'diffusion betas must be one or more numbers in (0, 1]');
  }
  const bar = cumulativeAlphas(betas);
  const previous = bar.map((_, i) => (i === 0 ? 1 : bar[i - 1]));
  const variance = betas.map((beta, i) => (beta * (1 - previous[i])) / (1 - bar[i]));
  return {
    betas,
    alphasCumprod: bar,
    alphasCumprodPrev: previous,
    sqrtAlphasCumprod: bar.map(Math.sqrt),
    sqrtOneMinusAlphasCumprod: bar.map((a) => Math.sqrt(1 - a)),
    logOneMinusAlphasCumprod: bar.map((a) => Math.log(1 - a)),
    sqrtRecipAlphasCumprod: bar.map((a) => Math.sqrt(1 / a)),
    sqrtRecipm1AlphasCumprod: bar.map((a) => Math.sqrt(1 / a - 1)),
    posteriorVariance: variance,
    posteriorLogVarianceClipped: variance.map((_, i) =>
      Math.log(betas.length === 1 ? betas[0] : variance[Math.max(i, 1)]),
    ),
    posteriorMeanCoef1: betas.map((beta, i) => (beta * Math.sqrt(previous[i])) / (1 - bar[i])),
    posteriorMeanCoef2: betas.map((beta, i) => ((1 - previous[i]) * Math.sqrt(1 - beta)) / (1 - bar[i])),
  };
}
