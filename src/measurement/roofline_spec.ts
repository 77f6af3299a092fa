/** Rooflines and logarithmic axes, as Vega-Lite specifications. */
import type { TopLevelSpec } from 'vega-lite';
import { base, HEIGHT, inLines, nominal, quantitative, WIDTH } from './figure_base.ts';

/** Area of the largest circle of a roofline, in square pixels. */
const LARGEST = 700;
const ROOF_COLOUR = '#444444';
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
  const color = { field: 'run', type: nominal, title: null, scale: { domain: [...new Set(runs)] }, legend: inLines };
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
