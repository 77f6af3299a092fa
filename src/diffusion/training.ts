/** What training the diffusion head needs to know of the process, as the kernels of the loss read it. */
import { type DiffusionTables, cosineBetas, diffusionTables } from './betas.ts';

/** Columns of `HeadLossTable.rows`. */
export const HEAD_LOSS_COLUMNS = 4;

/**
 * The process in the terms of the head's loss, written so that nothing cancels in float32. With x_t made of x0 and
 * noise, the means of the true and the predicted posterior differ by shift * sqrt(clipped posterior variance) *
 * (eps - noise), and the model's log variance is the clipped posterior log variance plus f * span, f = (v + 1) / 2.
 */
export interface HeadLossTable {
  /** [steps, 4]: alpha = sqrt(abar), sigma = sqrt(1 - abar), shift, span = log beta - clipped log variance. */
  rows: Float32Array<ArrayBuffer>;
  /** Half a bin of the discretised Gaussian at t = 0, over its smallest standard deviation: 1/255 / that. */
  halfBin: number;
}

/**
 * Tables of the head's loss (Nichol and Dhariwal, arXiv 2102.09672, section 3.1), by default of the 1000 cosine betas.
 * @throws EmigmError('input') as `diffusionTables`
 */
export function headLossTable(tables: DiffusionTables = diffusionTables(cosineBetas())): HeadLossTable {
  const { betas, posteriorLogVarianceClipped, posteriorMeanCoef1, sqrtRecipm1AlphasCumprod } = tables;
  const rows = new Float32Array(HEAD_LOSS_COLUMNS * betas.length);
  betas.forEach((beta, i) => {
    const logVariance = posteriorLogVarianceClipped[i];
    const shift = posteriorMeanCoef1[i] * sqrtRecipm1AlphasCumprod[i] * Math.exp(-0.5 * logVariance);
    rows.set(
      [tables.sqrtAlphasCumprod[i], tables.sqrtOneMinusAlphasCumprod[i], shift, Math.log(beta) - logVariance],
      HEAD_LOSS_COLUMNS * i,
    );
  });
  return { rows, halfBin: Math.exp(-0.5 * posteriorLogVarianceClipped[0]) / 255 };
}
