/** The variational term of the head's loss as the official code writes it, in float64. */
import { cosineBetas, diffusionTables } from '../../src/diffusion/betas.ts';

const tables = diffusionTables(cosineBetas());

/** guided-diffusion's approx_standard_normal_cdf; 0.5 (1 + tanh(u)) written so that small values keep their digits. */
const normalCdf = (x: number) => 1 / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

/** guided-diffusion's discretized_gaussian_log_likelihood; differences are taken in the tail where they keep digits. */
function logLikelihood(x: number, mean: number, logScale: number): number {
  const plus = Math.exp(-logScale) * (x - mean + 1 / 255);
  const minus = Math.exp(-logScale) * (x - mean - 1 / 255);
  const between = plus + minus > 0 ? normalCdf(-minus) - normalCdf(-plus) : normalCdf(plus) - normalCdf(minus);
  const probability = x < -0.999 ? normalCdf(plus) : x > 0.999 ? normalCdf(-minus) : between;
  return Math.log(Math.max(probability, 1e-12));
}

/**
 * One channel's variational term in bits (guided-diffusion's _vb_terms_bpd with a learned range): the KL divergence of
 * the model's posterior from the true one, at t = 0 the negative log-likelihood.
 */
export function variationalBits({
  eps,
  v,
  noise,
  x0,
  t,
}: {
  eps: number;
  v: number;
  noise: number;
  x0: number;
  t: number;
}): number {
  const xT = tables.sqrtAlphasCumprod[t] * x0 + tables.sqrtOneMinusAlphasCumprod[t] * noise;
  const mean = (clean: number) => tables.posteriorMeanCoef1[t] * clean + tables.posteriorMeanCoef2[t] * xT;
  const predicted = tables.sqrtRecipAlphasCumprod[t] * xT - tables.sqrtRecipm1AlphasCumprod[t] * eps;
  const fraction = (v + 1) / 2;
  const trueLog = tables.posteriorLogVarianceClipped[t];
  const modelLog = fraction * Math.log(tables.betas[t]) + (1 - fraction) * trueLog;
  if (t === 0) return -logLikelihood(x0, mean(predicted), 0.5 * modelLog) / Math.LN2;
  const divergence =
    -1 + modelLog - trueLog + Math.exp(trueLog - modelLog) + (mean(x0) - mean(predicted)) ** 2 * Math.exp(-modelLog);
  return (0.5 * divergence) / Math.LN2;
}
