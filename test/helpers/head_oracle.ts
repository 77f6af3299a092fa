/**
 * The diffusion head (SimpleMLPAdaLN of MAR, arXiv 2406.11838) and its samplers in plain float64 loops: what the
 * GPU is compared with. Weights come from a golden file under the official names.
 */
import type { DdpmStep } from '../../src/diffusion/ddpm.ts';
import type { SolverEvaluation } from '../../src/diffusion/dpm_solver.ts';
import type { Golden } from './golden.ts';

/** Row-major [rows, columns] matrix. */
export interface Matrix {
  rows: number;
  columns: number;
  data: Float64Array;
}

export interface HeadOracle {
  channels: number;
  /**
   * The head's output [rows, 2 * channels]: eps, then the variance channel.
   * @param x [rows, channels] @param t [rows] or one for all @param c [rows, condition width]
   */
  forward(x: Matrix, t: ArrayLike<number> | number, c: Matrix): Matrix;
}

export function matrix(rows: number, columns: number, data: ArrayLike<number>): Matrix {
  if (data.length !== rows * columns) throw new Error(`${data.length} values do not make ${rows} x ${columns}`);
  return { rows, columns, data: Float64Array.from(data) };
}

/** A golden tensor as a matrix; leading dimensions are flattened into rows. */
export function goldenMatrix(golden: Golden, name: string): Matrix {
  const columns = golden.shape(name).at(-1)!;
  const data = golden.f64(name);
  return matrix(data.length / columns, columns, data);
}

export const mapMatrix = (m: Matrix, f: (value: number, i: number) => number): Matrix => ({
  ...m,
  data: m.data.map((value, i) => f(value, i)),
});

export function rowsOf(m: Matrix, start: number, end = m.rows): Matrix {
  return matrix(end - start, m.columns, m.data.subarray(start * m.columns, end * m.columns));
}

export function columnsOf(m: Matrix, start: number, end: number): Matrix {
  const width = end - start;
  const data = new Float64Array(m.rows * width);
  for (let row = 0; row < m.rows; row++) {
    data.set(m.data.subarray(row * m.columns + start, row * m.columns + end), row * width);
  }
  return matrix(m.rows, width, data);
}

export function stackRows(...parts: Matrix[]): Matrix {
  const data = parts.flatMap((part) => Array.from(part.data));
  return matrix(data.length / parts[0].columns, parts[0].columns, data);
}

const silu = (x: number) => x / (1 + Math.exp(-x));

/** [cos | sin] of t at 'dim' / 2 frequencies, zero-padded when dim is odd (DiT, arXiv 2212.09748). */
export function sinusoidalEmbedding(t: ArrayLike<number>, dim: number): Matrix {
  const half = Math.floor(dim / 2);
  const data = Array.from(t).flatMap((time) => {
    const phases = Array.from({ length: half }, (_, i) => time * Math.exp((-Math.log(10000) * i) / half));
    return [...phases.map(Math.cos), ...phases.map(Math.sin), ...(dim % 2 ? [0] : [])];
  });
  return matrix(t.length, dim, data);
}

/** The head whose parameters are `prefix`NAME in the file. */
export function headOracle(golden: Golden, prefix = 'param.'): HeadOracle {
  const linear = (x: Matrix, name: string): Matrix => {
    const weight = goldenWeights(golden, `${prefix}${name}.weight`);
    const bias = goldenWeights(golden, `${prefix}${name}.bias`).data;
    const out = new Float64Array(x.rows * weight.rows);
    for (let row = 0; row < x.rows; row++) {
      for (let o = 0; o < weight.rows; o++) {
        let sum = bias[o];
        for (let i = 0; i < x.columns; i++) sum += x.data[row * x.columns + i] * weight.data[o * x.columns + i];
        out[row * weight.rows + o] = sum;
      }
    }
    return matrix(x.rows, weight.rows, out);
  };
  const layerNorm = (x: Matrix, name?: string): Matrix => {
    const scale = name ? golden.f64(`${prefix}${name}.weight`) : undefined;
    const shift = name ? golden.f64(`${prefix}${name}.bias`) : undefined;
    const out = x.data.slice();
    for (let row = 0; row < x.rows; row++) {
      const values = out.subarray(row * x.columns, (row + 1) * x.columns);
      const mean = values.reduce((sum, v) => sum + v, 0) / x.columns;
      const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / x.columns;
      values.forEach((v, i) => {
        values[i] = ((v - mean) / Math.sqrt(variance + 1e-6)) * (scale?.[i] ?? 1) + (shift?.[i] ?? 0);
      });
    }
    return matrix(x.rows, x.columns, out);
  };
  const modulate = (x: Matrix, shift: Matrix, scale: Matrix) =>
    mapMatrix(x, (value, i) => value * (1 + scale.data[i]) + shift.data[i]);

  const width = golden.shape(`${prefix}input_proj.bias`)[0];
  const channels = golden.shape(`${prefix}input_proj.weight`)[1];
  const blocks = golden.names(`${prefix}res_blocks.`).filter((name) => name.endsWith('in_ln.weight')).length;

  const forward = (x: Matrix, t: ArrayLike<number> | number, c: Matrix): Matrix => {
    const times = typeof t === 'number' ? new Array<number>(x.rows).fill(t) : t;
    const embedded = linear(sinusoidalEmbedding(times, 256), 'time_embed.mlp.0');
    const time = linear(mapMatrix(embedded, silu), 'time_embed.mlp.2');
    const condition = linear(c, 'cond_embed');
    const y = mapMatrix(time, (value, i) => silu(value + condition.data[i]));
    let h = linear(x, 'input_proj');
    for (let block = 0; block < blocks; block++) {
      const name = `res_blocks.${block}`;
      const modulation = linear(y, `${name}.adaLN_modulation.1`);
      const [shift, scale, gate] = [0, 1, 2].map((part) => columnsOf(modulation, part * width, (part + 1) * width));
      const inner = linear(modulate(layerNorm(h, `${name}.in_ln`), shift, scale), `${name}.mlp.0`);
      const branch = linear(mapMatrix(inner, silu), `${name}.mlp.2`);
      h = mapMatrix(h, (value, i) => value + gate.data[i] * branch.data[i]);
    }
    const modulation = linear(y, 'final_layer.adaLN_modulation.1');
    const [shift, scale] = [0, 1].map((part) => columnsOf(modulation, part * width, (part + 1) * width));
    return linear(modulate(layerNorm(h), shift, scale), 'final_layer.linear');
  };
  return { channels, forward };
}

const cache = new WeakMap<Golden, Map<string, Matrix>>();

function goldenWeights(golden: Golden, name: string): Matrix {
  const known = cache.get(golden) ?? new Map<string, Matrix>();
  cache.set(golden, known);
  if (!known.has(name)) known.set(name, goldenMatrix(golden, name));
  return known.get(name)!;
}

/**
 * eps and the variance channel for x, guided when `z` has twice its rows ([condition; uncondition]):
 * eps = uncond + cfg * (cond - uncond), the variance that of the conditional half.
 */
export function guidedHead(
  head: HeadOracle,
  x: Matrix,
  t: ArrayLike<number> | number,
  z: Matrix,
  cfg: number,
): { eps: Matrix; v: Matrix } {
  const guided = z.rows === 2 * x.rows;
  const out = head.forward(guided ? stackRows(x, x) : x, t, z);
  const [eps, v] = [0, 1].map((part) => columnsOf(out, part * head.channels, (part + 1) * head.channels));
  if (!guided) return { eps, v };
  const without = rowsOf(eps, x.rows);
  const combined = mapMatrix(rowsOf(eps, 0, x.rows), (value, i) => without.data[i] + cfg * (value - without.data[i]));
  return { eps: combined, v: rowsOf(v, 0, x.rows) };
}

export interface SampleInput {
  /** [n, condition width], or [2n, condition width] when guided. */
  z: Matrix;
  /** [n, channels] */
  noise: Matrix;
  cfg: number;
}

/** DDPM by the host plan. `stepNoise(i)` is the noise [n, channels] of the i-th step. Calls `onStep` with every x. */
export function ddpmSampleOracle(
  head: HeadOracle,
  plan: readonly DdpmStep[],
  { z, noise, cfg }: SampleInput,
  { temperature, stepNoise }: { temperature: number; stepNoise(i: number): Float64Array },
  onStep: (x: Matrix, i: number) => void = () => {},
): Matrix {
  let x = noise;
  plan.forEach((step, i) => {
    const { eps, v } = guidedHead(head, x, step.netT, z, cfg);
    const drawn = stepNoise(i);
    x = mapMatrix(x, (value, k) => {
      const x0 = step.sqrtRecipAlphaBar * value - step.sqrtRecipm1AlphaBar * eps.data[k];
      const fraction = (v.data[k] + 1) / 2;
      const logVariance = fraction * step.maxLog + (1 - fraction) * step.minLog;
      const mean = step.meanCoef1 * x0 + step.meanCoef2 * value;
      return mean + step.nonzero * Math.exp(0.5 * logVariance) * drawn[k] * temperature;
    });
    onStep(x, i);
  });
  return x;
}

/** DPM-Solver++ by the host plan. Calls `onEvaluation` with x before and the data prediction of each evaluation. */
export function dpmSolverSampleOracle(
  head: HeadOracle,
  plan: readonly SolverEvaluation[],
  { z, noise, cfg }: SampleInput,
  onEvaluation: (x: Matrix, x0: Matrix, i: number) => void = () => {},
): Matrix {
  let [x, base, m0] = [noise, noise, noise];
  plan.forEach((evaluation, i) => {
    const { netT, alpha, sigma, first, a, b, c } = evaluation;
    const { eps } = guidedHead(head, x, netT, z, cfg);
    const m = mapMatrix(x, (value, k) => (value - sigma * eps.data[k]) / alpha);
    onEvaluation(x, m, i);
    if (first) [base, m0] = [x, m];
    const [baseData, m0Data] = [base.data, m0.data];
    x = mapMatrix(m, (value, k) => a * baseData[k] + b * m0Data[k] + c * value);
  });
  return x;
}
