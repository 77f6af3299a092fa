/** The posterior of a tokenizer against the official DiagonalGaussianDistribution. */
import { expect, test } from 'vitest';
import { latentConversion } from '../../src/training/data/batches.ts';
import { posteriorNoise, samplePosterior } from '../../src/training/data/posterior.ts';
import { describeGolden, describeGoldenFile, expectClose, goldenPath } from '../helpers/golden.ts';
import { readNpz } from '../../src/formats/npz.ts';

describeGolden('vae_gaussian', (golden) => {
  test('mean and deviation of extreme parameters', () => {
    const parameters = golden.f32('parameters');
    const items = golden.shape('parameters')[0];
    const [per, half] = [parameters.length / items, parameters.length / items / 2];
    for (let i = 0; i < items; i++) {
      const moments = parameters.subarray(i * per, (i + 1) * per);
      const mean = golden.f32('mean').subarray(i * half, (i + 1) * half);
      const std = golden.f32('std').subarray(i * half, (i + 1) * half);
      expect(samplePosterior(moments, new Float32Array(half), 1)).toEqual(mean);
      for (const at of mean.keys()) {
        const noise = new Float32Array(half);
        noise[at] = 3;
        expectClose([samplePosterior(moments, noise, 1)[at]], [mean[at] + 3 * std[at]], { relative: 1e-6 });
      }
    }
  });
});

describeGolden('vae_kl16*', (golden) => {
  const cases = golden
    .names()
    .filter((name) => /^case.*\.moments$/.test(name) && golden.has(name.replace('moments', 'eps')));
  test.each(cases.map((name) => name.slice(0, -'.moments'.length)))('%s: latents of moments and noise', (name) => {
    const moments = golden.f32(`${name}.moments`);
    const [items] = golden.shape(`${name}.moments`);
    const per = moments.length / items;
    const scale = Number(golden.meta('latent_scale'));
    for (let i = 0; i < items; i++) {
      const part = (tensor: string) => golden.f32(`${name}.${tensor}`).subarray((i * per) / 2, ((i + 1) * per) / 2);
      const own = moments.subarray(i * per, (i + 1) * per);
      expectClose(samplePosterior(own, part('eps'), 1), part('z'), { relative: 1e-6 }, `z of item ${i}`);
      expectClose(samplePosterior(own, part('eps'), scale), part('latent'), { relative: 1e-6 }, `latent of item ${i}`);
    }
  });
});

describeGoldenFile('cached_latent_example.npz', (file) => {
  test('is a posterior that can be drawn from', async () => {
    const { shape, data } = (await readNpz(goldenPath(file))).get('moments')!;
    const moments = data as Float32Array;
    const { convert, shape: latent } = latentConversion(shape, 'moments', 0.2325, 3);
    expect(latent).toEqual({ channels: shape[0] / 2, height: shape[1], width: shape[2] });
    const out = new Float32Array(moments.length / 2);
    convert(moments, out, { epoch: 2, index: 5, flipped: false });
    const noise = posteriorNoise(3, 2, 5, out.length);
    const [mean, logVariance] = [moments.subarray(0, out.length), moments.subarray(out.length)];
    const expected = Float32Array.from(
      out,
      (_, i) => 0.2325 * (mean[i] + Math.sqrt(Math.exp(logVariance[i])) * noise[i]),
    );
    expectClose(out, expected, { relative: 1e-6 });
  });
});
