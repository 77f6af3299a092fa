/** `emigm plot`: curves of a training run; figures of the axes of masked generation. */
import { statSync } from 'node:fs';
import { basename, dirname, extname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { EmigmError } from '../errors.ts';
import { reason, writeAtomically } from '../formats/files.ts';
import { readStepLog } from '../formats/step_log.ts';
import { svgToPng } from '../formats/svg.ts';
import { axisFigures } from './axis_figures.ts';
import { curvesSpec, renderCurves } from './curves.ts';
import type { Io } from './io.ts';
import { makeFolder } from './open.ts';
import { finiteNumber, positiveInteger, wholeNumber } from './options.ts';

export interface PlotFlags {
  out?: string;
  smoothing?: number;
  log?: boolean;
  from?: number;
  axes?: boolean;
  tokens?: number;
}

/** Pixels of the PNG for each unit of the SVG. */
const PNG_SCALE = 1.5;

export function registerPlot(program: Command, io: Io): void {
  program
    .command('plot')
    .summary('draw the curves of a training run, or of the schedules')
    .description(
      'Draws loss (raw and smoothed), learning rate, gradient norm and images a second against the step, ' +
        'as curves.svg and curves.png in the run folder. Works while the run goes on.\n' +
        'With --axes: mask ratio and weighting of every schedule, and the tokens that each step reveals.',
    )
    .argument('[run]', 'a folder of emigm train, or its log.jsonl')
    .option('-o, --out <file>', 'a .svg or .png file; without suffix both are written; with --axes a folder')
    .option('--smoothing <x>', 'decay of the smoothed loss, from 0 to below 1', finiteNumber, 0.98)
    .option('--log', 'logarithmic axis for the loss')
    .option('--from <step>', 'leave out earlier steps', wholeNumber, 0)
    .option('--axes', 'instead: the schedules, as SVG files')
    .option('--tokens <n>', 'with --axes: tokens of an image', positiveInteger, 256)
    .addHelpText(
      'after',
      '\nExamples:\n  emigm plot runs/shapes\n  emigm plot runs/shapes --log --from 500 --out loss.png\n  emigm plot --axes --out figures',
    )
    .action((run: string | undefined, flags: PlotFlags) => {
      if (flags.axes && run === undefined) return plotAxes(flags, io);
      if (flags.axes || run === undefined) throw new EmigmError('input', 'name a run, or give --axes alone');
      return plot(run, flags, io);
    });
}

/** @throws EmigmError 'input' when the folder is a file, 'file' when the disk refuses */
export async function plotAxes({ out = '.', tokens }: PlotFlags, io: Io): Promise<void> {
  makeFolder(out);
  for (const { name, spec } of axisFigures(tokens)) {
    const file = join(out, `${name}.svg`);
    const svg = await renderCurves(spec);
    await writeAtomically(file, (put) => put(new TextEncoder().encode(svg)));
    io.out(file);
  }
}

/** @throws EmigmError 'file' when there is no log or the disk refuses, 'input' when the log has nothing to draw */
export async function plot(run: string, { out, smoothing, log, from = 0 }: PlotFlags, io: Io): Promise<void> {
  const path = logOf(run);
  const lines = (await readStepLog(path)).filter(({ step }) => step >= from);
  const title = basename(dirname(resolve(path)));
  const svg = await renderCurves(curvesSpec(lines, { title, smoothing, log }));
  const target = out ?? join(dirname(path), 'curves');
  const suffix = extname(target).toLowerCase();
  const isPicture = suffix === '.svg' || suffix === '.png';
  for (const kind of isPicture ? [suffix] : ['.svg', '.png']) {
    const file = isPicture ? target : target + kind;
    const bytes = kind === '.svg' ? new TextEncoder().encode(svg) : await svgToPng(svg, PNG_SCALE);
    await writeAtomically(file, (put) => put(bytes));
    io.out(file);
  }
}

function logOf(run: string): string {
  let isFolder: boolean;
  try {
    isFolder = statSync(run).isDirectory();
  } catch (cause) {
    throw new EmigmError('file', `${run}: ${reason(cause)}`, { cause });
  }
  return isFolder ? join(run, 'log.jsonl') : run;
}
