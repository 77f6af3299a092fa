import { describe, expect, test } from 'vitest';
import { cosineBetas, type DiffusionTables, diffusionTables } from '../../src/diffusion/betas.ts';
import { ddpmPlan } from '../../src/diffusion/ddpm.ts';
import { spacedDiffusion, spacedTimesteps } from '../../src/diffusion/respacing.ts';
import { EmigmError } from '../../src/errors.ts';
import { describeGolden } from '../helpers/golden.ts';

/** Names in the file, and ours. */
const TABLES: Record<string, keyof DiffusionTables> = {
  betas: 'betas',
  alphas_cumprod: 'alphasCumprod',
  alphas_cumprod_prev: 'alphasCumprodPrev',
  sqrt_alphas_cumprod: 'sqrtAlphasCumprod',
  sqrt_one_minus_alphas_cumprod: 'sqrtOneMinusAlphasCumprod',
  log_one_minus_alphas_cumprod: 'logOneMinusAlphasCumprod',
  sqrt_recip_alphas_cumprod: 'sqrtRecipAlphasCumprod',
  sqrt_recipm1_alphas_cumprod: 'sqrtRecipm1AlphasCumprod',
  posterior_variance: 'posteriorVariance',
  posterior_log_variance_clipped: 'posteriorLogVarianceClipped',
  posterior_mean_coef1: 'posteriorMeanCoef1',
  posterior_mean_coef2: 'posteriorMeanCoef2',
};

describeGolden('diffusion_tables', (golden) => {
  const respacings = golden
    .names()
    .filter((name) => name.endsWith('.timestep_map'))
    .map((name) => name.slice(0, -'.timestep_map'.length));
  test('has cases', () => expect(respacings.length).toBeGreaterThan(0));
  test.each(respacings)('respacing %s', (name) => {
    const ours = spacedDiffusion(name === 'train' ? '' : name);
    expect([...ours.timestepMap]).toEqual([...(golden.get(`${name}.timestep_map`) as Int32Array)]);
    const tables = golden.names(`${name}.`).filter((key) => key !== `${name}.timestep_map`);
    expect(tables.length).toBeGreaterThan(0);
    for (const key of tables) {
      const table = TABLES[key.slice(name.length + 1)];
      expect(table, `a table for ${key}`).toBeDefined();
      const expected = golden.f64(key);
      expect(ours[table].length).toBe(expected.length);
      expected.forEach((value, i) => {
        const difference = Math.abs(ours[table][i] - value);
        expect(difference, `${key}[${i}] ${ours[table][i]} against ${value}`).toBeLessThanOrEqual(
          1e-10 * Math.abs(value),
        );
      });
    }
  });
});

describe('respacing', () => {
  test.each(['0', 'x', '10,,20', '-5', '1.5', '1001', 'ddim', 'ddim1001', 'ddim999', '600,600', '10,0'])(
    '%s is refused',
    (text) => expect(() => spacedTimesteps(text)).toThrow(EmigmError),
  );
  test('sections get their counts and cover both ends of a single section', () => {
    const [first, second, third] = [0, 1, 2].map((i) =>
      spacedTimesteps('10,15,20').filter((t) => (i < 1 ? t < 334 : i < 2 ? t >= 334 && t < 667 : t >= 667)),
    );
    expect([first.length, second.length, third.length]).toEqual([10, 15, 20]);
    const all = spacedTimesteps('37');
    expect([all.length, all[0], all.at(-1)]).toEqual([37, 0, 999]);
  });
  test('one step is allowed and has finite scalars', () => {
    for (const step of ddpmPlan('1')) for (const value of Object.values(step)) expect(value).toSatisfy(Number.isFinite);
  });
});

describe('ddpm plan', () => {
  test.each(['', '100', 'ddim25', '7'])(
    'respacing "%s": from the noisiest step, the last without noise',
    (respacing) => {
      const plan = ddpmPlan(respacing);
      const times = plan.map((step) => step.netT);
      expect(times).toEqual([...spacedTimesteps(respacing)].reverse());
      expect(plan.map((step) => step.nonzero)).toEqual(plan.map((_, i) => (i === plan.length - 1 ? 0 : 1)));
    },
  );
  test('a perfect noise prediction at the last step returns x0', () => {
    const step = ddpmPlan('50').at(-1)!;
    const { alphasCumprod } = spacedDiffusion('50');
    const [x0, eps] = [0.7, -1.3];
    const x = Math.sqrt(alphasCumprod[0]) * x0 + Math.sqrt(1 - alphasCumprod[0]) * eps;
    const predicted = step.sqrtRecipAlphaBar * x - step.sqrtRecipm1AlphaBar * eps;
    expect(step.meanCoef1 * predicted + step.meanCoef2 * x).toBeCloseTo(x0, 12);
  });
});

test('tables: posterior mean and variance agree with Bayes rule', () => {
  // q(x_{t-1} | x_t, x_0) is proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0): precisions add.
  const { betas, alphasCumprodPrev, posteriorVariance, posteriorMeanCoef1, posteriorMeanCoef2 } = diffusionTables(
    cosineBetas(),
  );
  for (let i = 1; i < betas.length; i += 37) {
    const precision = (1 - betas[i]) / betas[i] + 1 / (1 - alphasCumprodPrev[i]);
    expect(posteriorVariance[i] * precision).toBeCloseTo(1, 9);
    const coef1 = (posteriorVariance[i] * Math.sqrt(alphasCumprodPrev[i])) / (1 - alphasCumprodPrev[i]);
    const coef2 = (posteriorVariance[i] * Math.sqrt(1 - betas[i])) / betas[i];
    expect(posteriorMeanCoef1[i] / coef1).toBeCloseTo(1, 9);
    expect(posteriorMeanCoef2[i] / coef2).toBeCloseTo(1, 9);
  }
});
