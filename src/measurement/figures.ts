/** Figures of reports as Vega-Lite specifications. */
import type { TopLevelSpec } from 'vega-lite';
import {
  base,
  BREAK,
  COLOURS,
  type FigureSpec,
  HEIGHT,
  inLines,
  labelOf,
  nominal,
  quantitative,
  seriesLook,
  WIDTH,
} from './figure_base.ts';
import { rooflineSpec } from './roofline_spec.ts';
import { type Field, label, PART_NAMES, PARTS, runNames, split } from './rows.ts';
import type { NfeReport, Quality, Row } from './schema.ts';
import { quantile } from './statistics.ts';

const PART_COLOURS: Readonly<Record<string, string>> = {
  encoder: '#0072b2',
  decoder: '#56b4e9',
  head: '#d55e00',
  rest: '#009e73',
  idle: '#c8c8c8',
  decode: '#e69f00',
};
const MOST_KERNELS = 12;
const MOST_PANELS = 6;
/** A line for each series, however it is told apart. */
const detail = { field: 'series', type: nominal };
/** Pixels that labels may stand over at the right of a panel. */
const MARGIN = 60;
/** How far bars of spread reach, in times the largest median. */
const MOST_BAR = 1.3;

/** A row with the name of its run and, apart from steps and NFE, of itself. */
interface Named {
  row: Row;
  run: string;
  own: string;
  /** Both, where there are several runs. */
  series: string;
}

/** Rows of one series beside each other, and series that differ in their run alone. */
function named(reports: readonly NfeReport[]): Named[] {
  const runs = runNames(reports).map(labelOf);
  const all = reports.flatMap(({ rows }) => rows);
  const names: Field[] = split(all).varying.filter((field) => field !== 'steps');
  const found = reports.flatMap(({ rows }, i) =>
    rows.map((row) => {
      const run = runs[i];
      const own = labelOf(label(row, names));
      const series = reports.length > 1 ? [run, own].filter(Boolean).join(`:${BREAK}`) : own || labelOf(row.model.name);
      return { row, run, own, series };
    }),
  );
  const order = [...new Set(found.map(({ own }) => own))];
  return order.flatMap((own) => found.filter((one) => one.own === own));
}

/**
 * How series are told apart: by colour, and by shape and dashes the runs where there are several series of each. Where
 * there are more series than colours, dashes tell those of one colour apart.
 */
function encodings(rows: readonly Named[]) {
  const names = (field: 'run' | 'own' | 'series') => [...new Set(rows.map((row) => row[field]))];
  const by = (field: string, more = {}) => ({
    field,
    type: nominal,
    title: null,
    sort: null,
    legend: inLines,
    ...more,
  });
  const looks = (field: 'series' | 'own', look: 'color' | 'shape' | 'strokeDash', more = {}) => {
    const domain = names(field);
    return by(field, { scale: { domain, range: domain.map((_, i) => seriesLook(i)[look]) }, ...more });
  };
  if (names('run').length === 1 || names('own').length === 1) {
    // A scale would dash the outlines of the legend's symbols too.
    const condition = names('series').map((name, i) => {
      return { test: { field: 'series', equal: name }, value: seriesLook(i).strokeDash };
    });
    const isMany = condition.length > COLOURS.length;
    return {
      color: looks('series', 'color'),
      shape: looks('series', 'shape'),
      ...(isMany && { strokeDash: { condition, value: [1, 0] } }),
    };
  }
  const run = by('run');
  const isMany = names('own').length > COLOURS.length;
  const legend = { ...inLines, symbolType: isMany ? 'stroke' : 'square' };
  const strokeDash = isMany ? looks('own', 'strokeDash', { legend }) : run;
  return { color: looks('own', 'color', { legend }), shape: run, strokeDash };
}

/** All figures that the numbers allow. */
export function figureSpecs(reports: readonly NfeReport[]): FigureSpec[] {
  const rows = named(reports);
  const found = [latency(rows), byPart(rows), quality(rows), byKernel(rows), roofline(reports, rows)];
  return found.filter((figure) => figure !== undefined);
}

function latency(rows: readonly Named[]): FigureSpec {
  const values = rows.map(({ row, ...names }) => {
    const { median, samples } = row.seconds.anImage;
    return { nfe: row.nfe, seconds: median, low: quantile(samples, 0.25), high: quantile(samples, 0.75), ...names };
  });
  // A run that was held up is not to flatten all the others: its bar leaves the frame.
  const most = MOST_BAR * Math.max(...values.map(({ seconds }) => seconds));
  const top = Math.min(most, Math.max(...values.map(({ high }) => high)));
  const x = { field: 'nfe', type: quantitative, title: 'NFE (network evaluations an image)', scale: { zero: true } };
  const y = { field: 'seconds', type: quantitative, title: 'seconds an image', scale: { domain: [0, top] } };
  const { color, shape, strokeDash } = encodings(rows);
  const range = { y: { ...y, field: 'low' }, y2: { field: 'high' } };
  const spec = {
    ...base,
    width: WIDTH,
    height: HEIGHT,
    data: { values },
    encoding: { x, color },
    layer: [
      { mark: { type: 'line', strokeWidth: 2 }, encoding: { y, strokeDash, detail, order: { field: 'nfe' } } },
      { mark: { type: 'rule', strokeWidth: 1.5, clip: true }, encoding: range },
      { mark: { type: 'point', filled: true, size: 55, opacity: 1 }, encoding: { y, shape } },
    ],
  };
  const caption = 'Median of the runs; the bar at each point is the middle half of them.';
  return { name: 'latency', title: 'Latency against NFE', caption, spec: spec as TopLevelSpec };
}

function byPart(rows: readonly Named[]): FigureSpec | undefined {
  const parts = PARTS.filter((part) => rows.some(({ row }) => row.parts[part] !== undefined));
  if (parts.length < 2) return undefined;
  const shown = [...new Set(rows.map(({ series }) => series))].slice(0, MOST_PANELS);
  const panels = rows.filter(({ series }) => shown.includes(series));
  // Savings may give different steps the same NFE.
  const isTold = new Set(panels.map(({ row, series }) => `${row.nfe} ${series}`)).size < panels.length;
  const ordered = [...panels].sort((a, b) => a.row.nfe - b.row.nfe || a.row.settings.steps - b.row.settings.steps);
  const place = ({ nfe, settings }: Row) => (isTold ? `${nfe} (${settings.steps})` : String(nfe));
  const values = panels.flatMap(({ row, series }) =>
    parts.map((part, order) => ({
      nfe: place(row),
      part: PART_NAMES[part] ?? part,
      seconds: (row.parts[part] ?? 0) / row.batch,
      series,
      order,
    })),
  );
  const range = parts.map((part) => PART_COLOURS[part]);
  const spec = {
    ...base,
    data: { values },
    facet: {
      row: {
        field: 'series',
        type: nominal,
        title: null,
        sort: shown,
        header: {
          labelAngle: 0,
          labelAlign: 'left',
          labelAnchor: 'start',
          labelOrient: 'top',
          labelLimit: WIDTH + MARGIN,
          ...inLines,
        },
      },
    },
    spacing: 12,
    resolve: { scale: { y: 'independent' } },
    spec: {
      width: WIDTH,
      height: shown.length > 3 ? 95 : shown.length > 1 ? 130 : HEIGHT,
      mark: { type: 'bar' },
      encoding: {
        x: {
          field: 'nfe',
          type: 'ordinal',
          title: isTold ? 'NFE (steps)' : 'NFE',
          sort: [...new Set(ordered.map(({ row }) => place(row)))],
          axis: { labelAngle: 0 },
        },
        y: { field: 'seconds', type: quantitative, title: 's an image', stack: 'zero' },
        color: {
          field: 'part',
          type: nominal,
          title: null,
          scale: { domain: parts.map((part) => PART_NAMES[part] ?? part), range },
          legend: { columns: 2 },
        },
        order: { field: 'order' },
      },
    },
  };
  const left = new Set(rows.map(({ series }) => series)).size - shown.length;
  const caption =
    'Device time of the parts of the model, what lies between kernels, and decoding to pixels.' +
    (left > 0 ? ` The first ${shown.length} of ${shown.length + left} series; all are in the table.` : '');
  return { name: 'parts', title: 'Where the time of an image goes', caption, spec: spec as TopLevelSpec };
}

function quality(rows: readonly Named[]): FigureSpec | undefined {
  // One figure: values of different names are no series.
  const first = rows.flatMap(({ row }) => row.quality ?? []).at(0);
  if (!first) return undefined;
  const { name, images, reference, extractor } = first;
  const isAlike = (one: Quality) =>
    one.name === name && one.images === images && one.reference === reference && one.extractor === extractor;
  const values = rows.flatMap(({ row, ...names }) =>
    (row.quality ?? []).filter(isAlike).map(({ value }) => {
      return { value, seconds: row.seconds.anImage.median, steps: String(row.settings.steps), ...names };
    }),
  );
  const x = { field: 'seconds', type: quantitative, title: 'seconds an image', scale: { zero: true } };
  const y = { field: 'value', type: quantitative, title: name.split(/ (?=\()|(?<=,) /), scale: { zero: false } };
  const { color, shape, strokeDash } = encodings(rows);
  const spec = {
    ...base,
    width: WIDTH,
    height: HEIGHT,
    data: { values },
    encoding: { x, y, color },
    layer: [
      { mark: { type: 'line', strokeWidth: 2 }, encoding: { strokeDash, detail, order: { field: 'seconds' } } },
      { mark: { type: 'point', filled: true, size: 55, opacity: 1 }, encoding: { shape } },
      { mark: { type: 'text', dy: -10, fontSize: 12 }, encoding: { text: { field: 'steps' } } },
    ],
  };
  const against = reference ? ` against ${reference}` : '';
  const better = /score/i.test(name) ? 'Higher' : 'Lower';
  const caption = `${name} of ${images} images${against}, over the time of one; numbers are steps. ${better} and further left is better.`;
  return { name: 'quality', title: 'Quality against latency', caption, spec: spec as TopLevelSpec };
}

/** The run with the most work of each report: the largest batch, then the most steps. */
function largest(rows: readonly Named[]): Named[] {
  const best = new Map<string, Named>();
  for (const one of rows) {
    if (!one.row.kernels) continue;
    const known = best.get(one.run);
    if (!known || one.row.flops > known.row.flops) best.set(one.run, one);
  }
  return [...best.values()];
}

interface KernelSum {
  kernel: string;
  seconds: number;
  flops: number;
  bytes: number;
}

/** Kernels of all parts together, the slowest first. */
function kernelSums(row: Row): KernelSum[] {
  const sums = new Map<string, KernelSum>();
  for (const { kernel, seconds, flops, bytes } of row.kernels ?? []) {
    const sum = sums.get(kernel) ?? { kernel, seconds: 0, flops: 0, bytes: 0 };
    sums.set(kernel, { kernel, seconds: sum.seconds + seconds, flops: sum.flops + flops, bytes: sum.bytes + bytes });
  }
  return [...sums.values()].sort((a, b) => b.seconds - a.seconds);
}

function byKernel(rows: readonly Named[]): FigureSpec | undefined {
  const chosen = largest(rows);
  if (chosen.length === 0) return undefined;
  const values = chosen.flatMap(({ row, run }) => {
    const all = kernelSums(row);
    const rest = all.slice(MOST_KERNELS).reduce((sum, { seconds }) => sum + seconds, 0);
    const shown = all
      .slice(0, MOST_KERNELS)
      .map(({ kernel, seconds }) => ({ kernel, seconds: seconds / row.batch, run }));
    return rest > 0
      ? [...shown, { kernel: `${all.length - MOST_KERNELS} others`, seconds: rest / row.batch, run }]
      : shown;
  });
  const slowest = [...values].sort((a, b) => b.seconds - a.seconds);
  const kernels = [...new Set(slowest.map(({ kernel }) => kernel))];
  const several = chosen.length > 1;
  const spec = {
    ...base,
    width: WIDTH - 130,
    height: { step: several ? 11 : 22 },
    data: { values },
    mark: { type: 'bar' },
    encoding: {
      y: { field: 'kernel', type: nominal, title: null, sort: kernels, axis: { labelLimit: 300 } },
      x: { field: 'seconds', type: quantitative, title: 'seconds an image' },
      ...(several
        ? {
            yOffset: { field: 'run', sort: null },
            color: { field: 'run', type: nominal, title: null, sort: null, legend: inLines },
          }
        : { color: { value: COLOURS[0] } }),
    },
  };
  const caption = `Device time by kernel file of the largest run: ${[...new Set(chosen.map(({ row }) => row.id))].join('; ')}. Each dispatch is timed by itself.`;
  return { name: 'kernels', title: 'Time by kernel', caption, spec: spec as TopLevelSpec };
}

function roofline(reports: readonly NfeReport[], rows: readonly Named[]): FigureSpec | undefined {
  const names = runNames(reports).map(labelOf);
  const chosen = largest(rows);
  if (chosen.length === 0) return undefined;
  const kernels = chosen.flatMap(({ row, run }) => {
    const all = kernelSums(row).filter(({ flops, seconds }) => flops > 0 && seconds > 0);
    const total = all.reduce((sum, { seconds }) => sum + seconds, 0);
    return all.slice(0, MOST_KERNELS).map(({ kernel, seconds, flops, bytes }) => {
      return { kernel, intensity: flops / bytes, rate: flops / seconds / 1e9, share: seconds / total, run };
    });
  });
  if (kernels.length === 0) return undefined;
  const roofs = reports.map(({ peak }, i) => {
    return { flops: peak.flops.perSecond, bytes: peak.bytes.perSecond, run: names[i] };
  });
  const labels = kernels.filter(({ share }) => share > 0.03);
  const caption =
    'Lines: the measured peaks. Circles: kernels of the largest run, as large as their share of its time. ' +
    'Bytes count each operand once, so a kernel whose operands stay in a cache can lie above the slope.';
  return { name: 'roofline', title: 'Roofline', caption, spec: rooflineSpec(roofs, kernels, labels) };
}
