/** A run split over processes: which images each makes. An image depends on its number alone, so any split gives the same. */
import { EmigmError } from '../errors.ts';

/** Shard `index` of `count`, counted from 0. */
export interface Shard {
  readonly index: number;
  readonly count: number;
}

export const WHOLE: Shard = { index: 0, count: 1 };

/** The images of a shard: first .. end - 1 of `total`. Shards differ by one image at most, and stand in order. */
export function shardRange(total: number, { index, count }: Shard): { first: number; end: number } {
  return { first: Math.floor((index * total) / count), end: Math.floor(((index + 1) * total) / count) };
}

/** `shard-003-of-008.npz`: equally long, so that a list of files is in order. */
export function shardName({ index, count }: Shard, extension: string): string {
  const digits = Math.max(3, String(count).length);
  return `shard-${String(index).padStart(digits, '0')}-of-${String(count).padStart(digits, '0')}.${extension}`;
}

const NAME = /^shard-(\d+)-of-(\d+)\.(\w+)$/;

/**
 * The files of a complete set of shards among the names of a folder, in order; undefined when none is there.
 * @throws EmigmError 'input' naming the shards that are missing, or when there are several sets
 */
export function completeSet(names: readonly string[], extension: string, where: string): string[] | undefined {
  const found = names.flatMap((name) => {
    const match = NAME.exec(name);
    return match && match[3] === extension ? [{ name, index: Number(match[1]), count: Number(match[2]) }] : [];
  });
  if (found.length === 0) return undefined;
  const counts = [...new Set(found.map(({ count }) => count))];
  if (counts.length > 1) {
    throw new EmigmError('input', `${where} has shards of ${counts.join(' and of ')}; remove those of the other run`);
  }
  const [count] = counts;
  const byIndex = new Map(found.map(({ name, index }) => [index, name]));
  const missing = Array.from({ length: count }, (_, i) => i).filter((i) => !byIndex.has(i));
  if (missing.length > 0) throw unfinished(missing, count, where);
  return Array.from({ length: count }, (_, i) => byIndex.get(i)!);
}

/** What to say of shards that are not there or not done. */
export function unfinished(missing: readonly number[], count: number, where: string): EmigmError {
  const some = missing.slice(0, 8).join(', ') + (missing.length > 8 ? ', ...' : '');
  const which = missing.length === 1 ? `shard ${some} of ${count} is` : `shards ${some} of ${count} are`;
  return new EmigmError(
    'input',
    `${where}: ${which} missing or unfinished; run again with --shard ${missing[0]}/${count}`,
  );
}
