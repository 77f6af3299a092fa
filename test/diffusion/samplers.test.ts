/** The host plans with a float64 head, against trajectories of the official samplers. */
import { expect, test } from 'vitest';
import { ddpmPlan } from '../../src/diffusion/ddpm.ts';
import { dpmSolverPlan, noiseSchedule, outerTimes, solverOrders } from '../../src/diffusion/dpm_solver.ts';
import { describeGolden, expectClose } from '../helpers/golden.ts';
import {
  columnsOf,
  ddpmSampleOracle,
  dpmSolverSampleOracle,
  goldenMatrix,
  guidedHead,
  headOracle,
  rowsOf,
  sinusoidalEmbedding,
} from '../helpers/head_oracle.ts';

describeGolden('diffloss_net', (golden) => {
  const head = headOracle(golden);
  const x = goldenMatrix(golden, 'x');
  const c = goldenMatrix(golden, 'c');
  const { channels } = head;

  test('float64 head: as far from the float32 output as the float64 run of the reference', () => {
    const out = head.forward(x, golden.f64('t'), c);
    const { maxabs } = golden.meta('f32_vs_f64').out;
    expectClose(out.data, golden.f64('out'), { absolute: 1.001 * maxabs + 1e-9 }, 'out');
    const eps = columnsOf(out, 0, channels);
    expectClose(eps.data, golden.f64('dpmsolver.out'), { absolute: 1.001 * maxabs + 1e-9 }, 'dpmsolver.out');
  });

  test('guidance: conditional half first, the variance not guided', () => {
    const half = x.rows / 2;
    const { eps, v } = guidedHead(head, rowsOf(x, 0, half), golden.f64('cfg.t'), c, golden.meta('cfg_scale'));
    const expected = rowsOf(goldenMatrix(golden, 'cfg.out'), 0, half);
    expectClose(eps.data, columnsOf(expected, 0, channels).data, { relative: 5e-5 }, 'guided eps');
    expectClose(v.data, columnsOf(expected, channels, 2 * channels).data, { relative: 5e-5 }, 'variance');
  });

  const dims = golden.names('sinus.dim').map((name) => Number(name.slice('sinus.dim'.length)));
  test.each(dims)('sinusoidal embedding of dimension %i', (dim) => {
    const ours = sinusoidalEmbedding(golden.f64('sinus.t'), dim);
    // Phases of up to 1000 rad are kept in float32: half a unit in the last place is 3e-5.
    expectClose(ours.data, golden.f64(`sinus.dim${dim}`), { absolute: 6.5e-5 });
  });
});

describeGolden('ddpm_sample', (golden) => {
  const head = headOracle(golden);
  const cases = Object.entries<{ num_sampling_steps: string; temperature: number; cfg: number }>(golden.meta('cases'));
  test('has cases', () => expect(cases.length).toBeGreaterThan(0));
  test.each(cases)('%s', (name, { num_sampling_steps: respacing, temperature, cfg }) => {
    const plan = ddpmPlan(respacing);
    const z = goldenMatrix(golden, `${name}.z`);
    const noise = goldenMatrix(golden, `${name}.noise_init`);
    const rows = golden.shape(`${name}.net_t`)[1];
    expect(Array.from(golden.f64(`${name}.net_t`))).toEqual(
      plan.flatMap((step) => new Array<number>(rows).fill(step.netT)),
    );
    const { channels } = head;
    const noises = golden.f64(`${name}.noises`);
    const xs = golden.f64(`${name}.xs`);
    const at = (tensor: Float64Array, i: number) =>
      tensor.subarray(i * rows * channels, (i * rows + noise.rows) * channels);
    const sample = ddpmSampleOracle(
      head,
      plan,
      { z, noise, cfg },
      { temperature, stepNoise: (i) => at(noises, i) },
      (x, i) => expectClose(x.data, at(xs, i), { relative: 1e-4 }, `${name} x after step ${i}`),
    );
    const exact = golden.f64(`${name}.sample_f64`).subarray(0, noise.rows * channels);
    expectClose(sample.data, exact, { relative: 1e-8 }, `${name}.sample_f64`);
  });
});

describeGolden('dpmsolver_sample', (golden) => {
  const head = headOracle(golden);
  interface Case {
    steps: number;
    cfg: number;
    orders: number[];
    nfe: number;
    net_batch_per_call: number;
  }
  const cases = Object.entries<Case>(golden.meta('cases'));
  test('has cases', () => expect(cases.length).toBeGreaterThan(0));
  test.each(cases)('%s', (name, { steps, cfg, orders, nfe }) => {
    const schedule = noiseSchedule();
    const plan = dpmSolverPlan(steps, schedule);
    expect(plan.length).toBe(nfe);
    expect(solverOrders(steps)).toEqual(orders);
    expect(plan.filter((evaluation) => evaluation.first).length).toBe(orders.length);
    const z = goldenMatrix(golden, `${name}.z`);
    const noise = goldenMatrix(golden, `${name}.noise_init`);
    const size = noise.data.length;
    // The reference has its schedule in float32, which moves times and samples by up to 2e-3 (README).
    expectClose(
      Array.from(plan, (e) => e.t),
      golden.f64(`${name}.call_t`),
      { relative: 2e-3 },
      'call_t',
    );
    expectClose(
      Array.from(plan, (e) => e.netT),
      golden.f64(`${name}.call_net_t`),
      { relative: 2e-3 },
      'call_net_t',
    );
    const calls = ['call_x', 'call_x0'].map((part) => golden.f64(`${name}.${part}`));
    const sample = dpmSolverSampleOracle(head, plan, { z, noise, cfg }, (x, x0, i) => {
      [x, x0].forEach((ours, k) => {
        const theirs = calls[k].subarray(i * size, (i + 1) * size);
        expectClose(ours.data, theirs, { relative: 2e-3 }, `${name} ${['x', 'x0'][k]} of evaluation ${i}`);
      });
    });
    expectClose(sample.data, golden.f64(`${name}.sample_f64`), { relative: 1e-8 }, `${name}.sample_f64`);
    expectClose(sample.data, golden.f64(`${name}.sample`), { relative: 2e-3 }, `${name}.sample`);
  });
});

describeGolden('dpmsolver_schedule', (golden) => {
  const schedule = noiseSchedule();
  // The file holds float32 arithmetic. Allowed is what a few roundings do to each quantity: `k` units of relative
  // rounding of log alpha and of t, carried on by the derivatives.
  const unit = 4 * 2 ** -24;
  const slope = (t: number) => Math.abs(schedule.logAlpha(t + 1e-6) - schedule.logAlpha(t - 1e-6)) / 2e-6;
  const total = schedule.logAlphas.length;
  // Differences of neighbouring float32 times, 1/n apart, carry the rounding of t: a share of n * 2^-24 of a segment.
  const outside = (t: number) => Math.max(0, t - 1, 1 / total - t) * total;
  const logAlphaError = (t: number) => unit * (Math.abs(schedule.logAlpha(t)) + slope(t) * (Math.abs(t) + outside(t)));
  const varianceError = (t: number) => 2 * schedule.alpha(t) ** 2 * logAlphaError(t) + unit;
  const lambdaError = (t: number) => logAlphaError(t) + varianceError(t) / (2 * schedule.sigma(t) ** 2);
  // log(1 + exp(-2 lambda)) is taken of a float32 sum: an absolute error, divided by the slope.
  const inverseError = (t: number) => (unit * (1 + Math.abs(schedule.logAlpha(t)))) / slope(t) + unit * t;
  const within = (actual: number, expected: number, allowed: number, label: string) =>
    expect(Math.abs(actual - expected), `${label}: ${actual} against ${expected}`).toBeLessThanOrEqual(allowed);

  test('discrete steps', () => {
    expect(total).toBe(golden.meta('total_N'));
    expect(1 / total).toBeCloseTo(golden.meta('t_0'), 15);
    const expected = golden.f64('log_alpha_array');
    golden.f64('t_array').forEach((t, i) => {
      within(schedule.logAlphas[i], expected[i], 2 ** -24 * Math.abs(expected[i]), `log alpha ${i}`);
      within((i + 1) / total, t, 2 * 2 ** -24, `t ${i}`);
    });
  });

  const quantities = [
    ['marginal_log_mean_coeff', 'query_t', schedule.logAlpha, logAlphaError],
    ['marginal_alpha', 'query_t', schedule.alpha, (t: number) => schedule.alpha(t) * (logAlphaError(t) + unit)],
    ['marginal_std', 'query_t', schedule.sigma, (t: number) => varianceError(t) / (2 * schedule.sigma(t)) + unit],
    ['marginal_lambda', 'query_t', schedule.lambda, lambdaError],
    ['marginal_log_mean_coeff_outside', 'query_t_outside', schedule.logAlpha, logAlphaError],
    ['inverse_lambda', 'query_lambda', schedule.inverseLambda, (l: number) => inverseError(schedule.inverseLambda(l))],
  ] as const;
  test.each(quantities)('%s', (name, query, f, error) => {
    const expected = golden.f64(name);
    golden.f64(query).forEach((q, i) => {
      within(f(q), expected[i], error(q), `${name} at ${q}`);
    });
  });

  const counts = Object.entries<number[]>(golden.meta('orders'));
  test.each(counts)('%s steps', (steps, orders) => {
    expect(solverOrders(Number(steps))).toEqual(orders);
    expect(dpmSolverPlan(Number(steps), schedule).length).toBe(Number(steps));
    const expected = golden.f64(`steps${steps}.timesteps_outer`);
    const ours = outerTimes(Number(steps), schedule);
    expect(ours.length).toBe(expected.length);
    // Errors of lambda at both ends shift the times between; d t / d lambda by a difference.
    const lambdaShift = Math.max(lambdaError(1), lambdaError(1 / total));
    ours.forEach((t, i) => {
      const lambda = schedule.lambda(t);
      const timePerLambda =
        Math.abs(schedule.inverseLambda(lambda + 1e-4) - schedule.inverseLambda(lambda - 1e-4)) / 2e-4;
      within(t, expected[i], inverseError(t) + timePerLambda * lambdaShift, `time ${i}`);
    });
  });
});

test('the schedule and its inverse agree, and alpha^2 + sigma^2 = 1', () => {
  const schedule = noiseSchedule();
  for (let t = 1 / 996; t <= 1; t += 0.00317) {
    expect(schedule.inverseLambda(schedule.lambda(t))).toBeCloseTo(t, 11);
    expect(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2).toBeCloseTo(1, 13);
  }
});

test('a head that knows x0 is integrated exactly by every order', () => {
  // For data = a point, eps = (x - alpha x0) / sigma and the data prediction is x0 everywhere.
  const x0 = 0.37;
  for (let steps = 1; steps <= 20; steps++) {
    const plan = dpmSolverPlan(steps);
    const schedule = noiseSchedule();
    const start = 1.9;
    let [x, base, m0] = [start, 0, 0];
    for (const { alpha, sigma, first, a, b, c } of plan) {
      const eps = (x - alpha * x0) / sigma;
      const m = (x - sigma * eps) / alpha;
      if (first) [base, m0] = [x, m];
      x = a * base + b * m0 + c * m;
    }
    const last = 1 / schedule.logAlphas.length;
    const noise = (start - schedule.alpha(1) * x0) / schedule.sigma(1);
    expect(x).toBeCloseTo(schedule.alpha(last) * x0 + schedule.sigma(last) * noise, 10);
  }
});

test.each([0, -1, 2.5, Number.NaN])('%s evaluations are refused', (steps) => {
  expect(() => dpmSolverPlan(steps)).toThrow('positive integer');
});
