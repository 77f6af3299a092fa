/** `npx tsx bench/ablation/report.ts`: the ablation's measurements as a table and figures in docs, and as a result. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { renderCurves } from '../../src/cli/curves.ts';
import { makeFolder } from '../../src/cli/open.ts';
import { writeText } from '../../src/cli/write_report.ts';
import { EmigmError } from '../../src/errors.ts';
import { openJsonLines } from '../../src/formats/json_lines.ts';
import { svgToPng } from '../../src/formats/svg.ts';
import { digits, markdownOf, type Section } from '../../src/measurement/tables.ts';
import { type StudyAxis, study } from './axes.ts';
import { ablationFigure } from './figures.ts';
import { type Line, ofKind, parseLines } from './log.ts';
import { lastStart, type MeasuredCase, measuredCases, readResult, resultJson, spread, type Spread } from './result.ts';
import { measurementsFile } from './study.ts';
import { exitCode } from '../main.ts';

interface Flags {
  docs: string;
  results?: string;
}

/** Between these lines of the page the report writes; the rest is for people. */
const [BEGIN, END] = ['<!-- begin of what bench/ablation/report.ts writes -->', '<!-- end of it -->'];
const PNG_SCALE = 2;

const withSpread = (value: Spread | undefined, scale = 1, unit = ''): string => {
  if (!value) return '-';
  const { mean, deviation, values } = value;
  const text = unit === '' ? digits(mean * scale) : (mean * scale).toFixed(1);
  const after = text.split('.')[1]?.length ?? 0;
  return values.length > 1 ? `${text} ± ${(deviation * scale).toFixed(after)}${unit}` : `${text}${unit}`;
};

const counted = (value: Spread | undefined): string => (value ? String(Math.round(value.mean * 10) / 10) : '-');

function axisSection(axis: StudyAxis, rows: readonly MeasuredCase[]): Section {
  const names = [...new Set(rows.flatMap(({ values }) => Object.keys(values)))];
  const most = Math.max(...rows.map(({ seeds }) => seeds));
  const compared = rows.some(({ worse }) => worse);
  const head = [...names, 'NFE', 'head evaluations', 'Fréchet distance', 'shows its class'];
  if (compared) head.push('worse than the base');
  if (rows.some(({ seeds }) => seeds !== most)) head.push('seeds');
  const body = rows.map((row) => {
    const { values, nfe, headEvaluations, distance, agreement, worse, seeds } = row;
    const cells: Record<string, string> = {
      NFE: counted(nfe),
      'head evaluations': counted(headEvaluations),
      'Fréchet distance': withSpread(distance),
      'shows its class': withSpread(agreement, 100, ' %'),
      'worse than the base': worse ? `${worse.seeds} of ${worse.of}` : '',
      seeds: String(seeds),
    };
    return head.map((name) => values[name] ?? cells[name] ?? '');
  });
  return { title: axis.title, text: `The paper: ${axis.paper}`, table: { head, rows: body } };
}

/** The written part of the page. @throws EmigmError 'input' when nothing has been measured */
export function reportText(axes: readonly StudyAxis[], lines: readonly Line[]): string {
  const [header] = ofKind(lines, 'header');
  const [judge] = ofKind(lines, 'judge');
  if (!header || !judge) throw new EmigmError('input', 'nothing has been measured yet');
  const { machine, date, command } = lastStart(lines);
  const commits = [...new Set(ofKind(lines, 'start').map((start) => start.machine.commit ?? 'unknown'))];
  const trainings = ofKind(lines, 'training');
  const seconds = trainings.reduce((sum, one) => sum + one.seconds, 0);
  const seeds = [...new Set(trainings.map(({ seed }) => seed))].sort((a, b) => a - b);
  const versions = Object.entries(machine.versions).map(([name, version]) => `${name} ${version}`);
  const { images, samples, reference } = header.options;
  const about = [
    `${machine.adapter}, ${machine.cpu}; ${versions.join(', ')}; commit ${commits.join(', ')}; ${date.slice(0, 10)}; \`${command}\``,
    `${trainings.length} trainings of ${images} images (seeds ${seeds.join(', ')}), ${digits(seconds / 60)} minutes in all; ${samples} images a point; \`±\`: standard deviation of a seed`,
    `the classifier is right on ${(100 * judge.accuracy).toFixed(1)} % of ${judge.images} held-out shapes; held-out shapes, ${samples} at a time, are at a distance of ${withSpread(spread(judge.floor))} from the ${reference} of the reference: what a perfect model would get`,
  ];
  const sections = axes.map((axis) => axisSection(axis, measuredCases(axis, lines)));
  return markdownOf(about, sections).replace(/^## /gm, '### '); // the page has headings of its own
}

/** The measurements of a folder of run.ts, or of a kept result. @throws EmigmError 'file' */
export async function readMeasurements(path: string): Promise<Line[]> {
  if (!existsSync(path)) throw new EmigmError('file', `${path}: no such file or folder`);
  if (!statSync(path).isDirectory()) return readResult(path);
  const file = measurementsFile(path);
  if (!existsSync(file)) throw new EmigmError('file', `${path}: holds no measurements of bench/ablation/run.ts`);
  const { lines, close } = await openJsonLines(file);
  close();
  return parseLines(lines, file);
}

/**
 * The measurements of several folders or kept results together: seeds may be measured side by side.
 * @throws EmigmError 'input' when they were not made alike, 'file'
 */
export async function mergeMeasurements(paths: readonly string[]): Promise<Line[]> {
  const [first, ...others] = await Promise.all(paths.map(readMeasurements));
  const merged = [...first];
  const known = new Set(first.map(keyOf));
  // What samples were compared with: the classifier, by its accuracy and its distances of held-out shapes.
  const alike = (lines: readonly Line[]) =>
    JSON.stringify([ofKind(lines, 'header')[0]?.options, ofKind(lines, 'judge')[0]]);
  for (const [i, lines] of others.entries()) {
    if (alike(lines) !== alike(first)) {
      throw new EmigmError('input', `${paths[i + 1]} has other options or another classifier than ${paths[0]}`);
    }
    merged.push(...lines.filter((line) => !known.has(keyOf(line))));
    for (const line of lines) known.add(keyOf(line));
  }
  return merged;
}

/** Lines that measure the same have the same. */
function keyOf(line: Line): string {
  if (line.kind === 'point') return `point ${line.seed} ${line.id}`;
  if (line.kind === 'training') return `training ${line.seed} ${line.training}`;
  return line.kind === 'start' ? `start ${line.date} ${line.command}` : line.kind;
}

/** The page with its written part renewed. @throws EmigmError 'file' when it has no place for it */
function withReport(page: string, text: string, path: string): string {
  const [from, to] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (from < 0 || to < from) {
    throw new EmigmError('file', `${path}: needs the lines "${BEGIN}" and "${END}" where the tables go`);
  }
  return `${page.slice(0, from + BEGIN.length)}\n\n${text}\n${page.slice(to)}`;
}

/** `2026-11-25-lavapipe-ablation.json` */
function resultName(lines: readonly Line[]): string {
  const { machine, date } = lastStart(lines);
  const adapter = /llvmpipe|lavapipe/i.test(machine.adapter)
    ? 'lavapipe'
    : (/swiftshader/i.exec(machine.adapter)?.[0] ?? machine.adapter.split(/[^\w.-]+/)[0]).toLowerCase();
  return `${date.slice(0, 10)}-${adapter}-ablation.json`;
}

/** Writes figures and page into `docs`, and the result into `results`. Returns the files. */
export async function report(
  lines: readonly Line[],
  { docs, results }: Flags,
  axes: readonly StudyAxis[] = study.axes,
): Promise<string[]> {
  const page = join(docs, 'ablation.md');
  if (!existsSync(page)) throw new EmigmError('file', `${page}: no such file; --docs names the folder that has it`);
  const renewed = withReport(readFileSync(page, 'utf8'), reportText(axes, lines), page);
  const written: string[] = [];
  const write = async (path: string, content: string | Uint8Array) => {
    await writeText(path, content);
    written.push(path);
  };
  const images = join(docs, 'images');
  makeFolder(images);
  for (const name of ['training', 'sampling'] as const) {
    const spec = ablationFigure(axes, name, lines);
    if (!spec) continue;
    const svg = await renderCurves(spec);
    await write(join(images, `ablation-${name}.svg`), svg);
    await write(join(images, `ablation-${name}.png`), await svgToPng(svg, PNG_SCALE));
  }
  await write(page, renewed);
  if (results !== undefined) {
    makeFolder(results);
    await write(join(results, resultName(lines)), resultJson(lines));
  }
  return written;
}

async function main(): Promise<number> {
  const command = new Command('npx tsx bench/ablation/report.ts')
    .description('Writes tables, figures and the result of an ablation. May be called while it goes on.')
    .argument('<measurements...>', 'folders of run.ts (of other seeds), or JSON files of earlier reports')
    .option('--docs <folder>', 'has ablation.md, and gets images/ablation-*.svg and .png', 'docs')
    .option('--results <folder>', 'gets DATE-ADAPTER-ablation.json')
    .addHelpText(
      'after',
      '\nExamples:\n  npx tsx bench/ablation/report.ts out/ablation --results bench/results\n' +
        '  npx tsx bench/ablation/report.ts bench/results/2026-11-25-lavapipe-ablation.json',
    )
    .exitOverride();
  return exitCode('report', async () => {
    command.parse();
    const files = await report(await mergeMeasurements(command.args), command.opts<Flags>());
    process.stdout.write(`${files.join('\n')}\n`);
  });
}

if (process.argv[1] === import.meta.filename) process.exitCode = await main();
