/** Means and covariances that do not depend on shards, their files, the Fréchet distance, Inception Scores. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { frechetDistance } from '../../src/evaluation/frechet.ts';
import { inceptionScore } from '../../src/evaluation/inception_score.ts';
import { pivotedCholesky, rowProducts, singularValues } from '../../src/evaluation/linear_algebra.ts';
import { Moments, type Statistics } from '../../src/evaluation/moments.ts';
import { numpyPermutation } from '../../src/evaluation/numpy_random.ts';
import { readStatistics, writeStatistics } from '../../src/evaluation/statistics_file.ts';
import { writeNpz } from '../../src/formats/npz.ts';
import { describeGoldenFile, expectClose, goldenPath, random } from '../helpers/golden.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-statistics-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function momentsOf(features: Float32Array, dimensions: number, range?: number): Moments {
  const moments = new Moments(dimensions, range);
  moments.add(features);
  return moments;
}

/** Plain float64, in two passes. */
function plainStatistics(features: Float32Array, d: number): Statistics {
  const n = features.length / d;
  const mean = new Float64Array(d);
  for (let i = 0; i < features.length; i++) mean[i % d] += features[i] / n;
  const covariance = new Float64Array(d * d);
  for (let row = 0; row < n; row++) {
    for (let i = 0; i < d; i++) {
      const centred = features[row * d + i] - mean[i];
      for (let j = 0; j < d; j++) covariance[i * d + j] += (centred * (features[row * d + j] - mean[j])) / (n - 1);
    }
  }
  return { mean, covariance };
}

describe('moments', () => {
  it('equal plain sums', () => {
    const rng = random();
    const d = 13;
    const features = rng.normal(301 * d, 3);
    const { mean, covariance, count } = momentsOf(features, d).statistics();
    const plain = plainStatistics(features, d);
    expect(count).toBe(301);
    expectClose(mean, plain.mean, { absolute: 2 ** -25 }, 'mean');
    expectClose(covariance, plain.covariance, { relative: 1e-8 }, 'covariance');
  });

  it('lose nothing where the mean is far from zero', () => {
    const rng = random();
    // Multiples of 2^-18, as float32 has them near 60: nothing is rounded.
    const steps = rng.normal(500 * 4, 100).map(Math.round);
    const features = steps.map((step, i) => (i % 4 === 3 ? 0 : 60) + step * 2 ** -18);
    const plain = plainStatistics(features, 4);
    expectClose(momentsOf(features, 4).statistics().covariance, plain.covariance, { relative: 1e-12 }, 'covariance');
  });

  it('are rounded once: equal to whole-number arithmetic without limit', () => {
    const rng = random();
    const [d, n, unit] = [9, 300, 64 / 2 ** 30];
    const features = rng.uniform(n * d, -20, 64);
    const { mean, covariance } = momentsOf(features, d).statistics();
    const whole = Array.from(features, (x) => BigInt(Math.round(x / unit)));
    const sum = (of: (row: number) => bigint) => Array.from({ length: n }, (_, row) => of(row)).reduce((a, b) => a + b);
    const sums = Array.from({ length: d }, (_, i) => sum((row) => whole[row * d + i]));
    expect([...mean]).toEqual(sums.map((total) => (Number(total) / n) * unit));
    for (let i = 0; i < d; i++) {
      for (let j = 0; j < d; j++) {
        const products = sum((row) => whole[row * d + i] * whole[row * d + j]);
        const scatter = Number(BigInt(n) * products - sums[i] * sums[j]);
        expect(covariance[i * d + j]).toBe((scatter / (n * (n - 1))) * unit * unit);
      }
    }
  });

  it('are the same to the last bit in any order, batches and shards', () => {
    const rng = random();
    const [d, n] = [11, 700];
    const features = rng.normal(n * d, 10);
    const whole = momentsOf(features, d).statistics();
    const shards = Array.from({ length: rng.integer(2, 9) }, () => new Moments(d));
    for (const image of numpyPermutation(n, rng.integer(0, 1000))) {
      shards[rng.integer(0, shards.length - 1)].add(features.subarray(image * d, (image + 1) * d));
    }
    const merged = new Moments(d);
    for (const shard of shards.sort(() => rng.next() - 0.5)) merged.merge(structuredClone(shard.state()));
    expect(merged.count).toBe(n);
    expect(merged.statistics()).toEqual(whole);
    expect(momentsOf(features.subarray(0, (n - 1) * d), d).statistics()).not.toEqual(whole);
  });

  it('hold extreme features', () => {
    const features = Float32Array.of(64, -64, 64, 64, -64, -64, -64, 64);
    expect(momentsOf(features, 2).statistics()).toMatchObject({
      mean: Float64Array.of(0, 0),
      covariance: Float64Array.of(16384 / 3, 0, 0, 16384 / 3),
    });
  });

  it('refuse what they cannot hold', () => {
    const moments = new Moments(2);
    expect(() => moments.add(Float32Array.of(1, 65))).toThrow(/feature 1 of image 0 is 65; .* within 64/);
    expect(() => moments.add(Float32Array.of(1, Number.NaN))).toThrow(/NaN/);
    expect(() => moments.add(Float32Array.of(1, 2, 3))).toThrow(/3 features/);
    moments.add(Float32Array.of(1, 2));
    expect(() => moments.statistics()).toThrow(/two images/);
    expect(() => moments.merge(new Moments(2, 128))).toThrow(/cannot be merged/);
  });
});

describe('linear algebra', () => {
  it.each([
    [1, 1],
    [7, 7],
    [5, 12],
    [33, 14],
    [70, 69],
  ])('singular values of %i x %i', (m, n) => {
    const rng = random();
    const a = { rows: m, columns: n, data: Float64Array.from(rng.normal(m * n)) };
    const values = singularValues(a);
    expect(values.length).toBe(Math.min(m, n));
    expect(values.every((value) => value >= 0)).toBe(true);
    // Power sums of the singular values are traces of powers of the Gram matrix.
    const gram = rowProducts(a, a);
    const fourth = rowProducts(gram, gram).data;
    const trace = (x: Float64Array) => Array.from({ length: m }, (_, i) => x[i * (m + 1)]).reduce((p, q) => p + q, 0);
    const power = (k: number) => values.reduce((sum, value) => sum + value ** k, 0);
    expect(power(2)).toBeCloseTo(trace(gram.data), 8);
    expect(power(4) / trace(fourth)).toBeCloseTo(1, 10);
  });

  it('singular values that are zero, or equal', () => {
    const data = new Float64Array(36);
    for (const [i, value] of [3, 3, 0, -2, 1e-9, 0].entries()) data[i * 7] = value;
    const values = [...singularValues({ rows: 6, columns: 6, data })].sort((a, b) => b - a);
    expectClose(values, [3, 3, 2, 1e-9, 0, 0], { absolute: 1e-15 }, 'singular values');
  });

  it('a factor has the rank of its matrix', () => {
    const rng = random();
    const [n, rank] = [30, 12];
    const x = { rows: n, columns: rank, data: Float64Array.from(rng.normal(n * rank)) };
    const s = rowProducts(x, x).data;
    const { matrix, order } = pivotedCholesky(s, n);
    expect(matrix.rows).toBe(rank);
    const again = new Float64Array(n * n);
    for (let k = 0; k < rank; k++) {
      for (let i = 0; i < n; i++) {
        for (let j = 0; j < n; j++) again[order[i] * n + order[j]] += matrix.data[k * n + i] * matrix.data[k * n + j];
      }
    }
    expectClose(again, s, { relative: 1e-13 }, 'R^T R');
  });
});

describe('Fréchet distance', () => {
  const diagonal = (values: number[], mean: number[]): Statistics => {
    const covariance = new Float64Array(values.length ** 2);
    for (const [i, value] of values.entries()) covariance[i * (values.length + 1)] = value;
    return { mean: Float64Array.from(mean), covariance };
  };

  it('of independent features is a sum over them', () => {
    const a = diagonal([4, 9, 0, 1], [1, 2, 3, 4]);
    const b = diagonal([1, 16, 25, 0], [1, 0, 3, 5]);
    expect(frechetDistance(a, b)).toBeCloseTo(0 + 4 + 0 + 1 + 1 + 1 + 25 + 1, 12);
  });

  it('of fewer images than features equals the form that never makes a covariance', () => {
    const rng = random();
    const [d, n, m] = [60, 17, 25];
    const sets = [rng.normal(n * d), rng.normal(m * d, 2)].map((features) => {
      const { mean } = plainStatistics(features, d);
      const rows = features.length / d;
      const scale = Math.sqrt(rows - 1);
      const data = Float64Array.from(features, (x, i) => (x - mean[i % d]) / scale);
      const trace = data.reduce((sum, x) => sum + x * x, 0);
      return { features, mean, trace, matrix: { rows, columns: d, data } };
    });
    const [a, b] = sets;
    const root = singularValues(rowProducts(a.matrix, b.matrix)).reduce((sum, value) => sum + value, 0);
    const distance = a.mean.reduce((sum, x, i) => sum + (x - b.mean[i]) ** 2, 0) + a.trace + b.trace - 2 * root;
    const [p, q] = sets.map(({ features }) => momentsOf(features, d).statistics());
    expect(Math.abs(frechetDistance(p, q) - distance) / (a.trace + b.trace)).toBeLessThan(1e-8);
    expect(Math.abs(frechetDistance(p, p)) / a.trace).toBeLessThan(1e-14);
  });

  it('refuses other features, and NaN', () => {
    expect(() => frechetDistance(diagonal([1], [0]), diagonal([1, 2], [0, 0]))).toThrow(/1 and of 2 features/);
    expect(() => frechetDistance(diagonal([1], [0]), diagonal([Number.NaN], [0]))).toThrow(/not finite/);
  });
});

describe('Inception Score', () => {
  it('is the number of classes when every image is of one, all equally often', () => {
    const logits = Float32Array.from({ length: 40 * 4 }, (_, i) => (i % 4 === Math.floor(i / 4) % 4 ? 100 : 0));
    const { mean, deviation } = inceptionScore(logits, 4, { splits: 10, order: 'given' });
    expect(mean).toBeCloseTo(4, 10);
    expect(deviation).toBeCloseTo(0, 10);
    expect(inceptionScore(new Float32Array(160), 4).mean).toBeCloseTo(1, 12);
  });

  it('refuses fewer images than splits, and an order that is none', () => {
    expect(() => inceptionScore(new Float32Array(36), 4)).toThrow(/10 splits.*9/);
    expect(() => inceptionScore(new Float32Array(8), 4, { splits: 1, order: [0, 0] })).toThrow(/no permutation/);
  });
});

it('permutations are those of numpy.random.RandomState', () => {
  expect([...numpyPermutation(12, 2020)]).toEqual([2, 1, 11, 4, 10, 5, 7, 9, 6, 3, 8, 0]);
  expect([...numpyPermutation(700, 7).slice(-6)]).toEqual([211, 579, 502, 537, 196, 175]);
});

describe('statistics files', () => {
  it('come back as they were written', async () => {
    const path = join(folder, 'a.npz');
    const statistics = momentsOf(random().normal(40), 4).statistics();
    const spatial = momentsOf(random().normal(30), 3).statistics();
    await writeStatistics(path, { statistics, spatial, extractor: 'toy (Modell ä)' });
    expect(await readStatistics(path)).toEqual({
      statistics,
      spatial: { ...spatial, count: 10 },
      extractor: 'toy (Modell ä)',
    });
  });

  it('say what is wrong', async () => {
    const path = join(folder, 'b.npz');
    await writeNpz(path, { mu: { dtype: 'F64', shape: [2], data: new Float64Array(2) } });
    await expect(readStatistics(path)).rejects.toThrow(/no mu and sigma but mu/);
    await writeNpz(path, {
      mu: { dtype: 'F64', shape: [2], data: new Float64Array(2) },
      sigma: { dtype: 'F64', shape: [4], data: new Float64Array(4) },
    });
    await expect(readStatistics(path)).rejects.toThrow(/sigma is \[4\]/);
  });
});

describeGoldenFile('fid_stats_example*.npz', (file) => {
  it('is read, and is at distance 0 from itself', async () => {
    const { statistics, spatial, extractor } = await readStatistics(goldenPath(file));
    expect(statistics.mean.length).toBe(64);
    expect([spatial, extractor]).toEqual([undefined, undefined]);
    expect(Math.abs(frechetDistance(statistics, statistics))).toBeLessThan(1e-12);
    const moved = { ...statistics, mean: statistics.mean.map((x, i) => (i === 5 ? x + 3 : x)) };
    expect(frechetDistance(statistics, moved)).toBeCloseTo(9, 10);
  });
});
