/**
 * Mask schedules: the probability gamma(t) that a token is masked at time t, gamma(0) = 0, gamma(1) = 1
 * (eMIGM, arXiv 2503.07197). A schedule is one entry of
 * `maskSchedules`; weighting and reveal probability follow from it.
 */
import { EmigmError } from '../errors.ts';
import { truncatedNormalDensity, truncatedNormalQuantile } from './truncated_normal.ts';
import { type LossWeighting, lossWeighting } from './weightings.ts';

export type { LossWeighting } from './weightings.ts';

/** Applied after every operation: Math.fround follows float32 arithmetic, the identity float64. */
export type Rounding = (x: number) => number;

const exact: Rounding = (x) => x;

export interface MaskSchedule {
  /** Mask ratio at t in [0, 1]; `round`, applied after each operation, lets it follow float32 arithmetic. */
  gamma(t: number, round?: Rounding): number;
  /** d gamma / dt in float64. */
  gammaDerivative(t: number): number;
  /** gamma(s) / gamma(t), where the reference sampler cancels a factor first; by default the plain quotient. */
  gammaRatio?(s: number, t: number, round: Rounding): number;
  /** The formula, for people. */
  doc: string;
  /** Other names under which the schedule is found. */
  aliases?: readonly string[];
  /** gamma(0) is not 0: it gives masks to train on, and no way from all-masked to none. */
  trainingOnly?: boolean;
}

const logGrowth = (t: number, round: Rounding) => round(Math.log(round(1 + round(round(Math.exp(5) - 1) * t))));

/** All schedules from 0 to 1, by the names that configurations and checkpoints use. */
export const maskSchedules: Record<string, MaskSchedule> = {
  linear: {
    gamma: (t) => t,
    gammaDerivative: () => 1,
    doc: 'gamma(t) = t',
  },
  cosine: {
    gamma: (t, round = exact) => round(Math.cos(round(round(Math.PI / 2) * round(1 - t)))),
    gammaDerivative: (t) => (Math.PI / 2) * Math.sin((Math.PI / 2) * (1 - t)),
    doc: 'gamma(t) = cos(pi/2 (1 - t))',
  },
  exp: {
    gamma: (t, round = exact) => round(1 - round(Math.exp(round(-5 * t)))),
    gammaDerivative: (t) => 5 * Math.exp(-5 * t),
    doc: 'gamma(t) = 1 - exp(-5 t); gamma(1) = 0.9933',
    aliases: ['exponential'],
  },
  'poly-0.5': {
    gamma: (t, round = exact) => round(Math.sqrt(t)),
    gammaDerivative: (t) => 0.5 / Math.sqrt(t),
    doc: 'gamma(t) = t^0.5',
    aliases: ['poly', 'poly0.5', 'sqrt'],
  },
  log: {
    gamma: (t, round = exact) => round(logGrowth(t, round) / 5),
    gammaDerivative: (t) => Math.expm1(5) / (5 * (1 + Math.expm1(5) * t)),
    gammaRatio: (s, t, round) => round(logGrowth(s, round) / logGrowth(t, round)),
    doc: 'gamma(t) = ln(1 + (e^5 - 1) t) / 5',
    aliases: ['logarithmic'],
  },
};

/** All schedules that training can draw its mask ratios by. */
export const trainingSchedules: Record<string, MaskSchedule> = {
  ...maskSchedules,
  'truncated-normal': {
    gamma: (t, round = exact) => round(truncatedNormalQuantile(t)),
    gammaDerivative: (t) => 1 / truncatedNormalDensity(truncatedNormalQuantile(t)),
    doc: 'gamma(t) = the t-quantile of normal(1, 0.25) truncated to [0.7, 1]: at uniform t the mask ratio of MAR',
    trainingOnly: true,
  },
};

/**
 * The schedule of a name or alias (a schedule is passed through).
 * @throws EmigmError('input') for an unknown name
 */
export function maskSchedule(schedule: string | MaskSchedule): MaskSchedule {
  if (typeof schedule !== 'string') return schedule;
  if (Object.hasOwn(trainingSchedules, schedule)) return trainingSchedules[schedule];
  const found = Object.values(trainingSchedules).find((candidate) => candidate.aliases?.includes(schedule));
  if (found) return found;
  const names = Object.keys(trainingSchedules).join(', ');
  throw new EmigmError('input', `mask schedule "${schedule}" is unknown; choose one of ${names}`);
}

/**
 * The schedule of a name or alias, for generation.
 * @throws EmigmError('input') for an unknown name, and for a schedule that does not begin at 0
 */
export function samplingSchedule(schedule: string | MaskSchedule): MaskSchedule {
  const found = maskSchedule(schedule);
  if (!found.trainingOnly) return found;
  const name = typeof schedule === 'string' ? `"${schedule}"` : found.doc;
  const names = Object.keys(maskSchedules).join(', ');
  throw new EmigmError('input', `mask schedule ${name} serves training alone; choose one of ${names} for sampling`);
}

/**
 * w(t) of the loss at t in (0, 1]: see `lossWeightings`.
 * @throws EmigmError('input') for an unknown schedule or weighting
 */
export function lossWeight(schedule: string | MaskSchedule, weighting: LossWeighting, t: number): number {
  return lossWeighting(weighting).weight(maskSchedule(schedule), t);
}

// PyTorch fills float32 ranges in blocks of two 8-lane vectors; elsewhere one fused multiply-add an element.
const LANES = 8;

/**
 * Sampling times from 1 to 1e-5, length steps + 1: linspace(1, 1e-5, steps + 1) with the float32 rounding of
 * torch.linspace on x86 with AVX2 (the guidance interval is tested on these values, so the last bit counts).
 * @throws EmigmError('input') when steps is not a positive integer
 */
export function samplingTimes(steps: number): Float32Array {
  checkSteps(steps);
  const { fround } = Math;
  const count = steps + 1;
  const end = fround(1e-5);
  const step = fround(fround(end - 1) / steps);
  // Counted from the nearer end; a product of two float32 is exact in float64, so this is a fused multiply-add.
  const at = (i: number) => fround(i < Math.floor(count / 2) ? 1 + step * i : end - step * (steps - i));
  const times = Float32Array.from({ length: count }, (_, i) => at(i));
  for (let block = 0; block + 2 * LANES <= count; block += 2 * LANES) {
    for (let i = block; i < block + 2 * LANES; i++) {
      const lane = i % LANES;
      times[i] = fround(at(i - lane) + fround(step * lane));
    }
  }
  return times;
}

/**
 * Probability that a token masked at time t is revealed by time s < t: 1 - gamma(s) / gamma(t), in float32
 * arithmetic as the reference sampler has it (within one unit in the last place).
 */
export function revealProbability(schedule: string | MaskSchedule, t: number, s: number): number {
  const { fround } = Math;
  const { gamma, gammaRatio } = samplingSchedule(schedule);
  const ratio = gammaRatio ? gammaRatio(s, t, fround) : fround(gamma(s, fround) / gamma(t, fround));
  return fround(1 - ratio);
}

/**
 * Tokens that the steps reveal on average, [steps], of sum seqLen: N (gamma(t) - gamma(s)) / gamma(1) from t to s, and
 * in the last step all that are left. (Drawn counts are a trifle more at first: no step may be empty.)
 */
export function expectedReveals(schedule: string | MaskSchedule, steps: number, seqLen: number): Float64Array {
  const { gamma } = samplingSchedule(schedule);
  const masked = Array.from(samplingTimes(steps), (t, i) => (i === steps ? 0 : (seqLen * gamma(t)) / gamma(1)));
  return Float64Array.from({ length: steps }, (_, i) => masked[i] - masked[i + 1]);
}

/** @throws EmigmError('input') when the number of sampling steps is not a positive integer */
export function checkSteps(steps: number): void {
  if (!Number.isSafeInteger(steps) || steps < 1) {
    throw new EmigmError('input', `sampling steps must be a positive integer, not ${steps}`);
  }
}
