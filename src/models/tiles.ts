/** Square tiles that overlap, for maps too large for one pass, and the weights that blend them. */

/** Where the tiles of one direction start: as few of `tile` as cover `length` with at least `overlap` in common. */
export function tileStarts(length: number, tile: number, overlap: number): number[] {
  if (length <= tile) return [0];
  const count = Math.ceil((length - overlap) / (tile - overlap));
  return Array.from({ length: count }, (_, i) => Math.round((i * (length - tile)) / (count - 1)));
}

/** Cuts [channels, height, width] at (top, left) to [channels, rows, columns]. */
export function cutTile(
  planes: Float32Array,
  { height, width }: { height: number; width: number },
  { top, left, rows, columns }: { top: number; left: number; rows: number; columns: number },
): Float32Array<ArrayBuffer> {
  const channels = planes.length / (height * width);
  const out = new Float32Array(channels * rows * columns);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < rows; y++) {
      const from = (c * height + top + y) * width + left;
      out.set(planes.subarray(from, from + columns), (c * rows + y) * columns);
    }
  }
  return out;
}

/** Weighted mean of tiles; a tile's weight falls linearly over `ramp` numbers towards its edges. */
export class TileBlend {
  private readonly sums: Float32Array<ArrayBuffer>;
  private readonly weights: Float32Array<ArrayBuffer>;
  private readonly size: { channels: number; height: number; width: number };
  private readonly ramp: number;

  constructor(size: { channels: number; height: number; width: number }, ramp: number) {
    this.size = size;
    this.ramp = ramp;
    this.sums = new Float32Array(size.channels * size.height * size.width);
    this.weights = new Float32Array(size.height * size.width);
  }

  /** Adds a tile [channels, rows, columns] whose first number stands at (top, left). */
  add(tile: Float32Array, { top, left, rows, columns }: { top: number; left: number; rows: number; columns: number }) {
    const { channels, height, width } = this.size;
    const near = (i: number, length: number) => Math.min(1, (Math.min(i, length - 1 - i) + 0.5) / this.ramp);
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        const weight = near(y, rows) * near(x, columns);
        const at = (top + y) * width + left + x;
        this.weights[at] += weight;
        for (let c = 0; c < channels; c++) {
          this.sums[c * height * width + at] += weight * tile[(c * rows + y) * columns + x];
        }
      }
    }
  }

  /** The blended map [channels, height, width]; every place must lie in a tile. */
  result(): Float32Array<ArrayBuffer> {
    const { channels, height, width } = this.size;
    for (let c = 0; c < channels; c++) {
      for (let i = 0; i < height * width; i++) this.sums[c * height * width + i] /= this.weights[i];
    }
    return this.sums;
  }
}
