import type { Command } from 'commander';
import { EmigmError } from '../errors.ts';
import { type NfeReport, parseReport } from '../measurement/schema.ts';
import { markdown } from '../measurement/tables.ts';
import type { Io } from './io.ts';
import { makeFolder } from './open.ts';
import { readJson, writeReport } from './write_report.ts';

export function registerReport(program: Command, io: Io): void {
  program
    .command('report')
    .summary('lay measurements side by side')
    .description(
      'Reads reports of emigm bench nfe (nfe.json) and writes CSV, Markdown, an HTML page and figures of all of them: ' +
        'adapters, versions, settings. Speed-ups are against the first.',
    )
    .argument('<reports...>', 'nfe.json files')
    .option('-o, --out <folder>', 'where to write', 'report')
    .option('-q, --quiet', 'print nothing but errors')
    .addHelpText('after', '\nExample:\n  emigm report gpu/nfe.json cpu/nfe.json --out report')
    .action((paths: string[], flags: { out: string; quiet?: boolean }) => report(paths, flags, io));
}

/** @throws EmigmError 'file' when one is no report, or the disk refuses */
export async function report(paths: readonly string[], flags: { out: string; quiet?: boolean }, io: Io): Promise<void> {
  const reports: NfeReport[] = [];
  for (const path of paths) reports.push(parseReport(await readJson(path), path));
  const empty = reports.findIndex(({ rows }) => rows.length === 0);
  if (empty >= 0) throw new EmigmError('file', `${paths[empty]}: has no rows`);
  makeFolder(flags.out);
  const html = await writeReport(flags.out, 'report', reports);
  if (flags.quiet) return;
  io.out(markdown(reports).trimEnd());
  io.out(`\n${html} has the figures`);
}
