/** What changed since a stored result. */
import { problemKey } from './problems.ts';
import type { KernelReport, Row } from './schema.ts';

export interface Change {
  row: Row;
  /** Seconds then. */
  before: number;
  /** Time now over time then: above 1 is slower. */
  ratio: number;
  verdict: 'slower' | 'faster' | 'same';
}

export interface Comparison {
  /** Rows of both, the most slowed down first. */
  changes: Change[];
  /** Rows measured now that the stored result lacks. */
  added: number;
  /** What of machine or versions differs, for people. */
  differs: string[];
}

const key = ({ op, pass, problem }: Row, variant: string) => `${op} ${pass} ${variant} ${problemKey(problem)}`;

/**
 * Sets each time beside the stored one of the same op, problem and implementation; a kernel given by path beside its own
 * earlier time, else beside that of what it stands in for. Slower or faster is what differs by more than `threshold`.
 */
export function compareReports(now: KernelReport, then: KernelReport, threshold: number): Comparison {
  const stored = new Map(then.rows.map((row) => [key(row, row.variant), row.seconds?.median]));
  const timed = now.rows.filter(({ seconds }) => seconds !== undefined);
  const changes = timed.flatMap((row): Change[] => {
    const before = stored.get(key(row, row.variant)) ?? (row.standsFor && stored.get(key(row, row.standsFor)));
    if (!before) return [];
    const ratio = row.seconds!.median / before;
    return [{ row, before, ratio, verdict: ratio > threshold ? 'slower' : ratio < 1 / threshold ? 'faster' : 'same' }];
  });
  changes.sort((a, b) => b.ratio - a.ratio);
  return { changes, added: timed.length - changes.length, differs: differences(now, then) };
}

function differences({ machine: now }: KernelReport, { machine: then }: KernelReport): string[] {
  const parts: [string, string | undefined, string | undefined][] = [
    ['adapter', then.adapter, now.adapter],
    ['driver', then.driver, now.driver],
    ['cpu', then.cpu, now.cpu],
    ...[...new Set([...Object.keys(then.versions), ...Object.keys(now.versions)])].map(
      (name): [string, string | undefined, string | undefined] => [name, then.versions[name], now.versions[name]],
    ),
  ];
  return parts.filter(([, a, b]) => a !== b).map(([name, a, b]) => `${name} ${a ?? 'none'} then, ${b ?? 'none'} now`);
}
