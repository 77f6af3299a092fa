/** FID and Inception Score against torch-fidelity, SciPy and a symmetric float64 form: fid_is. */
import { describe, expect, it } from 'vitest';
import { frechetDistance } from '../../src/evaluation/frechet.ts';
import { inceptionScore } from '../../src/evaluation/inception_score.ts';
import { Moments, type Statistics } from '../../src/evaluation/moments.ts';
import { numpyPermutation } from '../../src/evaluation/numpy_random.ts';
import { describeGolden, expectClose } from '../helpers/golden.ts';

describeGolden('fid_is*', (golden) => {
  const cases = golden
    .names()
    .filter((name) => name.endsWith('.fid'))
    .map((name) => name.slice(0, -'.fid'.length));

  describe.each(cases)('%s', (name) => {
    const dimensions = golden.shape(`${name}.mu1`)[0];
    const stored = (i: number): Statistics => ({
      mean: golden.f64(`${name}.mu${i}`),
      covariance: golden.f64(`${name}.sigma${i}`),
      single: golden.get(`${name}.sigma${i}`) instanceof Float32Array,
    });
    const trace = ({ covariance }: Statistics) =>
      Array.from({ length: dimensions }, (_, i) => covariance[i * (dimensions + 1)]).reduce((a, b) => a + b, 0);
    const scale = trace(stored(1)) + trace(stored(2));
    /** Of the references the last has float64 means; the first has them in float32. */
    const symmetric = golden.f64(`${name}.fid`)[2];

    it('from features', () => {
      const [a, b] = [1, 2].map((i) => {
        const moments = new Moments(dimensions);
        moments.add(golden.f32(`${name}.features${i}`));
        const statistics = moments.statistics();
        // The file holds some covariances in float32; ours round features to 2^-24.
        expectClose(statistics.mean, golden.f64(`${name}.mu${i}`), { absolute: 2 ** -24 }, 'mean');
        expectClose(statistics.covariance, golden.f64(`${name}.sigma${i}`), { relative: 1e-7 }, 'covariance');
        return statistics;
      });
      const distance = frechetDistance(a, b);
      expect(Math.abs(distance - symmetric)).toBeLessThanOrEqual(2e-8 * scale);
      for (const value of golden.f64(`${name}.fid`)) {
        expect(Math.abs(distance - value)).toBeLessThanOrEqual(1e-6 * (scale + symmetric));
      }
      expect(frechetDistance(b, a)).toBeCloseTo(distance, 10);
    });

    it('from stored statistics', () => {
      // A covariance in float32 is one of other features: noise takes the place of variance that is zero.
      const single = stored(1).single || stored(2).single;
      const distance = frechetDistance(stored(1), stored(2));
      expect(Math.abs(distance - symmetric)).toBeLessThanOrEqual((single ? 1e-6 : 2e-8) * scale);
    });
  });

  if (golden.has('is.logits')) {
    const [images, classes] = golden.shape('is.logits');

    it('shuffles as NumPy does', () => {
      expect([...numpyPermutation(images, 2020)]).toEqual([...golden.get('is.permutation')].map(Number));
    });

    const scores = golden.names('is.splits').map((name) => [name] as const);
    it.each(scores)('%s', (name) => {
      const [, splits, order] = /^is\.splits(\d+)\.(shuffled|ordered)$/.exec(name) ?? [];
      const { mean, deviation } = inceptionScore(golden.f32('is.logits'), classes, {
        splits: Number(splits),
        order: order === 'shuffled' ? 'shuffled' : 'given',
      });
      expectClose([mean, deviation], golden.f64(name), { relative: 1e-6 }, name);
    });
  }
});
