/** The noise of a batch's head: each token's depends on the seed, its image, its position and its step of the plan. */
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { normal } from '../ops/diffusion.ts';
import { scatterRows } from '../ops/tokens.ts';
import { STREAMS } from '../random.ts';
import type { PlannedStep } from './batch.ts';
import type { IndexList } from './indices.ts';

/** Rows of a chunk whose noise is of one step. */
export interface ChunkNoise {
  step: number;
  /** First of their (image, position) pairs. */
  first: number;
  count: number;
  /** Where the numbers of these rows within the chunk are, and within its second half; undefined: they are all rows. */
  rows?: number;
  copyRows?: number;
}

/** Adds the (image index, position) pairs of a chunk's rows, and where rows of several steps go. */
export function addNoise(
  { list, noiseRows }: { list: IndexList; noiseRows: number[] },
  { positions, parts }: PlannedStep,
  step: number,
  imageIndices: readonly number[],
  chunk: { first: number; count: number },
): ChunkNoise[] {
  const each = positions[0].length;
  const of = parts ?? [{ step, count: each }];
  const stepOf = of.flatMap((part) => new Array<number>(part.count).fill(part.step));
  const own = Array.from({ length: chunk.count }, (_, i) => i);
  return of.flatMap((part): ChunkNoise[] => {
    const rows = own.filter((i) => stepOf[(chunk.first + i) % each] === part.step);
    if (rows.length === 0) return [];
    const noise = { step: part.step, first: noiseRows.length / 2, count: rows.length };
    for (const row of rows) {
      const image = Math.floor((chunk.first + row) / each);
      noiseRows.push(imageIndices[image], positions[image][(chunk.first + row) % each]);
    }
    if (of.length === 1) return [noise];
    return [{ ...noise, rows: list.add(rows), copyRows: list.add(rows.map((row) => chunk.count + row)) }];
  });
}

/** Records the noise of a chunk's rows into `out`, twice with `copy`. */
export function recordNoise(
  r: Recorder,
  { rows: pairs, index }: { rows: Tensor; index: Tensor },
  parts: readonly ChunkNoise[],
  { seed, headStep, channels, copy }: { seed: number | bigint; headStep: number; channels: number; copy: boolean },
  out: Tensor,
): void {
  for (const { step, first, count, rows, copyRows } of parts) {
    const key = { seed, stream: STREAMS.headNoise, step, headStep };
    if (rows === undefined || copyRows === undefined) {
      normal(r, pairs, first, count, channels, key, out, copy);
      continue;
    }
    const own = r.temp([count, channels], 'f32', 'noise of a step');
    normal(r, pairs, first, count, channels, key, own);
    scatterRows(r, own, { tensor: index, offset: rows }, count, channels, out);
    if (copy) scatterRows(r, own, { tensor: index, offset: copyRows }, count, channels, out);
  }
}
