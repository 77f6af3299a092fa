/**
 * Host plan of DPM-Solver++, singlestep, order at most 3 (Lu et al., arXiv 2211.01095): every scalar in float64,
 * so that the GPU runs one small update for each evaluation of the network.
 *
 * The variance-preserving process of the cosine betas has alpha(t)^2 + sigma(t)^2 = 1 and half log-SNR
 * lambda(t) = log(alpha/sigma); continuous t in (0, 1] interpolates log alpha linearly between the discrete steps.
 */
import { EmigmError } from '../errors.ts';
import { cosineBetas } from './betas.ts';

/** Steps noisier than this half log-SNR are cut off: alpha is too small there to divide by. */
const CLIPPED_LAMBDA = -5.1;

/** The discrete cosine schedule made continuous. */
export interface NoiseSchedule {
  /** [n] log alpha of the discrete steps that are kept; step i stands at time (i + 1) / n. */
  logAlphas: Float64Array;
  /** log alpha(t); the outermost segments extend beyond the first and last step. */
  logAlpha(t: number): number;
  alpha(t: number): number;
  sigma(t: number): number;
  lambda(t: number): number;
  /** The t whose half log-SNR is lambda. */
  inverseLambda(lambda: number): number;
}

const sigmaOf = (logAlpha: number) => Math.sqrt(-Math.expm1(2 * logAlpha));
const lambdaOf = (logAlpha: number) => logAlpha - 0.5 * Math.log(-Math.expm1(2 * logAlpha));
/** log alpha of a half log-SNR: -log(1 + exp(-2 lambda)) / 2, without overflow. */
const logAlphaOf = (lambda: number) => Math.min(lambda, 0) - 0.5 * Math.log1p(Math.exp(-2 * Math.abs(lambda)));

/** The schedule of the given betas, by default the 1000 cosine betas (which leave 996 steps). */
export function noiseSchedule(betas: Float64Array = cosineBetas()): NoiseSchedule {
  let sum = 0;
  const all = betas.map((beta) => 0.5 * (sum += Math.log(1 - beta)));
  const logAlphas = all.filter((logAlpha) => lambdaOf(logAlpha) >= CLIPPED_LAMBDA);
  const total = logAlphas.length;
  const logAlpha = (t: number) => {
    const left = Math.min(Math.max(Math.floor(t * total) - 1, 0), total - 2);
    return logAlphas[left] + (t * total - (left + 1)) * (logAlphas[left + 1] - logAlphas[left]);
  };
  const inverseLambda = (lambda: number) => {
    const target = logAlphaOf(lambda);
    // log alpha falls with i: the segment is found by bisection.
    let left = 0;
    for (let right = total - 1; right - left > 1; ) {
      const middle = (left + right) >> 1;
      if (logAlphas[middle] >= target) left = middle;
      else right = middle;
    }
    const fraction = (target - logAlphas[left]) / (logAlphas[left + 1] - logAlphas[left]);
    return (left + 1 + fraction) / total;
  };
  return {
    logAlphas,
    logAlpha,
    alpha: (t) => Math.exp(logAlpha(t)),
    sigma: (t) => sigmaOf(logAlpha(t)),
    lambda: (t) => lambdaOf(logAlpha(t)),
    inverseLambda,
  };
}

/**
 * Orders of the outer steps that spend exactly `evaluations` evaluations: threes, and what is left
 * ("DPM-Solver-fast" of Lu et al., arXiv 2206.00927; 8 = 3,3,2 and 9 = 3,3,2,1).
 */
export function solverOrders(evaluations: number): number[] {
  if (!Number.isSafeInteger(evaluations) || evaluations < 1) {
    throw new EmigmError('input', `DPM-Solver steps must be a positive integer, not ${evaluations}`);
  }
  const outer = Math.floor(evaluations / 3) + 1;
  const tail = [[2, 1], [1], [2]][evaluations % 3];
  return [...new Array(outer - tail.length).fill(3), ...tail];
}

/** Times of the outer steps, from 1 to 1/n, uniform in lambda: one more than there are outer steps. */
export function outerTimes(evaluations: number, schedule: NoiseSchedule = noiseSchedule()): Float64Array {
  const outer = solverOrders(evaluations).length;
  const [first, last] = [schedule.lambda(1), schedule.lambda(1 / schedule.logAlphas.length)];
  return Float64Array.from({ length: outer + 1 }, (_, i) =>
    schedule.inverseLambda(first + ((last - first) * i) / outer),
  );
}

/**
 * One evaluation of the network and the update that follows it, with eps the (guided) noise prediction:
 *   m = (x - sigma * eps) / alpha
 *   if first: xBase = x, mBase = m
 *   x' = a * xBase + b * mBase + c * m
 */
export interface SolverEvaluation {
  /** Continuous time in (0, 1], and what the network is given: (t - 1/n) * 1000, fractional. */
  t: number;
  netT: number;
  /** alpha and sigma at t. */
  alpha: number;
  sigma: number;
  /** This evaluation begins an outer step. */
  first: boolean;
  a: number;
  b: number;
  c: number;
}

/**
 * All evaluations of a run, `evaluations` of them (twice as many rows where guided). No final denoising.
 * An outer step from s to t, h = lambda_t - lambda_s (arXiv 2211.01095, Algorithm 1 for order 2;
 * order 3 is DPM-Solver-3 of arXiv 2206.00927, Algorithm 2, for the data prediction m), with
 * E(r) = alpha(s_r) (1 - exp(-r h)), s_r the time at lambda_s + r h:
 *   order 1: x_t = sigma_t/sigma_s x + E(1) m_s
 *   order 2, r = 1/2: x_t = sigma_t/sigma_s x + E(1) m_s + E(1)/(2r) (m_r - m_s)
 *   order 3, r = 1/3 then 2/3: the last update has alpha_t phi_2 / r (m_r - m_s), phi_2 = expm1(-h)/h + 1
 * @throws EmigmError('input') when evaluations is not a positive integer
 */
export function dpmSolverPlan(evaluations: number, schedule: NoiseSchedule = noiseSchedule()): SolverEvaluation[] {
  const total = schedule.logAlphas.length;
  const times = outerTimes(evaluations, schedule);
  return solverOrders(evaluations).flatMap((order, step) => {
    const [start, end] = [times[step], times[step + 1]];
    const lambdaStart = schedule.lambda(start);
    const h = schedule.lambda(end) - lambdaStart;
    // Points at which the network is evaluated; the update of evaluation i leads to point i + 1, or to the end.
    const points = Array.from({ length: order }, (_, i) =>
      i === 0 ? start : schedule.inverseLambda(lambdaStart + (i / order) * h),
    );
    return points.map((t, i): SolverEvaluation => {
      const ratio = (i + 1) / order;
      const target = points[i + 1] ?? end;
      const alphaTarget = schedule.alpha(target);
      const base = -alphaTarget * Math.expm1(-ratio * h);
      const correction = i === 0 ? base : alphaTarget * slope(order, i, h);
      return {
        t,
        netT: (t - 1 / total) * 1000,
        alpha: schedule.alpha(t),
        sigma: schedule.sigma(t),
        first: i === 0,
        a: schedule.sigma(target) / schedule.sigma(start),
        b: i === 0 ? 0 : base - correction,
        c: correction,
      };
    });
  });
}

/** Factor of alpha (m_current - m_base) in the update after evaluation i >= 1 of an outer step of this order. */
function slope(order: number, i: number, h: number): number {
  if (order === 2) return -Math.expm1(-h);
  const phi2 = (x: number) => Math.expm1(-x) / x + 1;
  return i === 1 ? 2 * phi2((2 / 3) * h) : 1.5 * phi2(h);
}
