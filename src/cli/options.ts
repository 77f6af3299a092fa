/** Reading option values, with messages that say what was expected. */
import { InvalidArgumentError } from 'commander';
import { EmigmError } from '../errors.ts';

/** For commander: `1`, `64`. */
export function positiveInteger(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < 1) {
    throw new InvalidArgumentError('It must be a positive whole number.');
  }
  return value;
}

/** For commander: `0`, `42`. */
export function wholeNumber(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) throw new InvalidArgumentError('It must be a whole number.');
  return value;
}

/** For commander: `4`, `2.5`, `1e-3`. */
export function finiteNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('It must be a number.');
  return value;
}

/** For commander: `0.25`, `2`. */
export function positiveNumber(text: string): number {
  const value = finiteNumber(text);
  if (value <= 0) throw new InvalidArgumentError('It must be a positive number.');
  return value;
}

/** For commander: two times between 0 and 1, the smaller first: `0.1,0.3`. */
export function interval(text: string): [number, number] {
  const parts = text.split(',');
  const [low, high] = parts.map((part) => (part.trim() === '' ? Number.NaN : Number(part)));
  if (parts.length !== 2 || !(low >= 0 && low <= 1 && high >= 0 && high <= 1)) {
    throw new InvalidArgumentError('It must be two numbers between 0 and 1, such as 0.1,0.3.');
  }
  if (low > high) throw new InvalidArgumentError(`It is reversed; give ${high},${low}.`);
  return [low, high];
}

/** For commander: one of the names, suggesting the nearest. */
export function oneOf<T extends string>(names: readonly T[]): (text: string) => T {
  return (text) => {
    const name = names.find((one) => one === text);
    if (name === undefined)
      throw new InvalidArgumentError(`It must be one of ${names.join(', ')}.${didYouMean(text, names)}`);
    return name;
  };
}

/**
 * Class numbers of a list of names or numbers, `dress,hat` or `3,7`, or of `all`; each once, in the order given.
 * @throws EmigmError 'input' for an unknown class, suggesting the nearest name
 */
export function parseClasses(text: string, classes: number, names: readonly string[] = []): number[] {
  if (text.trim().toLowerCase() === 'all') return Array.from({ length: classes }, (_, i) => i);
  const numbers = text.split(',').map((part) => {
    const wanted = part.trim();
    const lower = wanted.toLowerCase();
    const named = names.findIndex((name) => name.toLowerCase() === lower);
    if (named >= 0) return named;
    const number = Number(wanted);
    if (/^\d+$/.test(wanted) && number < classes) return number;
    const range = `numbers are 0 to ${classes - 1}`;
    if (wanted === '')
      throw new EmigmError('input', `class list "${text}" has an empty entry; write dress,hat or 3,7 or all`);
    if (names.length === 0)
      throw new EmigmError('input', `class "${wanted}" is unknown; this model has no class names, ${range}`);
    throw new EmigmError('input', `class "${wanted}" is unknown; ${range}.${didYouMean(wanted, names)}`);
  });
  return [...new Set(numbers)];
}

/** ` Did you mean dress?`, or nothing when no name is near. */
export function didYouMean(text: string, names: readonly string[]): string {
  const near = nearest(text, names);
  return near === undefined ? '' : ` Did you mean ${near}?`;
}

/** The name with the fewest edits from `text`, when those are at most a third of its letters or two. */
export function nearest(text: string, names: readonly string[]): string | undefined {
  let best: string | undefined;
  let fewest = Number.POSITIVE_INFINITY;
  for (const name of names) {
    const edits = editDistance(text.toLowerCase(), name.toLowerCase());
    if (edits < fewest && edits <= Math.max(2, name.length / 3) && edits < name.length) [best, fewest] = [name, edits];
  }
  return best;
}

/** Levenshtein distance: insertions, deletions and replacements of one letter. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length];
}

/** The flag of a setting, without dashes: `head-steps` for `headSteps`. */
export const kebab = (name: string) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/** `12,345,678` */
export const grouped = (value: number): string => value.toLocaleString('en-US');

/** `9.6 MB`, decimal as disks and download pages count. */
export function megabytes(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** Rows of text with aligned columns; columns of numbers (`right`) end together. */
export function table(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const pad = (cell: string, column: number) =>
    right.includes(column) ? cell.padStart(widths[column]) : cell.padEnd(widths[column]);
  return rows.map((row) => row.map(pad).join('  ').trimEnd()).join('\n');
}
