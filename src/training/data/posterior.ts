/** Drawing a latent from the posterior that a tokenizer's encoder predicts (SPEC section 5). */
import { EmigmError } from '../../errors.ts';
import { normalNoise, STREAMS } from '../../random.ts';

/** Bounds of the log-variance, as DiagonalGaussianDistribution of latent diffusion has them. */
const [LEAST, MOST] = [-30, 20];

/**
 * latent = (mean + exp(clip(logvar, -30, 20) / 2) * noise) * scale, in float64.
 * @param moments [2C, H, W]: mean, then log-variance
 * @param noise [C, H, W] standard normal
 * @param out where the [C, H, W] go
 */
export function samplePosterior(
  moments: Float32Array,
  noise: ArrayLike<number>,
  scale: number,
  out: Float32Array = new Float32Array(moments.length / 2),
): Float32Array {
  const count = moments.length / 2;
  if (noise.length !== count || out.length !== count) {
    throw new EmigmError('shape', `${noise.length} noise and ${out.length} latents of ${moments.length} moments`);
  }
  for (let i = 0; i < count; i++) {
    const logVariance = Math.min(MOST, Math.max(LEAST, moments[count + i]));
    out[i] = (moments[i] + Math.exp(logVariance / 2) * noise[i]) * scale;
  }
  return out;
}

/** The noise of an item in an epoch: the same whatever batch it is in. */
export function posteriorNoise(seed: number | bigint, epoch: number, index: number, count: number): Float64Array {
  return normalNoise(seed, STREAMS.posterior, epoch, index, 0, 0, count);
}
