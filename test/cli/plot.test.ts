import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { curvesSpec } from '../../src/cli/curves.ts';
import { readImage } from '../../src/formats/images.ts';
import { axisPresets } from '../../src/masking/axes.ts';
import { trainingSchedules } from '../../src/masking/schedules.ts';
import { emigm } from '../helpers/cli.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-plot-'));
const run = join(folder, 'shapes & forms');
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const lines = Array.from({ length: 2000 }, (_, i) => ({
  step: i + 1,
  loss: 0.1 + Math.exp(-i / 300),
  lr: i < 100 ? i * 1e-5 : 1e-3,
  gradient_norm: 0.5,
  images_per_second: 300,
}));

beforeAll(() => {
  mkdirSync(run);
  writeFileSync(join(run, 'log.jsonl'), `${lines.map((line) => JSON.stringify(line)).join('\n')}\n{"step":2001,"lo`);
});

async function plotted(...argv: string[]): Promise<string> {
  const { code, err, out } = await emigm(['plot', ...argv]);
  expect([code, err]).toEqual([0, '']);
  return out;
}

test('both files in the run folder', async () => {
  expect(await plotted(run)).toBe(`${join(run, 'curves.svg')}\n${join(run, 'curves.png')}`);
  const svg = readFileSync(join(run, 'curves.svg'), 'utf8');
  expect(svg).toMatch(/^<svg[^>]*>[\s\S]*<\/svg>\s*$/);
  const texts = [...svg.matchAll(/<text[^>]*>([^<]*)<\/text>/g)].map(([, text]) => text);
  for (const text of [
    'shapes &amp; forms',
    'loss',
    'smoothed',
    'mean of 3 steps',
    'learning rate',
    'gradient norm',
    'images / s',
    'step',
  ]) {
    expect(texts).toContain(text);
  }
  expect(svg).not.toMatch(/NaN|undefined/);
  const { rgb, width, height } = await readImage(join(run, 'curves.png'));
  expect(width).toBeGreaterThan(800);
  expect(height).toBeGreaterThan(700);
  // The curve of the smoothed loss, #1f4e8c, is drawn in most columns.
  const columns = new Set<number>();
  for (let i = 0; i < width * height; i++) {
    if (rgb[3 * i] === 0x1f && rgb[3 * i + 1] === 0x4e && rgb[3 * i + 2] === 0x8c) columns.add(i % width);
  }
  expect(columns.size).toBeGreaterThan(0.7 * width);
});

test('one file, from the log itself, later steps, logarithmic', async () => {
  const out = join(folder, 'loss.SVG');
  expect(await plotted(join(run, 'log.jsonl'), '--out', out, '--from', '1500', '--log')).toBe(out);
  const svg = readFileSync(out, 'utf8');
  expect(svg).toContain('>each step<');
  expect(svg).toContain('>2,000<');
  expect(svg).not.toContain('>1,000<');
  expect(await plotted(run, '--out', join(folder, 'both'))).toBe(
    `${join(folder, 'both.svg')}\n${join(folder, 'both.png')}`,
  );
});

describe('specification', () => {
  // biome-ignore lint/suspicious/noExplicitAny: the parts looked at are known
  const panels = (...args: Parameters<typeof curvesSpec>): any[] => (curvesSpec(...args) as any).vconcat;

  test('means of neighbours keep the mean; the smoothed loss comes from all steps', () => {
    const [loss] = panels(lines, { title: 'x', smoothing: 0.5 });
    const { values } = loss.data;
    expect(values.length).toBe(667);
    const mean = (numbers: number[]) => numbers.reduce((a, b) => a + b) / numbers.length;
    expect(values[0].value).toBeCloseTo(mean(lines.slice(0, 3).map((line) => line.loss)), 12);
    expect(values[0]).toMatchObject({ step: 3 });
    const [a, b, c] = lines.map((line) => line.loss);
    expect(values[0].smoothed).toBeCloseTo((a / 4 + b / 2 + c) / (1 + 1 / 2 + 1 / 4), 12);
  });

  test('what the log lacks is left out', () => {
    const some = [
      { step: 1, loss: 2, lr: null },
      { step: 2, loss: null },
      { step: 3, loss: 1 },
    ];
    const found = panels(some, { title: 'x' });
    expect(found).toHaveLength(1);
    expect(found[0].data.values.map((point: { step: number }) => point.step)).toEqual([1, 3]);
  });

  test('no logarithm of a loss that is not positive', () => {
    const scale = (loss: number) =>
      panels([{ step: 1, loss }], { title: 'x', log: true })[0].layer[0].encoding.y.scale.type;
    expect([scale(1), scale(-1)]).toEqual(['log', 'linear']);
  });
});

describe('refusals', () => {
  test.each<[string, () => string[], RegExp]>([
    ['no folder', () => [join(folder, 'absent')], /absent: no such file/],
    ['no log', () => [folder], /log\.jsonl: no such file/],
    ['nothing left', () => [run, '--from', '5000'], /the log has no numbers to draw yet/],
    ['smoothing', () => [run, '--smoothing', '1'], /smoothing 1 is not from 0 to below 1/],
    ['nowhere to write', () => [run, '--out', join(folder, 'absent', 'x.svg')], /x\.svg: could not be written/],
  ])('%s', async (_, argv, message) => {
    const { code, err } = await emigm(['plot', ...argv()]);
    expect(err).toMatch(/^emigm: [^\n]+$/);
    expect(err).toMatch(message);
    expect(code).toBe(1);
  });

  test('a damaged log', async () => {
    const broken = join(folder, 'broken.jsonl');
    writeFileSync(broken, '{"step":1,"loss":1}\nhello\n');
    expect((await emigm(['plot', broken])).err).toMatch(/line 2 is no JSON object/);
  });
});

describe('the axes', () => {
  const docs = (name: string) => readFileSync(new URL(`../../docs/${name}`, import.meta.url), 'utf8');

  test('are drawn from their tables: the figures of docs/framework.md', async () => {
    const files = (await plotted('--axes', '--out', join(folder, 'axes'))).split('\n');
    expect(files.map((file) => basename(file))).toEqual([
      'mask-schedules.svg',
      'weightings.svg',
      'reveals-8.svg',
      'reveals-16.svg',
    ]);
    const page = docs('framework.md');
    // Vega counts the clip paths of a process.
    const drawing = (svg: string) => svg.replace(/clip\d+/g, 'clip');
    for (const file of files) {
      const svg = readFileSync(file, 'utf8');
      expect(svg).not.toMatch(/NaN|undefined/);
      expect(drawing(docs(`images/${basename(file)}`)), file).toBe(drawing(svg));
      expect(page).toContain(`](images/${basename(file)})`);
    }
    for (const name of Object.keys(trainingSchedules)) {
      expect(readFileSync(files[0], 'utf8')).toContain(`>${name}</text>`);
      expect(page).toContain(`| \`${name}\` |`);
    }
  });

  test('of each preset stand in the table of docs/framework.md', () => {
    const rows = docs('framework.md')
      .split('\n')
      .filter((line) => /^\| `?\w+`? \|( [^|]+ \|){4}$/.test(line))
      .map((line) => line.split('|').map((cell) => cell.trim().replaceAll('`', '')));
    const names = rows[0].slice(2, 6);
    expect(names).toEqual(Object.keys(axisPresets));
    for (const [i, name] of names.entries()) {
      const column = Object.fromEntries(rows.slice(1).map((row) => [row[1], row[i + 2]]));
      const axes = Object.entries(axisPresets[name as keyof typeof axisPresets]);
      expect(column).toEqual(Object.fromEntries(axes.map(([axis, value]) => [axis, String(value)])));
    }
  });

  test.each([[[]], [['x', '--axes']]])('or a run: %j', async (argv) => {
    const { code, err } = await emigm(['plot', ...argv]);
    expect([code, err]).toEqual([1, 'emigm: name a run, or give --axes alone']);
  });
});
