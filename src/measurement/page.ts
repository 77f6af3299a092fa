/** The report as one HTML page that needs nothing else: no script, no font, no network. */
import type { FigureSpec } from './figure_base.ts';
import { machineText, type Section, sections, type Table } from './tables.ts';
import type { NfeReport } from './schema.ts';

export interface DrawnFigure extends FigureSpec {
  svg: string;
}

const STYLE = `
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p { max-width: 45rem; } .machine, figcaption { color: #555; font-size: .875rem; overflow-wrap: anywhere; }
figure { margin: 0 0 1.5rem; break-inside: avoid; } figure h2 { margin-top: 0; } figure svg { display: block; max-width: 100%; height: auto; }
.figures { columns: 26rem; column-gap: 2rem; margin: 2rem 0; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #888; white-space: normal; vertical-align: bottom; } th:first-child, td:first-child { text-align: left; }
@media print {
  body { font-size: 10pt; max-width: none; padding: 0; } .figures { columns: auto; } figure svg { max-width: 13cm; max-height: 23cm; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } .table { overflow: visible; } table { font-size: 7pt; }
  th, td { padding: .15rem .3rem; white-space: normal; }
}`;

const escapes: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
const escaped = (text: string) => text.replace(/[&<>"]/g, (letter) => escapes[letter]);

function table({ head, rows }: Table): string {
  const line = (cells: readonly string[], tag: string) =>
    `<tr>${cells.map((cell) => `<${tag}>${escaped(cell)}</${tag}>`).join('')}</tr>`;
  const body = rows.map((row) => line(row, 'td')).join('\n');
  return `<div class="table"><table>\n<thead>${line(head, 'th')}</thead>\n<tbody>${body}</tbody>\n</table></div>`;
}

/** Vega gives drawings a fixed size; the names in them are made to differ from drawing to drawing. */
function figure({ name, title, caption, svg }: DrawnFigure): string {
  const drawing = svg
    .replaceAll(/\bid="([^"]+)"/g, `id="${name}-$1"`)
    .replaceAll(/url\(#([^)]+)\)/g, `url(#${name}-$1)`)
    .replace('<svg', `<svg role="img" aria-label="${escaped(`${title}. ${caption}`)}"`);
  return `<figure id="${name}"><h2>${escaped(title)}</h2>\n${drawing}\n<figcaption>${escaped(caption)}</figcaption></figure>`;
}

export function page(reports: readonly NfeReport[], figures: readonly DrawnFigure[]): string {
  const title = reports.length > 1 ? 'NFE against latency, side by side' : 'NFE against latency';
  return htmlPage({ title, machines: reports.map(machineText), figures, sections: sections(reports) });
}

/** A page of anything: machines, figures, then tables under their headings. */
export function htmlPage(content: {
  title: string;
  machines: readonly string[];
  figures: readonly DrawnFigure[];
  sections: readonly Section[];
}): string {
  const { title, figures } = content;
  const machines = content.machines.map((text) => `<p class="machine">${escaped(text)}</p>`);
  const tables = content.sections.map(({ title: heading, text, table: rows }) => {
    return `<h2>${escaped(heading)}</h2>\n${text ? `<p>${escaped(text)}</p>\n` : ''}${rows ? table(rows) : ''}`;
  });
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(title)}</title>
<style>${STYLE}
</style>
</head>
<body>
<h1>${escaped(title)}</h1>
${machines.join('\n')}
<div class="figures">
${figures.map(figure).join('\n')}
</div>
${tables.join('\n')}
</body>
</html>
`;
}
