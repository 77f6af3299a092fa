/** Files of a report: JSON, CSV, Markdown, one HTML page, and every figure as SVG and PNG. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { EmigmError } from '../errors.ts';
import { reason, writeAtomically } from '../formats/files.ts';
import { svgToPng } from '../formats/svg.ts';
import type { FigureSpec } from '../measurement/figure_base.ts';
import { figureSpecs } from '../measurement/figures.ts';
import { type DrawnFigure, page } from '../measurement/page.ts';
import type { NfeReport } from '../measurement/schema.ts';
import { csv, markdown } from '../measurement/tables.ts';
import { renderCurves } from './curves.ts';
import { makeFolder } from './open.ts';

/** Pixels of the PNG for each unit of the SVG: 300 dots an inch where a figure is as wide as a column of text. */
const PNG_SCALE = 3;

/** JSON with a line a row, so that reports can be compared by diff. */
export function reportJson({ rows, ...head }: { readonly rows: readonly unknown[] }): string {
  const given = Object.entries(head).filter(([, value]) => value !== undefined);
  const fields = given.map(([name, value]) => `  ${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  const list = rows.map((row) => `    ${JSON.stringify(row)}`).join(',\n');
  return `{\n${fields.join(',\n')},\n  "rows": [\n${list}\n  ]\n}\n`;
}

/**
 * Writes `name.csv`, `.md`, `.html` and `figures/`; of a single report also `name.json`. Returns the page's path.
 * @throws EmigmError 'file' when the disk refuses
 */
export async function writeReport(folder: string, name: string, reports: readonly NfeReport[]): Promise<string> {
  return writeDocument(folder, name, figureSpecs(reports), (drawn) => ({
    ...(reports.length === 1 && { json: reportJson(reports[0]) }),
    csv: csv(reports),
    md: markdown(reports),
    html: page(reports, drawn),
  }));
}

/** Writes every figure as SVG and PNG into `figures/`, then the files, by extension. Returns the page's path. */
export async function writeDocument(
  folder: string,
  name: string,
  specs: readonly FigureSpec[],
  files: (drawn: readonly DrawnFigure[]) => Record<string, string>,
): Promise<string> {
  const figures = join(folder, 'figures');
  makeFolder(figures);
  const drawn: DrawnFigure[] = [];
  for (const figure of specs) {
    const svg = await renderCurves(figure.spec);
    drawn.push({ ...figure, svg });
    await writeText(join(figures, `${figure.name}.svg`), svg);
    await writeText(join(figures, `${figure.name}.png`), await svgToPng(svg, PNG_SCALE));
  }
  for (const [ending, text] of Object.entries(files(drawn))) await writeText(join(folder, `${name}.${ending}`), text);
  return join(folder, `${name}.html`);
}

/** @throws EmigmError 'file' when the disk refuses */
export function writeText(path: string, content: string | Uint8Array): Promise<void> {
  return writeAtomically(path, (put) => put(typeof content === 'string' ? new TextEncoder().encode(content) : content));
}

/** What a JSON file holds. @throws EmigmError 'file' when it cannot be read or is no JSON */
export async function readJson(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, 'utf8'));
  } catch (cause) {
    if (cause instanceof SyntaxError) throw new EmigmError('file', `${path}: is no JSON`, { cause });
    throw new EmigmError('file', `${path}: ${reason(cause)}`, { cause });
  }
}
