/** Figures of kernels: the roofline, and rates against size. */
import type { TopLevelSpec } from 'vega-lite';
import { base, type FigureSpec, HEIGHT, WIDTH } from '../figure_base.ts';
import { logarithmic, type RooflinePoint, rooflineSpec } from '../roofline_spec.ts';
import { rate } from '../tables.ts';
import type { KernelReport, Row } from './schema.ts';
import { opName } from './tables.ts';

/** Ops that have a colour of their own: as many as can be told apart. */
const MOST_SERIES = 6;
/** Ops with a figure of rates against size. */
const MOST_RATES = 6;

type Timed = Row & { seconds: NonNullable<Row['seconds']> };

export function kernelFigures(report: KernelReport): FigureSpec[] {
  const rows = report.rows.filter((row): row is Timed => row.seconds !== undefined && row.flops > 0);
  if (rows.length === 0) return [];
  return [roofline(report, rows), ...rates(rows)];
}

/** FLOP of all problems, the most first. */
function byWork(rows: readonly Timed[]): string[] {
  const work = new Map<string, number>();
  for (const row of rows) work.set(opName(row), (work.get(opName(row)) ?? 0) + row.flops);
  return [...work].sort(([, a], [, b]) => b - a).map(([name]) => name);
}

function roofline({ roofline: roofs }: KernelReport, all: readonly Timed[]): FigureSpec {
  const names = byWork(all);
  const single = names.length === 1;
  // Of many ops only what the engine chooses; of one op every implementation.
  const rows = single ? [...all] : all.filter(({ isChoice, standsFor }) => isChoice || standsFor);
  const series = (row: Row) => {
    if (single) return row.variant;
    const at = names.indexOf(opName(row));
    return at < MOST_SERIES ? names[at] : 'other ops';
  };
  // In the order of the legend: most work first, the rest of the ops last.
  rows.sort(
    (a, b) => Math.min(names.indexOf(opName(a)), MOST_SERIES) - Math.min(names.indexOf(opName(b)), MOST_SERIES),
  );
  const longest = Math.max(...rows.map(({ seconds }) => seconds.median));
  const points: RooflinePoint[] = rows.map((row) => ({
    kernel: single ? row.variant : opName(row),
    intensity: row.flops / row.bytes,
    rate: row.flops / row.seconds.median / 1e9,
    share: row.seconds.median / longest,
    run: series(row),
  }));
  const lines = (['f32', 'f16', 'matrix'] as const).flatMap((kind) => {
    const flops = roofs[kind];
    const name = `${kind === 'matrix' ? 'matrix units' : kind} ${rate(flops ?? 0, 'FLOP/s')}`;
    return flops ? [{ flops, bytes: roofs.bytes, name }] : [];
  });
  const caption =
    `Lines: multiply-adds alone and a copy alone (${rate(roofs.bytes, 'B/s')}), measured on this adapter. Circles: ${single ? names[0] : 'the kernels that the engine chooses'}, ` +
    'larger where a run takes longer. Bytes count each operand once, so that what stays in a cache can lie above the slope.';
  return { name: 'roofline', title: 'Roofline', caption, spec: rooflineSpec(lines, points, []) };
}

/** GFLOP/s of every implementation against the FLOP of the problem, for ops that were measured at several sizes. */
function rates(rows: readonly Timed[]): FigureSpec[] {
  const sizes = (name: string) => new Set(rows.filter((row) => opName(row) === name).map(({ flops }) => flops)).size;
  const names = byWork(rows).filter((name) => sizes(name) >= 3);
  return names.slice(0, MOST_RATES).map((name) => {
    const values = rows
      .filter((row) => opName(row) === name)
      .map(({ flops, seconds, variant }) => ({ flops, rate: flops / seconds.median / 1e9, variant }));
    const all = (field: 'flops' | 'rate') => values.map((value) => value[field]);
    const colour = { field: 'variant', type: 'nominal' as const, title: null, sort: null };
    const spec = {
      ...base,
      width: WIDTH,
      height: HEIGHT,
      data: { values },
      mark: { type: 'point', filled: true, size: 45, opacity: 0.8 },
      encoding: {
        x: { field: 'flops', title: 'FLOP of the problem', ...logarithmic(all('flops'), '~s') },
        y: { field: 'rate', title: 'GFLOP/s', ...logarithmic(all('rate'), '~g') },
        color: colour,
        shape: colour,
      },
    };
    const caption = `Every implementation of ${name} on every problem that was measured.`;
    const file = `rate-${name.replaceAll(/[^a-z0-9]+/gi, '-')}`;
    return { name: file, title: `${name}: rate against size`, caption, spec: spec as TopLevelSpec };
  });
}
