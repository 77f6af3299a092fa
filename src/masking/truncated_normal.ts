/** MAR's mask ratio: normal(1, 0.25) truncated to [0.7, 1] (Li et al. 2024, arXiv 2406.11838, section 4). */

const MEAN = 1;
const DEVIATION = 0.25;
const LOWEST = (0.7 - MEAN) / DEVIATION;

const density = (z: number) => Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI);

/** P(0 < Z < z) of a standard normal by its power series: float64 accuracy for |z| below 3. */
function fromMean(z: number): number {
  let term = z;
  let sum = z;
  for (let n = 3; Math.abs(term) > 1e-17 * Math.abs(sum); n += 2) sum += term *= (z * z) / n;
  return density(z) * sum;
}

const MASS = -fromMean(LOWEST);

/** Density of the ratio, for 0.7 <= ratio <= 1. */
export function truncatedNormalDensity(ratio: number): number {
  return density((ratio - MEAN) / DEVIATION) / (DEVIATION * MASS);
}

/** The ratio below which a share t of all ratios lies, t in [0, 1]. */
export function truncatedNormalQuantile(t: number): number {
  const target = (t - 1) * MASS;
  let z = (t - 1) * -LOWEST;
  // Newton: the density is bounded away from 0, so a few steps reach float64.
  for (let i = 0; i < 8; i++) z -= (fromMean(z) - target) / density(z);
  return MEAN + DEVIATION * Math.min(0, Math.max(LOWEST, z));
}
