/** Curves of a run's log, drawn by Vega-Lite. */
import type { TopLevelSpec } from 'vega-lite';
import { EmigmError } from '../errors.ts';
import type { StepLine } from '../formats/step_log.ts';
import { textWidth } from '../measurement/text_width.ts';
import { Smoothed } from '../training/smoothing.ts';

export interface CurveOptions {
  title: string;
  /** Decay of the smoothed loss. */
  smoothing?: number;
  /** Logarithmic axis for the loss. */
  log?: boolean;
}

/** What is drawn: names in the log, and what the axis says. */
const PANELS = [
  { name: 'loss', title: 'loss', height: 260 },
  { name: 'lr', title: 'learning rate', height: 100 },
  { name: 'gradient_norm', title: 'gradient norm', height: 100 },
  { name: 'images_per_second', title: 'images / s', height: 100 },
] as const;

const WIDTH = 760;
/** More points than pixels cannot be told apart, and make large files: neighbours are averaged. */
const MOST_POINTS = WIDTH;
const [BLUE, PALE] = ['#1f4e8c', '#a9c4e6'];

interface Point {
  readonly step: number;
  readonly value: number;
  readonly smoothed: number;
}

/** Values of one name, with their smoothed ones, in at most MOST_POINTS means of neighbours. */
function points(lines: readonly StepLine[], name: string, decay: number): { points: Point[]; each: number } {
  const smoothed = new Smoothed(decay);
  const all: Point[] = [];
  for (const line of lines) {
    const value = line[name];
    if (typeof value !== 'number') continue; // null where it was not finite
    all.push({ step: line.step, value, smoothed: smoothed.add(value) });
  }
  const each = Math.max(1, Math.ceil(all.length / MOST_POINTS));
  const means: Point[] = [];
  for (let i = 0; i < all.length; i += each) {
    const group = all.slice(i, i + each);
    const { step, smoothed: last } = group[group.length - 1];
    means.push({ step, value: group.reduce((sum, point) => sum + point.value, 0) / group.length, smoothed: last });
  }
  return { points: means, each };
}

/**
 * The Vega-Lite specification of a run's curves against the step: the loss raw and smoothed, learning rate, gradient
 * norm and speed, as far as the log has them.
 * @throws EmigmError 'input' when the log has nothing to draw
 */
export function curvesSpec(
  lines: readonly StepLine[],
  { title, smoothing = 0.98, log = false }: CurveOptions,
): TopLevelSpec {
  const panels = PANELS.map((panel) => ({ ...panel, ...points(lines, panel.name, smoothing) })).filter(
    (panel) => panel.points.length > 0,
  );
  if (panels.length === 0) throw new EmigmError('input', `${title}: the log has no numbers to draw yet`);
  const positive = panels[0].name === 'loss' && panels[0].points.every(({ value }) => value > 0);
  const spec = {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: { text: title, anchor: 'start' as const, fontSize: 14 },
    background: 'white',
    padding: 12,
    config: { font: 'sans-serif', axis: { labelFontSize: 10, titleFontSize: 11, gridColor: '#eeeeee' } },
    spacing: 14,
    vconcat: panels.map(({ name, title: axis, height, points: values, each }, i) => {
      const isLoss = name === 'loss';
      const x = {
        field: 'step',
        type: 'quantitative' as const,
        axis: { title: i === panels.length - 1 ? 'step' : null, format: ',d' },
        scale: { zero: false, nice: false },
      };
      const y = (field: string) => ({
        field,
        type: 'quantitative' as const,
        axis: { title: axis, format: '~r', titlePadding: 8, minExtent: 48, maxExtent: 48 },
        scale: isLoss ? { zero: log && positive ? undefined : false, type: log && positive ? 'log' : 'linear' } : {},
      });
      const mean = each > 1 ? `mean of ${each} steps` : 'each step';
      const color = (datum: string) => ({
        datum,
        scale: { domain: [mean, 'smoothed'], range: [PALE, BLUE] },
        legend: { title: null, orient: 'top-right' as const },
      });
      const line = (width: number) => ({ type: 'line' as const, strokeWidth: width, strokeJoin: 'round' as const });
      // A single value makes no line.
      const mark = (width: number) => (values.length > 1 ? line(width) : { type: 'point' as const, filled: true });
      const size = { width: WIDTH, height, data: { values } };
      if (!isLoss) return { ...size, mark: { ...mark(1.2), color: BLUE }, encoding: { x, y: y('value') } };
      return {
        ...size,
        layer: [
          { mark: mark(1), encoding: { x, y: y('value'), color: color(mean) } },
          { mark: mark(2), encoding: { x, y: y('smoothed'), color: color('smoothed') } },
        ],
      };
    }),
  };
  return spec as TopLevelSpec;
}

/** Vega's: replaced, it measures text. */
interface TextMetrics {
  width(item: { fontSize?: number; limit?: number }, text: unknown): number;
}

const DEFAULT_FONT_SIZE = 11;

/** The drawing of a specification, as SVG. */
export async function renderCurves(spec: TopLevelSpec): Promise<string> {
  // Loaded here, so that other commands start without them.
  const [{ compile }, vega] = await Promise.all([import('vega-lite'), import('vega')]);
  const { parse, View } = vega;
  // Without a canvas Vega takes every letter for a wide one, and cuts labels that would fit. Its types lack this.
  const { textMetrics } = vega as unknown as { textMetrics: TextMetrics };
  textMetrics.width = ({ fontSize = DEFAULT_FONT_SIZE, limit = 0 }, text) => {
    const width = textWidth(String(text ?? '').trim(), fontSize);
    return limit > 0 ? Math.min(limit, width) : width;
  };
  const view = new View(parse(compile(spec).spec), { renderer: 'none' });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}
