/** Reports of kernels as tables: for the terminal, Markdown, CSV. */
import { digits, percent, rate, type Section, type Table, time } from '../tables.ts';
import type { Comparison } from './compare.ts';
import { problemText } from './problems.ts';
import type { KernelReport, Row } from './schema.ts';

export const opName = ({ op, pass }: Pick<Row, 'op' | 'pass'>) => (pass === 'backward' ? `${op} backward` : op);

/** A row an implementation; `*` marks the engine's own choice. */
export function kernelTable(rows: readonly Row[]): Table {
  const checked = rows.some(({ check }) => check);
  const head = ['op', 'problem', 'kernel', 'time', 'spread', 'GFLOP/s', 'GB/s', 'of roofline', 'x fastest'];
  const least = new Map<string, number>();
  const group = (row: Row) => `${opName(row)} ${problemText(row.problem)}`;
  for (const row of rows) {
    if (row.seconds) least.set(group(row), Math.min(least.get(group(row)) ?? Infinity, row.seconds.median));
  }
  const incomplete = rows.some(({ skipped }) => skipped);
  return {
    head: [...head, ...(checked ? ['error (allowed)'] : []), ...(incomplete ? ['left out'] : [])],
    rows: rows.map((row) => {
      const { seconds, flops, bytes, share, check, skipped } = row;
      const about = [opName(row), problemText(row.problem), `${row.variant}${row.isChoice ? ' *' : ''}`];
      const error = checked ? [errorText(check)] : [];
      if (!seconds) return [...about, '-', '-', '-', '-', '-', '-', ...error, skipped ?? ''];
      return [
        ...about,
        time(seconds.median),
        percent(seconds.spread),
        flops > 0 ? digits(flops / seconds.median / 1e9) : '-',
        digits(bytes / seconds.median / 1e9),
        share === undefined ? '-' : percent(share),
        digits(seconds.median / least.get(group(row))!),
        ...error,
        ...(incomplete ? [''] : []),
      ];
    }),
  };
}

/** `3.0e-7 (5.0e-6)`; of several problems the one that is nearest to what is allowed, or beyond. */
function errorText(check: Row['check']): string {
  if (!check) return '-';
  return `${check.error === null ? 'NaN' : check.error.toExponential(1)} (${check.tolerance.toExponential(1)})`;
}

/** Columns of `kernelTable` that hold numbers. */
export const NUMBERS = [3, 4, 5, 6, 7, 8];

export function changeTable({ changes }: Comparison): Table {
  return {
    head: ['op', 'problem', 'kernel', 'then', 'now', 'now / then', ''],
    rows: changes.map(({ row, before, ratio, verdict }) => [
      opName(row),
      problemText(row.problem),
      row.variant,
      time(before),
      time(row.seconds!.median),
      ratio.toFixed(2),
      verdict === 'same' ? '' : verdict,
    ]),
  };
}

/** One line about the machine and what it can do. */
export function kernelMachineText({ machine, roofline, date, choice }: KernelReport): string {
  const versions = Object.entries(machine.versions).map(([name, version]) => `${name} ${version}`);
  if (machine.commit) versions.push(`commit ${machine.commit}`);
  const { f32, f16, matrix, bytes } = roofline;
  const roofs = [
    `f32 ${rate(f32, 'FLOP/s')}`,
    ...(f16 ? [`f16 ${rate(f16, 'FLOP/s')}`] : []),
    ...(matrix ? [`matrix units ${rate(matrix, 'FLOP/s')}`] : []),
    `copy ${rate(bytes, 'B/s')}`,
  ];
  return (
    `${machine.adapter} (${machine.driver}), ${machine.cpu}; ${versions.join(', ')}; ${date.slice(0, 10)}; ` +
    `measured roofline: ${roofs.join(', ')}; kernels chosen by ${choice}`
  );
}

export function kernelSections(report: KernelReport): Section[] {
  const text =
    'Device time, median of interleaved runs; * is what the engine chooses. The roofline is multiply-adds alone and a copy ' +
    'alone on this adapter; bytes count each operand once, so that a share above 100% comes from a cache.';
  return [{ title: 'Kernels', text, table: kernelTable(report.rows) }];
}

/** Lines of a CSV file. */
export const kernelLines = ({ rows }: KernelReport): Record<string, unknown>[] =>
  rows.map(({ seconds, problem, kernels, check, ...row }) => ({
    ...row,
    problem: problemText(problem),
    kernels: kernels.join(' '),
    seconds: seconds?.median,
    seconds_spread: seconds?.spread,
    error: check?.error,
  }));
