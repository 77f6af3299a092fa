/** Reports: what the numbers become, and how the page looks in a browser. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, describe, expect, it } from 'vitest';
import { writeReport } from '../../src/cli/write_report.ts';
import { renderCurves } from '../../src/cli/curves.ts';
import { seriesLook } from '../../src/measurement/figure_base.ts';
import { figureSpecs } from '../../src/measurement/figures.ts';
import { logarithmic } from '../../src/measurement/roofline_spec.ts';
import { runNames, split } from '../../src/measurement/rows.ts';
import { parseReport } from '../../src/measurement/schema.ts';
import {
  comparisonTable,
  csv,
  digits,
  latencyTable,
  markdown,
  partsTable,
  time,
} from '../../src/measurement/tables.ts';
import type { NfeReport } from '../../src/measurement/schema.ts';
import { wrapped } from '../../src/measurement/text_width.ts';
import { hasBrowser, withPage } from '../helpers/browser.ts';
import { madeReport, madeRow } from '../helpers/nfe_report.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-report-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const rows = [4, 8, 16].flatMap((steps) => [1, 8].map((batch) => madeRow(steps, batch)));
rows[0].quality = [{ name: 'FID', value: 3.5, images: 50_000, reference: 'imagenet.npz' }];
const one = madeReport('Adapter A', rows);
const two = madeReport(
  'Adapter B',
  [4, 8].map((steps) => madeRow(steps, 1, 2)),
);

describe('tables', () => {
  it('numbers have three significant digits and no exponent', () => {
    expect([1234.5, 12.345, 0.0012345, 0, Number.NaN].map(digits)).toEqual(['1235', '12.3', '0.00123', '0', '-']);
    expect([2, 0.0123, 4.5e-5].map(time)).toEqual(['2.00 s', '12.3 ms', '45.0 us']);
  });

  it('columns are what differs between rows; what is common is said once', () => {
    expect(split(rows).varying).toEqual(['steps', 'batch']);
    const { head, rows: cells } = latencyTable(rows);
    expect(head.slice(0, 5)).toEqual(['steps', 'batch', 'NFE', 'head rows', 's/image']);
    expect(cells[0].slice(0, 5)).toEqual(['4', '1', '6', '2048', '0.180']);
    expect(head.at(-1)).toBe('FID');
    expect([cells[0].at(-1), cells[1].at(-1)]).toEqual(['3.50', '-']);
    expect(markdown([one])).toMatch(/In all rows: model b-256, stored f16, .*cfg 4/);
    expect(markdown([one])).toContain('. Quality: FID of 50000 images against imagenet.npz.\n');
  });

  it('what a preset brings along is told by its name', () => {
    const of = (preset: string, counts: string) => {
      const row = madeRow(4, 1);
      return { ...row, preset, settings: { ...row.settings, counts } };
    };
    const [mar, emigm] = [of('mar', 'floor'), of('emigm', 'official')];
    expect(split([mar, emigm]).varying).toEqual(['preset']);
    expect(split([mar, emigm]).common).not.toContain('counts');
    expect(split([mar, emigm, of('mar', 'expected')]).varying).toEqual(['preset', 'counts']);
    expect(split([mar]).common).toContain('counts');
  });

  it('parts with their shares', () => {
    expect(partsTable(rows)!.rows[0].slice(3)).toEqual([
      ...['54.0 ms (30.0%)', '72.0 ms (40.0%)', '36.0 ms (20.0%)', '9.00 ms (5.00%)', '9.00 ms (5.00%)'],
    ]);
    expect(partsTable(rows.map((row) => ({ ...row, parts: {} })))).toBeUndefined();
  });

  it('runs side by side, with speed-ups against the first', () => {
    const { head, rows: cells } = comparisonTable([one, two]);
    expect(head).toEqual(['point', 'NFE', 's/image: Adapter A', 's/image: Adapter B', 'speed-up']);
    expect(cells.find(([id]) => id === 'b-256 steps=8 batch=1')!.slice(1)).toEqual([
      ...['10', '0.260 ± 2.00%', '0.130 ± 2.00%', '2.00x'],
    ]);
    expect(cells.find(([id]) => id === 'b-256 steps=16 batch=8')!.slice(3)).toEqual(['-', '-']);
  });

  it('CSV has all numbers, and quotes what holds a comma', () => {
    const lines = csv([madeReport('A, the "first"', rows)])
      .trimEnd()
      .split('\r\n');
    expect(lines).toHaveLength(1 + rows.length);
    expect(lines[1]).toMatch(/^"A, the ""first""",b-256 steps=4 batch=1,b-256,/);
    const at = lines[0].split(',').indexOf('seconds_encoder');
    // The quoted name has a comma of its own.
    expect(Number(lines[1].split(',')[at + 1])).toBe(rows[0].parts.encoder);
    // Columns of settings that no row has are left out, in the order of the others where one has.
    expect(lines[0]).toMatch(/^run,id,model,stored,kernels,steps,head_steps,head_sampler,cfg,interval,batch,/);
    const saving = { ...rows[0], settings: { ...rows[0].settings, shareEarly: 4 } };
    const [head, without, having] = csv([madeReport('A', [rows[0], saving])]).split('\r\n');
    expect(head).toMatch(/,interval,share_early,batch,/);
    expect([without, having]).toEqual([
      expect.stringMatching(/,0.1 to 0.3,,1,/),
      expect.stringMatching(/,0.1 to 0.3,4,1,/),
    ]);
  });

  it('runs are named by what distinguishes them', () => {
    const later = { ...one, date: '2026-02-02T03:04:05Z' };
    expect(runNames([one, two])).toEqual(['Adapter A', 'Adapter B']);
    expect(runNames([one, later])).toEqual(['Adapter A, 2026-01-02 03:04', 'Adapter A, 2026-02-02 03:04']);
    expect(runNames([one, one])).toEqual(['1: Adapter A', '2: Adapter A']);
  });
});

it('reports are read back, and refused where they are damaged', () => {
  expect(parseReport(JSON.parse(JSON.stringify(one)), 'x')).toEqual(JSON.parse(JSON.stringify(one)));
  expect(() => parseReport({ format: 'other' }, 'x.json')).toThrow(/x\.json: no report of emigm bench nfe/);
  expect(() => parseReport({ ...one, version: 2 }, 'x.json')).toThrow(/version 2; this program reads 1/);
  const damaged = { ...one, rows: [{ ...rows[0], nfe: 'six' }] };
  expect(() => parseReport(damaged, 'x.json')).toThrow(/x\.json: rows\.0\.nfe: /);
});

it('figures that have nothing to show are left out', () => {
  const names = (report: typeof one) => figureSpecs([report]).map(({ name }) => name);
  expect(names(one)).toEqual(['latency', 'parts', 'quality', 'kernels', 'roofline']);
  const bare = [4, 8].map((steps) => ({ ...madeRow(steps, 1), parts: {}, kernels: undefined }));
  expect(names(madeReport('A', bare))).toEqual(['latency']);
});

it('labels are broken after commas, else between words', () => {
  expect(wrapped('head steps 4, share early 8, batch 16', 10, 140)).toEqual([
    'head steps 4,',
    'share early 8, batch 16',
  ]);
  expect(wrapped('one two three', 10, 40)).toEqual(['one', 'two', 'three']);
  expect(wrapped('one', 10, 4)).toEqual(['one']);
});

it('a run that was held up does not flatten the others', () => {
  const held = rows.map((row) => {
    const samples = [...row.seconds.anImage.samples.slice(1), 1e6, 1e6];
    return { ...row, seconds: { ...row.seconds, anImage: { ...row.seconds.anImage, samples } } };
  });
  const [{ spec }] = figureSpecs([madeReport('A', held)]);
  const most = Math.max(...rows.map(({ seconds }) => seconds.anImage.median));
  expect(JSON.stringify(spec)).toContain(`"domain":[0,${1.3 * most}]`);
});

it('more series than colours are told apart by dashes and shapes', async () => {
  const batches = Array.from({ length: 11 }, (_, i) => i + 1);
  const all = [4, 8].flatMap((steps) => batches.map((batch) => madeRow(steps, batch)));
  const drawn = async (...reports: NfeReport[]) => {
    const svg = await renderCurves(figureSpecs(reports)[0].spec);
    const lines = [...svg.matchAll(/<path [^>]*aria-roledescription="line mark"[^>]*>/g)].map(([line]) => line);
    const looks = lines.map((line) => [/stroke="[^"]*"/, /stroke-dasharray="[^"]*"/].map((one) => one.exec(line)?.[0]));
    return [lines.length, new Set(looks.map((look) => String(look))).size];
  };
  expect(await drawn(madeReport('A', all))).toEqual([11, 11]);
  // Lines of two runs look alike, and are two.
  expect(await drawn(madeReport('A', all), madeReport('B', all))).toEqual([22, 11]);
  const looks = Array.from({ length: 32 }, (_, i) => JSON.stringify(seriesLook(i)));
  expect(new Set(looks).size).toBe(32);
});

it('parts of points with one NFE and other steps stand beside each other', () => {
  const shared = rows.filter(({ batch }) => batch === 1).map((row) => ({ ...row, nfe: 5 }));
  const [, parts] = figureSpecs([madeReport('A', shared)]);
  expect(JSON.stringify(parts.spec)).toContain('"title":"NFE (steps)","sort":["5 (4)","5 (8)","5 (16)"]');
});

it('logarithmic axes end at marks around the numbers, and have neither few marks nor many', () => {
  const axis = (...values: number[]) => {
    const { scale, axis } = logarithmic(values, '~g');
    return [scale.domain, axis.values];
  };
  expect(axis(0.3, 40)).toEqual([
    [0.2, 50],
    [0.2, 0.5, 1, 2, 5, 10, 20, 50],
  ]);
  expect(axis(0.03, 170)).toEqual([
    [0.02, 200],
    [0.1, 1, 10, 100],
  ]);
  expect(axis(100)).toEqual([
    [100, 200],
    [100, 200],
  ]);
});

it('every figure as SVG and as PNG of three pixels a unit', async () => {
  await writeReport(join(folder, 'one'), 'nfe', [one]);
  const names = ['latency', 'parts', 'quality', 'kernels', 'roofline'];
  const files = readdirSync(join(folder, 'one', 'figures')).sort();
  expect(files).toEqual(names.flatMap((name) => [`${name}.png`, `${name}.svg`]).sort());
  for (const name of names) {
    const svg = readFileSync(join(folder, 'one', 'figures', `${name}.svg`), 'utf8');
    const [, width] = /<svg[^>]* width="([\d.]+)"/.exec(svg)!;
    const picture = await sharp(join(folder, 'one', 'figures', `${name}.png`)).metadata();
    expect(Math.abs(picture.width - 3 * Number(width)), name).toBeLessThanOrEqual(3);
  }
});

describe.runIf(hasBrowser)('the page in a browser', () => {
  it('opens by itself, without script or network, and fits a phone, a desk and paper', async () => {
    const long = madeReport('Adapter A of a name that is not short, driver 25.0.7-2 (LLVM 15.0.6) 0.0.1', one.rows);
    const html = await writeReport(join(folder, 'two'), 'report', [long, two]);
    await withPage(html, async (tab) => {
      expect(await tab.evaluate('document.title')).toBe('NFE against latency, side by side');
      expect(await tab.evaluate('document.scripts.length')).toBe(0);
      expect(await tab.evaluate('document.querySelectorAll("figure svg").length')).toBe(5);
      expect(await tab.evaluate('document.body.innerText')).toContain('driver <1>');
      const overflow = 'document.documentElement.scrollWidth - document.documentElement.clientWidth';
      const figures = '[...document.querySelectorAll("figure svg")].map((svg) => svg.getBoundingClientRect())';
      for (const width of [360, 820, 1280]) {
        await tab.resize(width, 800);
        expect(await tab.evaluate(overflow), `${width} pixels wide`).toBe(0);
        const boxes = await tab.evaluate<[number, number][]>(`${figures}.map(({ left, right }) => [left, right])`);
        for (const [left, right] of boxes) {
          expect(left).toBeGreaterThanOrEqual(0);
          expect(right).toBeLessThanOrEqual(width);
          expect(right - left).toBeGreaterThan(250);
        }
      }
      // Text in the figures of a phone is more than 9 CSS pixels high.
      await tab.resize(360, 800);
      const texts = await tab.evaluate<number[]>(
        '[...document.querySelectorAll("figure svg text")].filter((text) => text.textContent).map((text) => text.getBoundingClientRect().height)',
      );
      expect(texts.length).toBeGreaterThan(50);
      expect(Math.min(...texts)).toBeGreaterThan(9);
      // None is cut, at its end or by the edge of its figure.
      const cut = await tab.evaluate(
        `[...document.querySelectorAll("figure svg text")].filter((text) => text.textContent.includes("\u2026") ||
          text.getBoundingClientRect().right > text.closest("svg").getBoundingClientRect().right)
          .map((text) => text.textContent)`,
      );
      expect(cut).toEqual([]);
      await tab.resize(680, 900);
      await tab.send('Emulation.setEmulatedMedia', { media: 'print' });
      expect(await tab.evaluate(overflow)).toBe(0);
      // The drawing is there: each series in its own colour, in pixels of the screenshot.
      const { data, info } = await sharp(await tab.screenshot())
        .removeAlpha()
        .raw()
        .toBuffer({ resolveWithObject: true });
      const counts = new Map<number, number>();
      for (let i = 0; i < info.width * info.height; i++) {
        const colour = (data[3 * i] << 16) | (data[3 * i + 1] << 8) | data[3 * i + 2];
        counts.set(colour, (counts.get(colour) ?? 0) + 1);
      }
      for (const colour of [0x0072b2, 0xd55e00, 0x009e73]) expect(counts.get(colour) ?? 0).toBeGreaterThan(200);
      expect(tab.problems).toEqual([]);
      expect(tab.requests).toHaveLength(1);
    });
  });
});
