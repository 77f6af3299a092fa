/**
 * Measured choices of implementations. `emigm tune` stores them in the cache folder; every device that is opened on the
 * same adapter and driver takes them up while the kernels are the same. A choice depends on what a layer is, never on how
 * many rows it is given: a row has the same bits in every batch.
 */
import type { Device } from './device.ts';

export interface Tuning {
  format: 'emigm-tuning';
  version: 1;
  adapter: string;
  driver: string;
  /** Hash of all kernel files. */
  kernels: string;
  date: string;
  /**
   * `matmul 768x3072 f16` to the implementation, see `shapeKey`; `matmul 768x3072 f16 @ 320` to an implementation and its
   * best tile at that many rows, see `tileKey`.
   */
  choices: Record<string, string>;
}

/** What is stored for an adapter. */
export interface StoredTuning {
  /**
   * `none`: nothing. `current`: devices take it up. `off`: not while EMIGM_TUNING=off is set. `kernels`, `driver`: these
   * have changed since. `damaged`: it cannot be read.
   */
  state: 'none' | 'current' | 'off' | 'kernels' | 'driver' | 'damaged';
  /** Where it is, or would be. */
  file: string;
  tuning?: Tuning;
}

/** Names a layer: the op, and what of its shape does not depend on the batch. */
export const shapeKey = {
  matmul: (inputs: number, outputs: number, stored: string): string => `matmul ${inputs}x${outputs} ${stored}`,
  attention: (headDim: number, dtype: string): string => `attention ${headDim} ${dtype}`,
  layernorm: (width: number): string => `layernorm ${width}`,
} as const;

/** Names what is measured of a layer at one number of rows. */
export const tileKey = (shape: string, rows: number): string => `${shape} @ ${rows}`;
/** The layer's shape of either kind of key. */
export const shapeOf = (key: string): string => key.split(' @ ')[0];
const isTileKey = (key: string) => key.includes(' @ ');

/** What `tileKey` leads to: the rows that a workgroup of this implementation takes. */
export const tileChoice = (variant: string, tile: number): string => `${variant} ${tile}`;

/** Measured tiles of each shape, of choices that a device has. */
const measured = new WeakMap<object, Map<string, { rows: number; variant: string; tile: number }[]>>();

function measuredTiles(variants: Readonly<Record<string, string>>) {
  let shapes = measured.get(variants);
  if (shapes) return shapes;
  measured.set(variants, (shapes = new Map()));
  for (const [key, value] of Object.entries(variants).filter(([name]) => isTileKey(name))) {
    const [shape, rows] = key.split(' @ ');
    const [variant, tile] = value.split(' ');
    const own = shapes.get(shape) ?? [];
    shapes.set(shape, [...own, { rows: Number(rows), variant, tile: Number(tile) }]);
  }
  return shapes;
}

/** A number of rows is served by what was measured at one not farther away than by this factor. */
const NEAR = 2;

/**
 * Of `tiles`, the rows of a workgroup that the implementation can have for so many rows, the one that was measured to be
 * best near them, else the first; undefined when there are none. They differ in speed alone: no bit of a result depends on them.
 */
export function preferredTile(
  { variants }: Pick<Device, 'variants'>,
  { shape, variant, rows }: { shape: string; variant: string; rows: number },
  tiles: readonly number[],
): number | undefined {
  const distance = (other: { rows: number }) => Math.abs(Math.log(other.rows / rows));
  const near = (measuredTiles(variants).get(shape) ?? [])
    .filter((one) => one.variant === variant && tiles.includes(one.tile) && distance(one) <= Math.log(NEAR))
    .sort((a, b) => distance(a) - distance(b));
  return near[0]?.tile ?? tiles[0];
}

/** Implementations with the one first that was asked for, of this op or, measured, of this shape; if it is among them. */
export function preferredFirst<T extends string>(
  { variants }: Pick<Device, 'variants'>,
  key: string,
  usable: readonly T[],
): T[] {
  const asked = variants[key] ?? variants[key.split(' ')[0]];
  const wanted = usable.find((name) => name === asked);
  return wanted ? [wanted, ...usable.filter((name) => name !== wanted)] : [...usable];
}

/** What was asked for, and measured choices for the ops of which nothing was. */
export function withTuning(
  asked: Readonly<Record<string, string>>,
  tuning: Tuning | undefined,
): Readonly<Record<string, string>> {
  const left = Object.entries(tuning?.choices ?? {}).filter(([key]) => !(key.split(' ')[0] in asked));
  return { ...Object.fromEntries(left), ...asked };
}

/** Where the choice of implementations comes from, for people. */
export function tuningText(tuning: Tuning | undefined): string {
  if (!tuning) return 'the built-in table';
  const shapes = new Set(Object.keys(tuning.choices).map(shapeOf));
  return `emigm tune of ${tuning.date.slice(0, 10)} (${shapes.size} shapes)`;
}

/** What is stored and whether it counts, for people. */
export function storedText({ state, file, tuning }: StoredTuning): string {
  const of = tuning ? `of ${tuning.date.slice(0, 10)}, ${file}` : file;
  switch (state) {
    case 'none':
      return 'nothing stored; emigm tune measures which kernels are best here';
    case 'current':
      return `current (${of})`;
    case 'off':
      return `not taken up while EMIGM_TUNING=off is set (${of})`;
    case 'kernels':
      return `outdated, not taken up: kernels have changed since (${of})`;
    case 'driver':
      return `outdated, not taken up: the driver was another one then (${of})`;
    case 'damaged':
      return `damaged, not taken up (${of})`;
  }
}

/** Whether measuring again is what helps. */
export const isOutdated = ({ state }: Pick<StoredTuning, 'state'>): boolean =>
  ['kernels', 'driver', 'damaged'].includes(state);

/** Reads what is in a file. Undefined when it is anything else: a file in a cache is no reason to fail. */
export function parseTuning(text: string): Tuning | undefined {
  try {
    const { format, version, choices, ...rest } = JSON.parse(text) as Tuning;
    const texts = [rest.adapter, rest.driver, rest.kernels, rest.date, ...Object.values(choices)];
    if (format !== 'emigm-tuning' || version !== 1 || texts.some((one) => typeof one !== 'string')) return undefined;
    return { format, version, choices, ...rest };
  } catch {
    return undefined;
  }
}
