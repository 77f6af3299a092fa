/** Features gathered from batches, and figures that bear the name of the network they come from. */
import { describe, expect, it } from 'vitest';
import { collect } from '../../src/evaluation/collect.ts';
import { type FeatureExtractor, type Features, fullName } from '../../src/evaluation/extractor.ts';
import { figures, statisticsOf } from '../../src/evaluation/figures.ts';
import { frechetDistance } from '../../src/evaluation/frechet.ts';
import { inceptionScore } from '../../src/evaluation/inception_score.ts';
import type { RgbImage } from '../../src/formats/rgb.ts';
import { random } from '../helpers/golden.ts';

/** Features of an image: the means of its colours, and its size. */
class Colours implements FeatureExtractor {
  readonly name: string = 'colours';
  readonly isInception: boolean = false;
  readonly dimensions = 4;
  readonly classes = 3;
  readonly spatialDimensions = 3;
  readonly range = 64;
  readonly batches: number[] = [];

  async extract(images: readonly RgbImage[]): Promise<Features> {
    this.batches.push(images.length);
    expect(new Set(images.map(({ width, height }) => `${width} ${height}`)).size).toBe(1);
    const means = images.map(({ rgb, width, height }) => {
      const sum = [0, 0, 0];
      for (const [i, byte] of rgb.entries()) sum[i % 3] += byte;
      return sum.map((value) => value / (8 * width * height));
    });
    return {
      features: Float32Array.from(means.flatMap((mean, i) => [...mean, images[i].width])),
      logits: Float32Array.from(means.flat()),
      spatial: Float32Array.from(means.flatMap(([r, g, b]) => [b, r, g])),
    };
  }

  dispose(): void {}
}

function pictures(count: number, brightness = 256): RgbImage[] {
  const rng = random();
  return Array.from({ length: count }, (_, i) => {
    const width = i % 7 === 3 ? 3 : 2;
    const rgb = Uint8Array.from({ length: width * 2 * 3 }, () => Math.floor(rng.next() * brightness));
    return { rgb, width, height: 2 };
  });
}

async function* stream(images: readonly RgbImage[]) {
  yield* images;
}

describe('collect', () => {
  it('keeps the order of images, in batches of one size', async () => {
    const images = pictures(23);
    const extractor = new Colours();
    const done: number[] = [];
    const options = { keepFeatures: true, onProgress: (count: number) => done.push(count) };
    const set = await collect(extractor, stream(images), { batch: 4, ...options });
    const single = await collect(new Colours(), stream(images), { batch: 1, keepFeatures: true });
    expect(Math.max(...extractor.batches)).toBeGreaterThan(1);
    expect(done.at(-1)).toBe(23);
    expect(set.count).toBe(23);
    expect(set.features).toEqual(single.features);
    expect(set.logits).toEqual(single.logits);
    expect(set.moments.statistics()).toEqual(single.moments.statistics());
    expect(set.spatial?.statistics()).toEqual(single.spatial?.statistics());
  });

  it('stops when asked to, and without images', async () => {
    const aborted = AbortSignal.abort();
    await expect(collect(new Colours(), stream(pictures(2)), { batch: 1, signal: aborted })).rejects.toThrow('stopped');
    await expect(collect(new Colours(), stream([]), { batch: 1 })).rejects.toThrow(/no images/);
  });
});

describe('figures', () => {
  it('of another network bear its name', async () => {
    const extractor = new Colours();
    const sets = await Promise.all(
      [pictures(30), pictures(25, 200)].map((images) =>
        collect(extractor, stream(images), { batch: 5, keepFeatures: true }),
      ),
    );
    const [sample, reference] = sets.map((set) => statisticsOf(extractor, set));
    const found = await figures(extractor, sets[0], sample, reference, { splits: 3, precisionRecall: {} });
    expect(found.map(({ name }) => name)).toEqual([
      'Fréchet distance (colours, 4 features)',
      'Fréchet distance (colours, 3 spatial features)',
      'class score exp KL (colours)',
      'precision (colours)',
      'recall (colours)',
    ]);
    expect(found[0].value).toBe(frechetDistance(sample.statistics, reference.statistics));
    expect(found[1].value).toBe(frechetDistance(sample.spatial!, reference.spatial!));
    const { mean, deviation } = inceptionScore(sets[0].logits!, 3, { splits: 3 });
    expect(found[2]).toMatchObject({ value: mean, deviation });
    for (const { value } of found.slice(3)) expect(value >= 0 && value <= 1).toBe(true);
    expect(await figures(extractor, sets[0], sample, undefined, { splits: 31 })).toEqual([]);
  });

  it('of different networks are not compared', async () => {
    const extractor = new Colours();
    const set = await collect(extractor, stream(pictures(5)), { batch: 5 });
    const sample = statisticsOf(extractor, set);
    const other = { ...sample, extractor: 'Inception-v3 (2015-12-05)' };
    await expect(figures(extractor, set, sample, other)).rejects.toThrow(/of Inception-v3 .*of colours/);
    // Two classifiers may bear one name.
    const again = { ...sample, extractor: fullName({ name: 'colours', digest: '0a1b2c3d' }) };
    await expect(figures(extractor, set, sample, again)).rejects.toThrow(/colours \(SHA-256 0a1b2c3d\), .*of colours$/);
    const unnamed = { ...sample, extractor: undefined };
    await expect(figures(extractor, set, sample, unnamed)).rejects.toThrow(/do not say that they are of colours/);
    const short = { statistics: { mean: new Float64Array(2), covariance: new Float64Array(4) } };
    await expect(figures(extractor, set, sample, short)).rejects.toThrow(/2 features, colours has 4/);
    await expect(figures(extractor, set, sample, sample, { precisionRecall: {} })).rejects.toThrow(/need the images/);
  });
});
