/** Figures by a classifier's features: they bear its name everywhere, and are compared with no other network's. */
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shippedClassifier } from '../../src/cli/classifier_flags.ts';
import { chooseExtractor } from '../../src/cli/extractor_flags.ts';
import { fullName } from '../../src/evaluation/extractor.ts';
import { readShard } from '../../src/evaluation/shard_file.ts';
import { readStatistics, writeStatistics } from '../../src/evaluation/statistics_file.ts';
import { writePng } from '../../src/formats/images.ts';
import { saveModel } from '../../src/models/checkpoint.ts';
import { emigm } from '../helpers/cli.ts';
import { random } from '../helpers/golden.ts';
import { toyConfig, toySource } from '../helpers/toy.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-extractor-'));
const at = (...parts: string[]) => join(folder, ...parts);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const model = at('toy.safetensors');
const name = 'classifier clothing32-classifier';
let distance = '';
const score = `class score exp KL (${name})`;
let identity = '';

beforeAll(async () => {
  const { source } = await chooseExtractor({ extractor: 'clothing32' });
  identity = fullName(source);
  distance = `Fréchet distance (${name}, ${source.dimensions} features)`;
  const draw = random();
  for (const [set, count] of [
    ['a', 6],
    ['b', 5],
  ] as const) {
    for (const part of [set, `${set}-large`]) mkdirSync(at(part));
    for (let i = 0; i < count; i++) {
      const rgb = Uint8Array.from({ length: 3 * 32 * 32 }, () => draw.integer(0, 255));
      await writePng(at(set, `${i}.png`), { rgb, width: 32, height: 32 });
      // Every pixel four times: what halving by a box filter gives back.
      const large = Uint8Array.from({ length: 3 * 64 * 64 }, (_, k) => {
        const [x, y] = [Math.floor(k / 3) % 64, Math.floor(k / 3 / 64)];
        return rgb[3 * (32 * (y >> 1) + (x >> 1)) + (k % 3)];
      });
      await writePng(at(`${set}-large`, `${i}.png`), { rgb: large, width: 64, height: 64 });
    }
  }
  const read = async (parameter: string) => new Float32Array(await toySource(toyConfig).read(parameter));
  const sampling = { steps: 2, headSteps: 2, cfg: 1 };
  await saveModel(model, { config: toyConfig, info: { name: 'toy', sampling }, read });
});

const fid = (...argv: string[]) => emigm(['eval', 'fid', '--extractor', 'clothing32', ...argv]);
const refused = async (argv: readonly string[], message: RegExp) => {
  const { code, err } = await emigm(argv);
  expect([code, err]).toEqual([1, expect.stringMatching(message)]);
  expect(err).not.toContain('\n');
};

describe('emigm eval fid --extractor', () => {
  it('names the classifier with every figure and in the statistics', { timeout: 120_000 }, async () => {
    const flags = ['--splits', '2', '--precision-recall', '--json', '--out', at('a.npz')];
    const result = await fid('--images', at('a'), '--reference', at('b'), ...flags);
    expect(result.code, result.err).toBe(0);
    const report = JSON.parse(result.out);
    const names = [distance, score, `precision (${name})`, `recall (${name})`];
    expect(Object.keys(report.figures)).toEqual(names);
    expect(report.figures[distance].value).toBeGreaterThan(0);
    expect(report).toMatchObject({ features: identity, weights: { file: shippedClassifier() } });
    expect(report.weights).not.toHaveProperty('published');
    expect(report.notes).toEqual([expect.stringMatching(/^this is no FID: .*same classifier, of 6 images/)]);
    expect(identity).toContain(report.weights.sha256.slice(0, 8));
    expect((await readStatistics(at('a.npz'))).extractor).toBe(identity);
  });

  it('resizes images to the classifier, and prints no FID', { timeout: 120_000 }, async () => {
    const result = await fid('--images', at('a-large'), '--reference', at('a.npz'), '--splits', '2');
    expect(result.code, result.err).toBe(0);
    expect(result.out).toContain(distance);
    expect(result.out).toMatch(/features\) +0\.0000$/m);
    expect(result.out).toContain(`${identity}, 6 images against`);
    expect(result.out).not.toMatch(/FID|Inception/);
  });

  it('kept sums belong to it; emigm merge tells its name', { timeout: 120_000 }, async () => {
    const drawn = (...argv: string[]) => fid('--generate', '4', '-m', model, '--state', at('sums'), ...argv);
    const result = await drawn();
    expect(result.code, result.err).toBe(0);
    expect((await readShard(at('sums', 'shard-000-of-001.npz'))).about.extractor).toMatchObject({ name });
    const merged = await emigm(['merge', at('sums'), '--splits', '2', '--reference', at('a.npz'), '--json']);
    expect(merged.code, merged.err).toBe(0);
    expect(Object.keys(JSON.parse(merged.out).figures)).toEqual([distance, score]);
    copyFileSync(shippedClassifier(), at('other.safetensors'));
    const other = await drawn('--extractor', at('other.safetensors'));
    expect([other.code, other.err]).toEqual([1, expect.stringMatching(/is of another run \(extractor differs\)/)]);
  });
});

describe('refuses in one line', () => {
  it('statistics by another network', { timeout: 120_000 }, async () => {
    const { dimensions } = (await chooseExtractor({ extractor: 'clothing32' })).source;
    const statistics = { mean: new Float64Array(dimensions), covariance: new Float64Array(dimensions ** 2) };
    const images = ['eval', 'fid', '--images', at('a'), '--extractor', 'clothing32', '--reference'];
    const made = (extractor: string | undefined) => writeStatistics(at('other.npz'), { statistics, extractor });
    await made(`${name} (SHA-256 00000000)`);
    await refused(
      [...images, at('other.npz')],
      /statistics are of .*00000000\), the images' of classifier clothing32-/,
    );
    await made('Inception-v3 (2015-12-05)');
    await refused([...images, at('other.npz')], /statistics are of Inception-v3 .*, the images' of classifier/);
    await made(undefined);
    await refused([...images, at('other.npz')], /do not say that they are of classifier/);
    const bench = ['bench', 'nfe', '--model', model, '--quality', '4', '--extractor', 'clothing32', '--reference'];
    await refused([...bench, at('other.npz'), '--out', at('bad')], /do not say that they are of classifier/);
  });

  it.each([
    [['--extractor', 'none.safetensors'], /--extractor none\.safetensors: no such file; give inception, clothing32 or/],
    [['--extractor', model], /toy\.safetensors is no classifier/],
    [['--extractor', 'clothing32', '--shard', '0/2'], /shard 0 of 2 needs a folder for its sums: --state/],
    [['--extractor', 'clothing32', '--sfid'], /--sfid is of Inception's features/],
    [['--extractor', 'clothing32', '--inception', 'w.pth'], /name two networks; leave one out/],
  ])('%s', async (argv, message) => {
    await refused(['eval', 'fid', '--images', at('a'), ...argv], message);
  });
});
