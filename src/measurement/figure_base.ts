/** What figures of all reports have in common. */
import type { TopLevelSpec } from 'vega-lite';
import { wrapped } from './text_width.ts';

export interface FigureSpec {
  /** Name of its files: `latency`. */
  name: string;
  title: string;
  /** What is to be seen, for people who do not see it, and below it on the page. */
  caption: string;
  spec: TopLevelSpec;
}

export const quantitative = 'quantitative' as const;
export const nominal = 'nominal' as const;

export const WIDTH = 340;
export const HEIGHT = 220;
/** Okabe and Ito, without their yellow, which is faint on white: told apart by colour-blind eyes and in grey print. */
export const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000', '#8c8c8c'];
/** The first six with as much white: for areas, where there are more than `COLOURS`. */
const TINTS = ['#80b9d9', '#eaaf80', '#80cfb9', '#e6bcd3', '#f3cf80', '#abdaf4'];
const SHAPES = [
  'circle',
  'square',
  'cross',
  'diamond',
  'triangle-up',
  'triangle-down',
  'triangle-right',
  'triangle-left',
];
const DASHES = [
  [1, 0],
  [6, 3],
  [2, 2],
  [8, 2, 2, 2],
];
/** Of the labels of legends and panels. */
const FONT_SIZE = 12;
const WIDEST = 350;
/** Between the lines of a label. */
export const BREAK = '\n';
/** A label of several lines, for what is encoded with `inLines`. */
export const labelOf = (text: string): string => wrapped(text, FONT_SIZE, WIDEST).join(BREAK);
export const inLines = { labelExpr: `split(datum.label, ${JSON.stringify(BREAK)})` };

/** How the i-th of many series is drawn: once through the colours, then dashed and with other shapes, then dotted. */
export function seriesLook(i: number) {
  const turn = Math.floor(i / COLOURS.length);
  return {
    color: COLOURS[i % COLOURS.length],
    shape: SHAPES[(i + turn) % SHAPES.length],
    strokeDash: DASHES[turn % DASHES.length],
  };
}

const config = {
  font: 'sans-serif',
  axis: { labelFontSize: 12, titleFontSize: 13, titleFontWeight: 'normal' as const, gridColor: '#e6e6e6' },
  legend: {
    labelFontSize: FONT_SIZE,
    titleFontSize: 12,
    orient: 'bottom' as const,
    direction: 'horizontal' as const,
    columns: 1,
    labelLimit: 400,
    // One legend below the other; the types of Vega-Lite leave this out.
    ...({ layout: { bottom: { direction: 'vertical' } } } as object),
  },
  header: { labelFontSize: FONT_SIZE, titleFontSize: 12 },
  view: { stroke: '#cccccc' },
  range: { category: [...COLOURS, ...TINTS] },
};

export const base = {
  $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
  background: 'white',
  padding: 8,
  config,
};
