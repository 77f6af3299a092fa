/** The operations in float64, plainly: what every peer is compared with where the work is small enough. */
import type { Matrices, Ops } from './ops.ts';

export interface Wide {
  rows: number;
  columns: number;
  data: Float64Array;
}

const make = (rows: number, columns: number, of: (row: number, column: number) => number): Wide => {
  const data = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) data[i * columns + j] = of(i, j);
  return { rows, columns, data };
};
const map = (x: Wide, f: (value: number) => number): Wide => ({ ...x, data: x.data.map(f) });

/** Abramowitz, Stegun 1964, 7.1.5 and 7.1.14: the series near zero, the continued fraction beyond. */
function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 2.5) {
    let term = a;
    let sum = a;
    for (let n = 1; Math.abs(term) > 1e-17 * sum; n++) {
      term *= (-a * a) / n;
      sum += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let fraction = a;
  for (let n = 60; n >= 1; n--) fraction = a + n / 2 / fraction;
  return Math.sign(x) * (1 - Math.exp(-a * a) / fraction / Math.sqrt(Math.PI));
}

export class Float64Ops implements Ops<Wide> {
  private readonly inputs: Matrices;
  private readonly parameters: Matrices;

  constructor(inputs: Matrices, parameters: Matrices) {
    this.inputs = inputs;
    this.parameters = parameters;
  }

  input(name: string): Wide {
    return { ...this.inputs[name], data: Float64Array.from(this.inputs[name].data) };
  }
  parameter(name: string): Wide {
    return { ...this.parameters[name], data: Float64Array.from(this.parameters[name].data) };
  }
  matmul(x: Wide, weight: Wide): Wide {
    const out = make(x.rows, weight.columns, () => 0);
    for (let i = 0; i < x.rows; i++) {
      const row = out.data.subarray(i * out.columns, (i + 1) * out.columns);
      for (let k = 0; k < x.columns; k++) {
        const factor = x.data[i * x.columns + k];
        const from = k * out.columns;
        for (let j = 0; j < out.columns; j++) row[j] += factor * weight.data[from + j];
      }
    }
    return out;
  }
  private pair(a: Wide, b: Wide, f: (a: number, b: number) => number): Wide {
    const at = (i: number, j: number) => b.data[(b.rows === 1 ? 0 : i) * b.columns + (b.columns === 1 ? 0 : j)];
    return make(a.rows, a.columns, (i, j) => f(a.data[i * a.columns + j], at(i, j)));
  }
  add(a: Wide, b: Wide): Wide {
    return this.pair(a, b, (x, y) => x + y);
  }
  multiply(a: Wide, b: Wide): Wide {
    return this.pair(a, b, (x, y) => x * y);
  }
  layerNorm(x: Wide, weight?: Wide, bias?: Wide): Wide {
    const rows = Array.from({ length: x.rows }, (_, i) => {
      const row = x.data.subarray(i * x.columns, (i + 1) * x.columns);
      const mean = row.reduce((sum, value) => sum + value, 0) / x.columns;
      const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.columns;
      return { row, mean, factor: 1 / Math.sqrt(variance + 1e-6) };
    });
    return make(x.rows, x.columns, (i, j) => {
      const { row, mean, factor } = rows[i];
      return (row[j] - mean) * factor * (weight?.data[j] ?? 1) + (bias?.data[j] ?? 0);
    });
  }
  gelu(x: Wide): Wide {
    return map(x, (value) => 0.5 * value * (1 + erf(value * Math.SQRT1_2)));
  }
  silu(x: Wide): Wide {
    return map(x, (value) => value / (1 + Math.exp(-value)));
  }
  tanh(x: Wide): Wide {
    return map(x, Math.tanh);
  }
  attention(q: Wide, k: Wide, v: Wide, heads: number): Wide {
    const size = q.columns / heads;
    const out = make(q.rows, q.columns, () => 0);
    for (let at = 0; at < q.columns; at += size) {
      for (let i = 0; i < q.rows; i++) {
        const scores = Array.from({ length: k.rows }, (_, j) => {
          let sum = 0;
          for (let d = at; d < at + size; d++) sum += q.data[i * q.columns + d] * k.data[j * k.columns + d];
          return sum / Math.sqrt(size);
        });
        const largest = Math.max(...scores);
        const weights = scores.map((score) => Math.exp(score - largest));
        const total = weights.reduce((sum, weight) => sum + weight, 0);
        for (const [j, weight] of weights.entries())
          for (let d = at; d < at + size; d++)
            out.data[i * out.columns + d] += (weight / total) * v.data[j * v.columns + d];
      }
    }
    return out;
  }
  columns(x: Wide, from: number, to: number): Wide {
    return make(x.rows, to - from, (i, j) => x.data[i * x.columns + from + j]);
  }
  gather(x: Wide, rows: readonly number[]): Wide {
    return make(rows.length, x.columns, (i, j) => x.data[rows[i] * x.columns + j]);
  }
  concat(parts: readonly Wide[]): Wide {
    const data = Float64Array.from(parts.flatMap((part) => [...part.data]));
    return { rows: data.length / parts[0].columns, columns: parts[0].columns, data };
  }
}
