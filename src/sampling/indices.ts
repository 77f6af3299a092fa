/** The row numbers that an evaluation of the network gathers and scatters by, laid out for the device. */
import type { ModelConfig } from '../models/config.ts';
import { gridSize } from '../models/config.ts';
import type { TrunkIndices, TrunkShape } from '../models/emigm.ts';
import type { CacheRows } from '../models/trunk.ts';
import { MASKED } from '../ops/tokens.ts';
import type { Tensor } from '../gpu/tensor.ts';

/** One sequence of an evaluation. */
export interface SequenceRows {
  /** Row of the model's class inputs. */
  classRow: number;
  /** Image of the token state whose visible tokens it sees. */
  image: number;
  /** Visible grid positions, ascending; equally many in every sequence with MAE. */
  visible: ArrayLike<number>;
  /** Asked grid positions; equally many in every sequence. */
  asked: ArrayLike<number>;
  /** Those of the visible positions that the encoder runs over; undefined: all. */
  fresh?: ArrayLike<number>;
}

/** Builds one flat list of u32 that all index tensors are slices of. */
export class IndexList {
  readonly values: number[] = [];

  /** Appends and returns where it starts. */
  add(values: Iterable<number>): number {
    const offset = this.values.length;
    for (const value of values) this.values.push(value);
    return offset;
  }
}

export type TrunkOffsets = { [K in keyof Omit<TrunkIndices, 'cache'>]: number } & {
  cache?: { [K in keyof CacheRows]: number };
};

/** Adds the indices of one evaluation of the trunk to `list`; with `keeps` those of what its encoder keeps. */
export function addTrunk(
  list: IndexList,
  config: ModelConfig,
  rows: readonly SequenceRows[],
  keeps = false,
): { shape: TrunkShape; offsets: TrunkOffsets } {
  const { bufferSize: buffer, mae } = config;
  const grid = gridSize(config) ** 2;
  const everywhere = Array.from({ length: grid }, (_, i) => i);
  const seen = rows.map(({ visible, fresh }) => (mae ? Array.from(fresh ?? visible) : everywhere));
  const slots = rows.map(({ visible }) => {
    const slot = new Array<number>(grid).fill(MASKED);
    Array.from(visible).forEach((position, i) => {
      slot[position] = buffer + (mae ? i : position);
    });
    return slot;
  });
  const asked = rows.map((row) => Array.from(row.asked));
  return {
    shape: {
      batch: rows.length,
      visible: rows[0].visible.length,
      queries: asked[0].length,
      fresh: rows[0].fresh?.length,
    },
    offsets: {
      classes: list.add(rows.map(({ classRow }) => classRow)),
      tokenRows: list.add(rows.flatMap(({ image }, b) => seen[b].map((position) => image * grid + position))),
      visible: list.add(rows[0].fresh ? seen.flat().map((position) => buffer + position) : seen.flat()),
      slot: list.add(slots.flat()),
      identity: list.add(mae ? [] : rows.flatMap(() => everywhere.map((position) => buffer + position))),
      queryRows: list.add(asked.flatMap((positions, b) => positions.map((p) => b * (buffer + grid) + buffer + p))),
      queryPositions: list.add(asked.flat()),
      cache: keeps ? addCache(list, rows, buffer, grid) : undefined,
    },
  };
}

/** A sequence's rows are its buffer slots, then all grid positions. */
function addCache(list: IndexList, rows: readonly SequenceRows[], buffer: number, grid: number): TrunkOffsets['cache'] {
  const slots = Array.from({ length: buffer }, (_, i) => i);
  const places = (b: number, places: readonly number[], positions: ArrayLike<number>) =>
    [...places, ...Array.from(positions, (p) => buffer + p)].map((place) => b * (buffer + grid) + place);
  const all = rows.flatMap(({ visible }, b) => places(b, slots, visible));
  const own = rows.flatMap(({ visible, fresh }, b) => (fresh ? places(b, [], fresh) : places(b, slots, visible)));
  return {
    all: list.add(all),
    own: list.add(own),
    keysValues: list.add(own.flatMap((_, i) => [3 * i + 1, 3 * i + 2])),
  };
}

/** The indices as slices of the tensor that holds the list. */
export function trunkIndices(tensor: Tensor, { cache, ...offsets }: TrunkOffsets): TrunkIndices {
  const slices = (named: Record<string, number>) =>
    Object.fromEntries(Object.entries(named).map(([name, offset]) => [name, { tensor, offset }]));
  return { ...slices(offsets), cache: cache && slices(cache) } as unknown as TrunkIndices;
}
