/**
 * Training masks with independent tokens: each is masked with probability gamma(p), p = 0.999 t + 0.001
 * (eMIGM, arXiv 2503.07197; float32 arithmetic and draws as in the official code).
 */
import { EmigmError } from '../errors.ts';
import type { Draws } from './draws.ts';
import { type MaskSchedule, maskSchedule } from './schedules.ts';

export interface RandomMaskingOptions {
  schedule: string | MaskSchedule;
  batch: number;
  seqLen: number;
}

export interface RandomMask {
  /** [batch * seqLen], 1 = masked. */
  mask: Float32Array;
  /** [batch] the time p of each row, from which the loss takes its weight. */
  p: Float32Array;
}

const { fround } = Math;
const EPSILON = 1e-3;

function maskTime(t: number): number {
  return fround(fround(fround(1 - EPSILON) * t) + fround(EPSILON));
}

function baseMask(values: Float32Array, schedule: MaskSchedule, p: number): Float32Array {
  const probability = schedule.gamma(p, fround);
  return values.map((value) => (value < probability ? 1 : 0));
}

/**
 * One time and one count for the whole micro-batch, so that the encoder's length is the same for all rows:
 * a mask is drawn (again, with a new time, while fewer than 2 tokens are masked) and permuted for each row.
 * Draws: rand(1), rand(seqLen), both repeated on a retry; then randperm(seqLen) for each row.
 * @param clampTMin times below it are raised to it
 * @throws EmigmError('input') when no mask could have 2 masked tokens
 */
export function randomMasking(draws: Draws, options: RandomMaskingOptions & { clampTMin?: number }): RandomMask {
  const { batch, seqLen, clampTMin = 0 } = options;
  if (seqLen < 2) throw new EmigmError('input', `masking needs at least 2 tokens, not ${seqLen}`);
  const schedule = maskSchedule(options.schedule);
  let p: number;
  let base: Float32Array;
  do {
    p = maskTime(Math.max(draws.rand(1)[0], fround(clampTMin)));
    base = baseMask(draws.rand(seqLen), schedule, p);
  } while (base.reduce((sum, masked) => sum + masked, 0) < 2);
  const mask = new Float32Array(batch * seqLen);
  for (let row = 0; row < batch; row++) {
    const order = draws.randperm(seqLen);
    for (let i = 0; i < seqLen; i++) mask[row * seqLen + i] = base[order[i]];
  }
  return { mask, p: new Float32Array(batch).fill(p) };
}

/**
 * A time and a mask for each row, for networks that see mask tokens and losses that are weighted. Nothing is
 * clamped or redrawn. Draws: rand(batch), rand(batch * seqLen).
 */
export function randomMaskingPerRow(draws: Draws, options: RandomMaskingOptions): RandomMask {
  const { batch, seqLen } = options;
  const schedule = maskSchedule(options.schedule);
  const p = draws.rand(batch).map(maskTime);
  const values = draws.rand(batch * seqLen);
  const mask = new Float32Array(batch * seqLen);
  for (let row = 0; row < batch; row++) {
    mask.set(baseMask(values.subarray(row * seqLen, (row + 1) * seqLen), schedule, p[row]), row * seqLen);
  }
  return { mask, p };
}
