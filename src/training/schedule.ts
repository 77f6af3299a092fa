/** The learning rate over a run: linear warm-up, then constant or falling along half a cosine (official util/lr_sched.py). */

/** Places are in one unit of your choice, steps or (fractional) epochs. */
export interface LearningRateSchedule {
  kind: 'constant' | 'cosine';
  /** Learning rate at the end of the warm-up. */
  peak: number;
  /** Where the cosine ends; the constant schedule does not use it. */
  least: number;
  /** Length of the warm-up and of the whole run. */
  warmup: number;
  total: number;
}

/**
 * The learning rate at `at`, counted from 0: peak * at / warmup during the warm-up, then the peak, or
 * least + (peak - least) (1 + cos(pi (at - warmup) / (total - warmup))) / 2, and `least` beyond the end.
 */
export function learningRate({ kind, peak, least, warmup, total }: LearningRateSchedule, at: number): number {
  if (at < warmup) return (peak * at) / warmup;
  if (kind === 'constant') return peak;
  if (at >= total) return least;
  return least + (peak - least) * 0.5 * (1 + Math.cos((Math.PI * (at - warmup)) / (total - warmup)));
}
