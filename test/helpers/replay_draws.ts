/** Recorded draws of a golden file, replayed in the order in which they were made. */
import type { Draws } from '../../src/masking/draws.ts';
import type { Golden } from './golden.ts';

export interface ReplayDraws extends Draws {
  /** Draws not yet consumed. */
  left(): number;
}

/**
 * Replays tensors named `<prefix>...draw##.<function>`, in the order of their names. Functions in `skip` are left
 * out. Throws when another function is asked for than was recorded, or another size.
 */
export function replayDraws(golden: Golden, prefix: string, skip: readonly string[] = []): ReplayDraws {
  const queue = golden
    .names(prefix)
    .filter((name) => /draw\d+\.\w+$/.test(name) && !skip.includes(name.slice(name.lastIndexOf('.') + 1)))
    .sort((a, b) => (a < b ? -1 : 1));
  const next = (kind: string, size: number) => {
    const name = queue.shift();
    if (!name?.endsWith(`.${kind}`)) throw new Error(`asked for ${kind}(${size}), recorded ${name ?? 'no more draws'}`);
    const values = golden.get(name) as Float32Array | Int32Array;
    if (values.length !== size) throw new Error(`asked for ${kind}(${size}), recorded ${values.length} in ${name}`);
    return values;
  };
  return {
    rand: (n) => Float32Array.from(next('rand', n)),
    randperm: (n) => Int32Array.from(next('randperm', n)),
    randint: (n) => {
      const [value] = next('randint', 1);
      if (!(value >= 0 && value < n)) throw new Error(`recorded integer ${value} is not below ${n}`);
      return value;
    },
    left: () => queue.length,
  };
}
