/** Figures of the axes of masked generation, out of their tables: a schedule that is added there is drawn here. */
import type { TopLevelSpec } from 'vega-lite';
import { axisPresets } from '../masking/axes.ts';
import { COLOURS } from '../measurement/figure_base.ts';
import { expectedReveals, lossWeight, maskSchedules, trainingSchedules } from '../masking/schedules.ts';

export interface AxisFigure {
  /** Name of its file: `mask-schedules`. */
  name: string;
  spec: TopLevelSpec;
}

const [WIDTH, HEIGHT] = [520, 300];
const POINTS = 200;
/** Weights are drawn between these: gamma'/gamma runs to infinity where t is 0. */
const WEIGHTS = [0.05, 100];

const axis = { labelFontSize: 12, titleFontSize: 13, titleFontWeight: 'normal' as const, gridColor: '#e6e6e6' };
const legend = { labelFontSize: 12, symbolStrokeWidth: 2.5, title: null };
const config = { font: 'sans-serif', axis, legend, view: { stroke: '#cccccc' } };

interface Value {
  name: string;
  x: number;
  y: number;
}

interface Axis {
  title: string;
  domain?: readonly number[];
  type?: 'log';
  /** Whole numbers that are labelled. */
  values?: readonly number[];
}

function lines(title: string, values: readonly Value[], x: Axis, y: Axis, { points = false, rule = false } = {}) {
  const names = [...new Set(values.map(({ name }) => name))];
  const encode = (field: string, { title: text, domain, type, values: ticks }: Axis) => ({
    field,
    type: 'quantitative',
    axis: { title: text, ...(ticks && { values: ticks, format: 'd' }), ...(type && { format: '~g', tickCount: 5 }) },
    scale: { ...(domain && { domain, nice: false }), ...(type && { type }) },
  });
  const { tMin } = axisPresets.emigm;
  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: { text: title, anchor: 'start', fontSize: 14, fontWeight: 'normal' },
    background: 'white',
    padding: 8,
    config,
    width: WIDTH,
    height: HEIGHT,
    layer: [
      ...(rule
        ? [
            {
              data: { values: [{ x: tMin, text: `t_min ${tMin} of eMIGM` }] },
              encoding: { x: encode('x', x) },
              layer: [
                { mark: { type: 'rule', strokeDash: [4, 4], color: '#888888' } },
                {
                  mark: { type: 'text', align: 'left', dx: 4, y: 10, color: '#555555', fontSize: 11 },
                  encoding: { text: { field: 'text' } },
                },
              ],
            },
          ]
        : []),
      {
        data: { values },
        mark: { type: 'line', strokeWidth: 2, clip: true, ...(points && { point: { size: 30 } }) },
        encoding: {
          x: encode('x', x),
          y: encode('y', y),
          color: { field: 'name', type: 'nominal', sort: names, scale: { domain: names, range: COLOURS } },
        },
      },
    ],
  } as unknown as TopLevelSpec;
}

/** Numbers of a figure need no more digits than pixels can show; they make its file long. */
const rounded = (value: number) => Number(value.toPrecision(5));

const times = Array.from({ length: POINTS + 1 }, (_, i) => i / POINTS);
const time: Axis = { title: 't', domain: [0, 1] };

/** gamma(t) of every schedule. */
function schedules(): TopLevelSpec {
  const values = Object.entries(trainingSchedules).flatMap(([name, { gamma }]) =>
    times.map((t) => ({ name, x: t, y: rounded(gamma(t)) })),
  );
  return lines('Mask ratio γ(t)', values, time, { title: 'γ(t)', domain: [0, 1] }, { rule: true });
}

/** w(t) of every schedule with weighting elbo, and of weighting uniform. */
function weightings(): TopLevelSpec {
  const [low, high] = WEIGHTS;
  const inside = ({ y }: Value) => y >= low / 2 && y <= 2 * high;
  const weighted = Object.keys(trainingSchedules).flatMap((name) =>
    times.slice(1).map((t) => ({ name, x: t, y: rounded(lossWeight(name, 'elbo', t)) })),
  );
  const uniform = [0, 1].map((x) => ({ name: 'uniform', x, y: lossWeight('linear', 'uniform', 1) }));
  const y: Axis = { title: 'w(t)', domain: WEIGHTS, type: 'log' };
  return lines('Weighting w(t) = γ′(t) / γ(t)', [...weighted.filter(inside), ...uniform], time, y, { rule: true });
}

/** Tokens of `tokens` that each of `steps` steps reveals on average, of every schedule that can sample. */
function reveals(steps: number, tokens: number): TopLevelSpec {
  const values = Object.keys(maskSchedules).flatMap((name) =>
    Array.from(expectedReveals(name, steps, tokens), (count, i) => ({ name, x: i + 1, y: rounded(count) })),
  );
  const x: Axis = {
    title: 'step',
    domain: [0.5, steps + 0.5],
    values: Array.from({ length: steps }, (_, i) => i + 1),
  };
  return lines(
    `Tokens revealed a step, of ${tokens}, in ${steps} steps`,
    values,
    x,
    { title: 'tokens' },
    { points: true },
  );
}

/** All figures, for images of so many tokens. */
export function axisFigures(tokens = 256): AxisFigure[] {
  return [
    { name: 'mask-schedules', spec: schedules() },
    { name: 'weightings', spec: weightings() },
    ...[8, 16].map((steps) => ({ name: `reveals-${steps}`, spec: reveals(steps, tokens) })),
  ];
}
