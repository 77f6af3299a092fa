/** Figures of reports as Vega-Lite specifications. */
import type { TopLevelSpec } from 'vega-lite';
import { type Field, label, PART_NAMES, PARTS, runNames, split } from './rows.ts';
import type { NfeReport, Row } from './schema.ts';

export interface FigureSpec {
  /** Name of its files: `latency`. */
  name: string;
  title: string;
  /** What is to be seen, for people who do not see it, and below it on the page. */
  caption: string;
  spec: TopLevelSpec;
}

export const WIDTH = 340;
export const HEIGHT = 220;
/** Okabe and Ito: told apart by colour-blind eyes and in grey print. */
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000', '#f0e442'];
const PART_COLOURS: Readonly<Record<string, string>> = {
  encoder: '#0072b2',
  decoder: '#56b4e9',
  head: '#d55e00',
  rest: '#009e73',
  idle: '#c8c8c8',
  decode: '#e69f00',
};
/** Area of the largest circle of a roofline, in square pixels. */
const LARGEST = 700;
const ROOF_COLOUR = '#444444';
const MOST_KERNELS = 12;
const MOST_PANELS = 6;

const config = {
  font: 'sans-serif',
  axis: { labelFontSize: 12, titleFontSize: 13, titleFontWeight: 'normal' as const, gridColor: '#e6e6e6' },
  legend: {
    labelFontSize: 12,
    titleFontSize: 12,
    orient: 'bottom' as const,
    direction: 'horizontal' as const,
    columns: 1,
    labelLimit: 400,
  },
  header: { labelFontSize: 12, titleFontSize: 12 },
  view: { stroke: '#cccccc' },
  range: { category: COLOURS },
};

export const base = {
  $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
  background: 'white',
  padding: 8,
  config,
};

const MOST_DECADES = 3;

/** A logarithmic axis over these numbers, marked at powers of ten, and where these are few at their 2- and 5-fold too. */
export function logarithmic(values: readonly number[], format: string) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const marks: number[] = [];
  for (let decade = Math.floor(Math.log10(low)); decade <= Math.ceil(Math.log10(high)); decade++) {
    marks.push(...[1, 2, 5].map((factor) => Number(`${factor}e${decade}`)));
  }
  const from = marks.filter((mark) => mark <= low).at(-1)!;
  const to = marks.find((mark) => mark >= high && mark > from)!;
  const shown = marks.filter((mark) => mark >= from && mark <= to);
  const isPower = (mark: number) => Number.isInteger(Math.log10(mark));
  return {
    type: quantitative,
    scale: { type: 'log', domain: [from, to], nice: false },
    axis: { values: to / from > 10 ** MOST_DECADES ? shown.filter(isPower) : shown, format },
  };
}

/** A row with the name of its run and, apart from steps and NFE, of itself. */
interface Named {
  row: Row;
  run: string;
  series: string;
}

function named(reports: readonly NfeReport[]): Named[] {
  const runs = runNames(reports);
  const all = reports.flatMap(({ rows }) => rows);
  const names: Field[] = split(all).varying.filter((field) => field !== 'steps');
  return reports.flatMap(({ rows }, i) =>
    rows.map((row) => {
      const own = label(row, names);
      const series = reports.length > 1 ? [runs[i], own].filter(Boolean).join(': ') : own || row.model.name;
      return { row, run: runs[i], series };
    }),
  );
}

const quantitative = 'quantitative' as const;
const nominal = 'nominal' as const;

/** All figures that the numbers allow. */
export function figureSpecs(reports: readonly NfeReport[]): FigureSpec[] {
  const rows = named(reports);
  const found = [latency(rows), byPart(rows), quality(rows), byKernel(rows), roofline(reports, rows)];
  return found.filter((figure) => figure !== undefined);
}

function latency(rows: readonly Named[]): FigureSpec {
  const values = rows.map(({ row, series }) => {
    const { median, samples } = row.seconds.anImage;
    return { nfe: row.nfe, seconds: median, low: Math.min(...samples), high: Math.max(...samples), series };
  });
  const x = { field: 'nfe', type: quantitative, title: 'NFE (network evaluations an image)', scale: { zero: true } };
  const y = { field: 'seconds', type: quantitative, title: 'seconds an image', scale: { zero: true } };
  const color = { field: 'series', type: nominal, title: null, sort: null };
  const range = { y: { ...y, field: 'low' }, y2: { field: 'high' } };
  const spec = {
    ...base,
    width: WIDTH,
    height: HEIGHT,
    data: { values },
    encoding: { x, color },
    layer: [
      { mark: { type: 'line', strokeWidth: 2 }, encoding: { y, order: { field: 'nfe' } } },
      { mark: { type: 'rule', strokeWidth: 1.5 }, encoding: range },
      {
        mark: { type: 'point', filled: true, size: 55, opacity: 1 },
        encoding: { y, shape: { field: 'series', type: nominal, title: null, sort: null } },
      },
    ],
  };
  const caption = 'Median of the runs; the bar at each point reaches from the fastest to the slowest.';
  return { name: 'latency', title: 'Latency against NFE', caption, spec: spec as TopLevelSpec };
}

function byPart(rows: readonly Named[]): FigureSpec | undefined {
  const parts = PARTS.filter((part) => rows.some(({ row }) => row.parts[part] !== undefined));
  if (parts.length < 2) return undefined;
  const shown = [...new Set(rows.map(({ series }) => series))].slice(0, MOST_PANELS);
  const values = rows
    .filter(({ series }) => shown.includes(series))
    .flatMap(({ row, series }) =>
      parts.map((part, order) => ({
        nfe: row.nfe,
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
        sort: null,
        header: { labelAngle: 0, labelAlign: 'left', labelAnchor: 'start', labelOrient: 'top', labelLimit: WIDTH },
      },
    },
    resolve: { scale: { y: 'independent' } },
    spec: {
      width: WIDTH,
      height: shown.length > 1 ? 130 : HEIGHT,
      mark: { type: 'bar' },
      encoding: {
        x: { field: 'nfe', type: 'ordinal', title: 'NFE', axis: { labelAngle: 0 } },
        y: { field: 'seconds', type: quantitative, title: 'seconds an image', stack: 'zero' },
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
  const { name, images } = first;
  const values = rows.flatMap(({ row, series }) =>
    (row.quality ?? [])
      .filter((one) => one.name === name)
      .map(({ value }) => {
        return { value, seconds: row.seconds.anImage.median, series, steps: String(row.settings.steps) };
      }),
  );
  const x = { field: 'seconds', type: quantitative, title: 'seconds an image', scale: { zero: true } };
  const y = { field: 'value', type: quantitative, title: name, scale: { zero: false } };
  const color = { field: 'series', type: nominal, title: null, sort: null };
  const spec = {
    ...base,
    width: WIDTH,
    height: HEIGHT,
    data: { values },
    encoding: { x, y, color },
    layer: [
      { mark: { type: 'line', strokeWidth: 2 }, encoding: { order: { field: 'seconds' } } },
      { mark: { type: 'point', filled: true, size: 55, opacity: 1 } },
      { mark: { type: 'text', dy: -10, fontSize: 12 }, encoding: { text: { field: 'steps' } } },
    ],
  };
  const better = /score/i.test(name) ? 'Higher' : 'Lower';
  const caption = `${name} of ${images} images against the time of one; numbers are steps. ${better} and further left is better.`;
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
  const kernels = [...new Set(values.map(({ kernel }) => kernel))];
  const several = chosen.length > 1;
  const spec = {
    ...base,
    width: WIDTH - 130,
    height: { step: several ? 14 * chosen.length : 22 },
    data: { values },
    mark: { type: 'bar' },
    encoding: {
      y: { field: 'kernel', type: nominal, title: null, sort: kernels, axis: { labelLimit: 300 } },
      x: { field: 'seconds', type: quantitative, title: 'seconds an image' },
      ...(several
        ? { yOffset: { field: 'run', sort: null }, color: { field: 'run', type: nominal, title: null, sort: null } }
        : { color: { value: COLOURS[0] } }),
    },
  };
  const caption = `Device time by kernel file of the largest run: ${chosen.map(({ row }) => row.id).join('; ')}. Each dispatch is timed by itself.`;
  return { name: 'kernels', title: 'Time by kernel', caption, spec: spec as TopLevelSpec };
}

function roofline(reports: readonly NfeReport[], rows: readonly Named[]): FigureSpec | undefined {
  const names = runNames(reports);
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

/** A circle of a roofline: FLOP a byte, GFLOP/s, how large from 0 to 1. */
export interface RooflinePoint {
  kernel: string;
  intensity: number;
  rate: number;
  share: number;
  run: string;
}

/** A roof: FLOP/s and bytes a second. In the colour of a run of points, or grey and with a name of its own. */
export type Roof = { flops: number; bytes: number } & ({ run: string } | { name: string });

/** Lines for the roofs, a circle for each point, names at those in `labels`. */
export function rooflineSpec(
  roofs: readonly Roof[],
  points: readonly RooflinePoint[],
  labels: readonly RooflinePoint[],
): TopLevelSpec {
  const low = Math.min(...points.map(({ intensity }) => intensity)) / 2;
  const high = Math.max(...points.map(({ intensity }) => intensity)) * 2;
  const lines = (some: readonly Roof[]) =>
    some.flatMap(({ flops, bytes, ...names }) => {
      const ridge = flops / bytes;
      const at = [low, ...(ridge > low && ridge < high ? [ridge] : []), high];
      return at.map((intensity) => ({ intensity, rate: Math.min(flops, intensity * bytes) / 1e9, ...names }));
    });
  const plain = roofs.filter((roof) => 'name' in roof);
  const rates = [...points.map(({ rate }) => rate), ...roofs.map(({ flops }) => flops / 1e9)];
  const x = { field: 'intensity', title: 'FLOP a byte', ...logarithmic([low, high], '~g') };
  const y = { field: 'rate', title: 'GFLOP/s', ...logarithmic(rates, '~g') };
  const runs = [...roofs.flatMap((roof) => ('run' in roof ? [roof.run] : [])), ...points.map(({ run }) => run)];
  const color = { field: 'run', type: nominal, title: null, scale: { domain: [...new Set(runs)] } };
  const spec = {
    ...base,
    width: WIDTH,
    height: HEIGHT + 60,
    layer: [
      {
        data: { values: lines(roofs.filter((roof) => 'run' in roof)) },
        mark: { type: 'line', strokeWidth: 2 },
        encoding: { x, y, color, order: { field: 'intensity' } },
      },
      {
        data: { values: lines(plain) },
        mark: { type: 'line', strokeWidth: 1.5, color: ROOF_COLOUR },
        encoding: { x, y, detail: { field: 'name' }, order: { field: 'intensity' } },
      },
      {
        // The large ones first, so that none hides a small one.
        data: { values: [...points].sort((a, b) => b.share - a.share) },
        mark: { type: 'circle', opacity: 0.75 },
        encoding: {
          x,
          y,
          color,
          size: { field: 'share', type: quantitative, scale: { range: [20, LARGEST] }, legend: null },
        },
      },
      {
        data: { values: plain.map(({ flops, name }) => ({ intensity: high, rate: flops / 1e9, name })) },
        mark: { type: 'text', dy: -7, fontSize: 11, align: 'right', color: ROOF_COLOUR },
        encoding: { x, y, text: { field: 'name' } },
      },
      {
        data: { values: labels },
        // Above its circle, and inside the frame.
        mark: {
          type: 'text',
          dy: { expr: `-7 - sqrt(${LARGEST} * datum.share) / 2` },
          align: { expr: `datum.intensity < ${Math.sqrt(low * high)} ? 'left' : 'right'` },
          dx: { expr: `datum.intensity < ${Math.sqrt(low * high)} ? -10 : 10` },
          fontSize: 11,
        },
        encoding: { x, y, text: { field: 'kernel' } },
      },
    ],
  };
  return spec as TopLevelSpec;
}
