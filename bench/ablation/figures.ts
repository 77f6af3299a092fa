/** Figures of the ablation: quality against what an image costs, a panel an axis. */
import type { TopLevelSpec } from 'vega-lite';
import { base, HEIGHT, WIDTH } from '../../src/measurement/figure_base.ts';
import type { StudyAxis } from './axes.ts';
import { type Line, ofKind } from './log.ts';
import { type MeasuredCase, measuredCases, spread } from './result.ts';

const TITLES: Readonly<Record<StudyAxis['cost'], string>> = {
  nfe: 'NFE (network evaluations an image)',
  headEvaluations: 'evaluations of the head an image',
  cfg: 'guidance scale',
};

const quantitative = 'quantitative' as const;
const nominal = 'nominal' as const;

/** All axes of one of the figures that have measurements; undefined when there is none. */
export function ablationFigure(
  axes: readonly StudyAxis[],
  name: StudyAxis['figure'],
  lines: readonly Line[],
): TopLevelSpec | undefined {
  const floor = spread(ofKind(lines, 'judge').flatMap((judge) => judge.floor))?.mean;
  const panels = axes
    .filter(({ figure, series }) => figure === name && series.length > 0)
    .flatMap((axis) => panel(axis, measuredCases(axis, lines), floor) ?? []);
  if (panels.length === 0) return undefined;
  const scale = { color: 'independent', shape: 'independent' };
  // Rows as far apart as legends are high.
  const layout = { columns: 2, bounds: 'flush', spacing: { row: 150, column: 80 } };
  return { ...base, ...layout, concat: panels, resolve: { scale } } as unknown as TopLevelSpec;
}

function panel(axis: StudyAxis, rows: readonly MeasuredCase[], floor: number | undefined): object | undefined {
  const { cost, title, label } = axis;
  const values = rows.flatMap((row) => {
    if (!row.distance) return [];
    const x = cost === 'cfg' ? row.cfg : row[cost]!.mean;
    const { mean, deviation } = row.distance;
    const text = label && row.values[label];
    return [{ x, y: mean, low: mean - deviation, high: mean + deviation, name: nameOf(axis, row), text }];
  });
  if (values.length === 0) return undefined;
  const scale = cost === 'headEvaluations' ? { type: 'log' } : { zero: false };
  const x = { field: 'x', type: quantitative, title: TITLES[cost], scale };
  // A spread that reaches below 0 is no place on a logarithmic axis.
  const clipped = values.map((value) => ({ ...value, low: Math.max(value.low, value.y / 3) }));
  const least = Math.min(...clipped.map(({ low }) => low));
  // Far below the points it would take their room.
  const shown = floor !== undefined && floor > least / 5;
  const domain = [0.9 * Math.min(least, shown ? floor : least), 1.1 * Math.max(...values.map(({ high }) => high))];
  const y = {
    field: 'y',
    type: quantitative,
    title: 'Fréchet distance',
    axis: { format: '~g', tickCount: 5 },
    scale: { type: 'log', domain, nice: false },
  };
  const legend = { columns: 2, direction: 'horizontal' };
  const color = { field: 'name', type: nominal, title: null, sort: null, legend };
  const rule = shown ? [floorRule(floor, y)] : [];
  return {
    title: { text: title, anchor: 'start', fontSize: 13, fontWeight: 'normal' },
    width: WIDTH,
    height: HEIGHT,
    data: { values: clipped },
    layer: [
      ...rule,
      { mark: { type: 'line', strokeWidth: 2 }, encoding: { x, y, color, order: { field: 'x' } } },
      {
        mark: { type: 'rule', strokeWidth: 1.5 },
        encoding: { x, y: { ...y, field: 'low' }, y2: { field: 'high' }, color },
      },
      {
        mark: { type: 'point', filled: true, size: 50, opacity: 1 },
        encoding: { x, y, color, shape: { field: 'name', type: nominal, title: null, sort: null, legend } },
      },
      ...(label ? [{ mark: { type: 'text', dx: 12, fontSize: 11 }, encoding: { x, y, text: { field: 'text' } } }] : []),
    ],
  };
}

function floorRule(floor: number, y: object): object {
  return {
    data: { values: [{ y: floor, text: 'held-out shapes' }] },
    layer: [
      { mark: { type: 'rule', strokeDash: [4, 4], color: '#888888' }, encoding: { y } },
      {
        mark: { type: 'text', align: 'right', x: WIDTH - 4, dy: -6, color: '#555555', fontSize: 11 },
        encoding: { y, text: { field: 'text' } },
      },
    ],
  };
}

const nameOf = ({ series }: StudyAxis, { values }: MeasuredCase): string =>
  series.map((name) => (name === 'w(t)' || name === 't_min' ? `${name} = ${values[name]}` : values[name])).join(', ');
