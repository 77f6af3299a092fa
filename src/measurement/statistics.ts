/** Summaries of repeated timings. */

export interface Summary {
  /** Seconds, as all below. */
  median: number;
  /** Distance between the quartiles over the median: how much the runs differ. */
  spread: number;
  samples: number;
}

/** The value below which a share `q` of the numbers lies, interpolated. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = q * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

export function summarise(seconds: readonly number[]): Summary {
  const median = quantile(seconds, 0.5);
  const spread = median > 0 ? (quantile(seconds, 0.75) - quantile(seconds, 0.25)) / median : 0;
  return { median, spread, samples: seconds.length };
}
