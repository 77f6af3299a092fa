/** `emigm eval fid` with Inception's architecture and made-up weights: figures, files, and one clear line for bad input. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readStatistics } from '../../src/evaluation/statistics_file.ts';
import { writePng } from '../../src/formats/images.ts';
import { listPictures } from '../../src/formats/picture_list.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { parameterShapes } from '../../src/models/inception/architecture.ts';
import { emigm } from '../helpers/cli.ts';
import { formulaWeight, random } from '../helpers/golden.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-eval-'));
const at = (...parts: string[]) => join(folder, ...parts);
const weights = at('inception.safetensors');
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeAll(async () => {
  const tensors = [...parameterShapes()].map(([name, shape]) => {
    return { name, dtype: 'F32' as const, shape, data: () => formulaWeight(name, shape, 1.5) };
  });
  await writeSafetensors(weights, tensors);
  const rng = random();
  const write = (path: string, side: number) => {
    const rgb = Uint8Array.from({ length: side * side * 3 }, () => rng.integer(0, 255));
    return writePng(path, { rgb, width: side, height: side });
  };
  mkdirSync(at('a', 'deep'), { recursive: true });
  mkdirSync(at('b'));
  mkdirSync(at('empty'));
  for (const i of [0, 1, 2]) await write(at('a', `${i}.png`), 16);
  await write(at('a', 'deep', '3.png'), 9);
  for (const i of [0, 1, 2, 3]) await write(at('b', `${i}.png`), 16);
  await write(at('b', 'sheet.png'), 20);
  const files = [0, 1, 2, 3].map((i) => ({ file: `${i}.png` }));
  writeFileSync(at('b', 'sample.json'), JSON.stringify({ images: files }));
  delete process.env.EMIGM_INCEPTION;
});

const fid = (...argv: string[]) => emigm(['eval', 'fid', ...argv]);

describe('figures', () => {
  it('against a folder, with statistics to be compared with later', { timeout: 300_000 }, async () => {
    const out = at('a.npz');
    const flags = ['--inception', weights, '--splits', '2', '--sfid', '--precision-recall', '--json', '--out', out];
    const result = await fid('--images', at('a'), '--reference', at('b'), ...flags);
    expect(result.code, result.err).toBe(0);
    const report = JSON.parse(result.out);
    expect(report).toMatchObject({
      features: 'Inception-v3 (2015-12-05)',
      weights: { file: weights, published: false },
      images: { count: 4 },
      reference: { path: at('b'), count: 4 },
      settings: { splits: 2, order: 'shuffled', neighbours: 3 },
    });
    expect(Object.keys(report.figures)).toEqual(['FID', 'sFID', 'Inception Score', 'precision', 'recall']);
    for (const name of ['FID', 'sFID']) expect(report.figures[name].value).toBeGreaterThan(0);
    expect(report.figures['Inception Score'].value).toBeGreaterThanOrEqual(1);
    expect(report.notes.join()).toMatch(/4 here, 50,000.*not the published file/);
    const { statistics, spatial, extractor } = await readStatistics(out);
    expect([statistics.mean.length, statistics.count, spatial?.mean.length]).toEqual([2048, 4, 2023]);
    expect(extractor).toBe('Inception-v3 (2015-12-05)');

    // The same images again, in batches of one: at distance 0 from their own statistics.
    const again = await fid('--images', at('a'), '--reference', out, '--inception', weights, '--batch', '1');
    expect(again.code, again.err).toBe(0);
    expect(again.out).toMatch(/^FID +0\.0000$/m);
    expect(again.out).toMatch(/^features +Inception-v3 \(2015-12-05\), 4 images against .*a\.npz$/m);
    expect(again.err).toMatch(/no Inception Score: 10 splits/);
    expect(again.err).toMatch(/images a second/);
  });
});

it('pictures of a sampling run are those that it lists', async () => {
  expect(await listPictures(at('b'))).toEqual([0, 1, 2, 3].map((i) => at('b', `${i}.png`)));
  expect(await listPictures(at('a'))).toEqual([...[0, 1, 2].map((i) => at('a', `${i}.png`)), at('a', 'deep', '3.png')]);
});

describe('bad input ends in one line and a non-zero exit', () => {
  const notes = () => {
    writeFileSync(at('notes.npz'), 'nothing of the kind');
    return at('notes.npz');
  };
  const cases: [string, () => string[], number, RegExp][] = [
    ['no weights', () => ['--images', at('a')], 1, /weights are needed: download https:.*6726825d\.pth.*--inception/],
    [
      'weights absent',
      () => ['--images', at('a'), '--inception', at('none.pth')],
      1,
      /none\.pth: no such file.*https:/,
    ],
    ['no pictures', () => ['--images', at('empty'), '--inception', weights], 1, /empty: has no pictures/],
    ['no folder', () => ['--images', at('none'), '--inception', weights], 1, /none: no such file/],
    ['no images flag', () => ['--inception', weights], 2, /--images/],
    ['unknown order', () => ['--images', at('a'), '--order', 'random'], 2, /shuffled, given/],
    [
      'precision without images',
      () => ['--images', at('a'), '--inception', weights, '--reference', notes(), '--precision-recall'],
      1,
      /folder of images/,
    ],
    ['half precision', () => ['--images', at('a'), '--inception', weights, '--stored', 'f16'], 1, /single precision/],
    ['a flag of --generate', () => ['--images', at('a'), '--steps', '4'], 2, /--steps counts with --generate/],
    ['one image', () => ['--generate', '1'], 1, /two images or more/],
    ['no folder for --out', () => ['--images', at('a'), '-o', at('none', 'x.npz')], 1, /there is no folder .*none/],
    ['other weights', () => ['--images', at('a'), '--inception', notes()], 1, /notes\.npz/],
  ];
  it.each(cases)('%s', async (_, argv, code, message) => {
    const result = await fid(...argv());
    expect(result.err).toMatch(/^emigm: [^\n]+$/);
    expect(result.err).toMatch(message);
    expect(result.code).toBe(code);
  });
});
