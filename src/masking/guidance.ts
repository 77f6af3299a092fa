/**
 * Classifier-free guidance over the sampling steps: scale as a function of the revealed fraction, and the
 * time interval outside of which the unconditional half is not computed (eMIGM, arXiv 2503.07197).
 */
import { EmigmError } from '../errors.ts';
import { named } from './named.ts';

export interface GuidanceSchedule {
  /** Share of (cfg - 1) applied when the fraction `revealed` of the tokens is known; float32 arithmetic. */
  share(revealed: number): number;
  doc: string;
}

const { fround } = Math;

/** All guidance schedules: scale = 1 + (cfg - 1) * share(revealed fraction after the step). */
export const guidanceSchedules: Record<string, GuidanceSchedule> = {
  constant: { share: () => 1, doc: 'cfg' },
  linear: { share: (x) => x, doc: '1 + (cfg - 1) x' },
  power: { share: (x) => fround(x * x), doc: '1 + (cfg - 1) x^2' },
  cubic: { share: (x) => fround(fround(x * x) * x), doc: '1 + (cfg - 1) x^3' },
  exp: { share: (x) => fround(1 - fround(Math.exp(fround(-5 * x)))), doc: '1 + (cfg - 1) (1 - exp(-5 x))' },
  cosine: {
    share: (x) => fround(Math.cos(fround(fround(Math.PI / 2) * fround(1 - x)))),
    doc: '1 + (cfg - 1) cos(pi/2 (1 - x))',
  },
};

export interface Guidance {
  /** Scale: eps_uncond + scale * (eps_cond - eps_uncond); 1 is no guidance. */
  cfg: number;
  /** A name of `guidanceSchedules`; default constant. */
  schedule?: string;
  /** [tMin, tMax]: guided while tMin < s <= tMax; default the whole of (0, 1]. */
  interval?: readonly [number, number];
}

/** What guidance does in one step. */
export interface StepGuidance {
  /** s lies in the interval. */
  inInterval: boolean;
  /** The scale, float32; 1 outside of the interval. */
  scale: number;
  /** The unconditional half is needed. A scale that rounds to exactly 1 needs none. */
  guided: boolean;
}

/** @throws EmigmError('input') for a scale, schedule or interval that cannot be used */
export function checkGuidance({ cfg, schedule = 'constant', interval = [0, 1] }: Guidance): void {
  if (!Number.isFinite(cfg)) throw new EmigmError('input', `guidance scale must be a finite number, not ${cfg}`);
  named(guidanceSchedules, schedule, 'guidance schedule');
  const [low, high] = interval;
  if (!(low >= 0 && high <= 1)) {
    throw new EmigmError('input', `guidance interval ${low},${high} leaves [0, 1]; give two times between 0 and 1`);
  }
  if (low > high) throw new EmigmError('input', `guidance interval ${low},${high} is reversed; give ${high},${low}`);
}

/** Whether s = times[i + 1] lies in (tMin, tMax], compared in float32. */
export function inGuidanceInterval(s: number, [low, high]: readonly [number, number] = [0, 1]): boolean {
  return s <= fround(high) && s > fround(low);
}

/**
 * Guidance of one step.
 * @param s time at the end of the step, times[i + 1]
 * @param revealedAfter tokens of an image known after the step
 */
export function stepGuidance(guidance: Guidance, s: number, revealedAfter: number, seqLen: number): StepGuidance {
  const { cfg, schedule = 'constant', interval } = guidance;
  if (!inGuidanceInterval(s, interval)) return { inInterval: false, scale: 1, guided: false };
  const share = guidanceSchedules[schedule].share(fround(revealedAfter / seqLen));
  const scale = schedule === 'constant' ? fround(cfg) : fround(1 + fround(fround(cfg - 1) * share));
  return { inInterval: true, scale, guided: scale !== 1 };
}

/** Number of function evaluations of the network an image: one a step, one more where the step is guided. */
export function nfe(steps: readonly { guided: boolean }[]): number {
  return steps.reduce((sum, { guided }) => sum + (guided ? 2 : 1), 0);
}

/**
 * NFE of a setting as it is published, before anything is drawn: every step is run, and is guided when its s
 * lies in the interval. (A run may need fewer: it stops when all tokens are known.)
 */
export function plannedNfe(times: Float32Array, { cfg, interval }: Guidance): number {
  const ends = Array.from(times.subarray(1), (s) => ({ guided: cfg !== 1 && inGuidanceInterval(s, interval) }));
  return nfe(ends);
}
