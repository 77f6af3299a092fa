/** The row numbers that an evaluation of the network gathers and scatters by, laid out for the device. */
import type { ModelConfig } from '../models/config.ts';
import { gridSize } from '../models/config.ts';
import type { TrunkIndices, TrunkShape } from '../models/emigm.ts';
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

export type TrunkOffsets = { [K in keyof TrunkIndices]: number };

/** Adds the indices of one evaluation of the trunk to `list`. */
export function addTrunk(
  list: IndexList,
  config: ModelConfig,
  rows: readonly SequenceRows[],
): { shape: TrunkShape; offsets: TrunkOffsets } {
  const { bufferSize: buffer, mae } = config;
  const grid = gridSize(config) ** 2;
  const everywhere = Array.from({ length: grid }, (_, i) => i);
  const seen = rows.map(({ visible }) => (mae ? Array.from(visible) : everywhere));
  const slots = rows.map(({ visible }) => {
    const slot = new Array<number>(grid).fill(MASKED);
    Array.from(visible).forEach((position, i) => {
      slot[position] = buffer + (mae ? i : position);
    });
    return slot;
  });
  const asked = rows.map((row) => Array.from(row.asked));
  return {
    shape: { batch: rows.length, visible: rows[0].visible.length, queries: asked[0].length },
    offsets: {
      classes: list.add(rows.map(({ classRow }) => classRow)),
      tokenRows: list.add(rows.flatMap(({ image }, b) => seen[b].map((position) => image * grid + position))),
      visible: list.add(seen.flat()),
      slot: list.add(slots.flat()),
      identity: list.add(mae ? [] : rows.flatMap(() => everywhere.map((position) => buffer + position))),
      queryRows: list.add(asked.flatMap((positions, b) => positions.map((p) => b * (buffer + grid) + buffer + p))),
      queryPositions: list.add(asked.flat()),
    },
  };
}

/** The indices as slices of the tensor that holds the list. */
export function trunkIndices(tensor: Tensor, offsets: TrunkOffsets): TrunkIndices {
  return Object.fromEntries(
    Object.entries(offsets).map(([name, offset]) => [name, { tensor, offset }]),
  ) as unknown as TrunkIndices;
}
