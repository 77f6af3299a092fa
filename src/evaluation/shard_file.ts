/**
 * The sums of a shard of images as `.npz`: what a run goes on from, and what `emigm merge` adds up. Sums are whole numbers
 * (see Moments), so that any split of the images gives the same statistics to the last bit. Logits stand in the order
 * of the images, for the Inception Score.
 */
import { EmigmError } from '../errors.ts';
import { readNpz, writeNpz } from '../formats/npz.ts';
import type { Tensor } from '../formats/safetensors_parse.ts';
import { concatenate, type ImageSet } from './collect.ts';
import type { ExtractorFacts } from './extractor.ts';
import { Moments, type MomentState } from './moments.ts';

export interface ShardAbout {
  readonly version: 1;
  readonly extractor: ExtractorFacts;
  /** What else the features depend on: SHA-256 of the network's weights. */
  readonly weights: string;
  /** All that the images depend on, as JSON. */
  readonly run: string;
  /** Images of the whole run, and of this shard: first .. end - 1. */
  readonly images: number;
  readonly first: number;
  readonly end: number;
}

export interface ShardSums {
  readonly about: ShardAbout;
  /** Sums of the images that are done: `set.count` of them, from `about.first` on. */
  readonly set: ImageSet;
}

export const extractorFacts = (extractor: ExtractorFacts): ExtractorFacts => {
  const { name, digest, isInception, dimensions, classes, spatialDimensions, range } = extractor;
  return { name, digest, isInception, dimensions, classes, spatialDimensions, range };
};

/** A set of no images. */
export function emptySet({ dimensions, spatialDimensions, range }: ExtractorFacts): ImageSet {
  return {
    count: 0,
    moments: new Moments(dimensions, range),
    spatial: spatialDimensions ? new Moments(spatialDimensions, range) : undefined,
  };
}

/** Both sets, `b` after `a`; without the features of single images. Changes `a`'s sums. */
export function joinSets(a: ImageSet, b: ImageSet): ImageSet {
  if (a.count === 0) return b;
  if (b.count === 0) return a;
  a.moments.merge(b.moments);
  if (a.spatial && b.spatial) a.spatial.merge(b.spatial);
  const logits = a.logits && b.logits && concatenate([a.logits, b.logits]);
  return { count: a.moments.count, moments: a.moments, spatial: a.spatial, logits };
}

const f64 = (data: Float64Array<ArrayBuffer>): Tensor => ({ dtype: 'F64', shape: [data.length], data });

/** Writes under a temporary name first. @throws EmigmError 'file' when the disk refuses */
export async function writeShard(path: string, { about, set }: ShardSums): Promise<void> {
  const sums = (moments: Moments, suffix = ''): Record<string, Tensor> => {
    const { sums, high, low } = moments.state();
    return { [`sums${suffix}`]: f64(sums), [`high${suffix}`]: f64(high), [`low${suffix}`]: f64(low) };
  };
  const text = new TextEncoder().encode(JSON.stringify(about));
  const { logits } = set;
  await writeNpz(path, {
    about: { dtype: 'U8', shape: [text.length], data: new Uint8Array(text) },
    count: f64(Float64Array.of(set.count)),
    ...sums(set.moments),
    ...(set.spatial && sums(set.spatial, '_s')),
    ...(logits && {
      logits: { dtype: 'F32', shape: [set.count, logits.length / set.count], data: new Float32Array(logits) },
    }),
  });
}

/** @throws EmigmError 'file' when it is no file of a shard, or damaged */
export async function readShard(path: string): Promise<ShardSums> {
  const arrays = await readNpz(path);
  const bad = (what: string) => new EmigmError('file', `${path}: ${what}; remove it and run the shard again`);
  const text = arrays.get('about');
  if (!text) throw bad('holds no sums of a shard');
  let about: ShardAbout;
  try {
    about = JSON.parse(new TextDecoder().decode(Uint8Array.from(text.data as Uint8Array)));
  } catch {
    throw bad('does not say what it is of');
  }
  if (about.version !== 1) throw bad(`is of version ${String(about.version)}; this program reads 1`);
  const { dimensions, spatialDimensions, range, classes } = about.extractor;
  const count = Number(arrays.get('count')?.data[0]);
  if (!(count >= 0 && count <= about.end - about.first)) throw bad(`holds ${count} images`);
  const moments = (d: number, suffix = ''): Moments => {
    const [sums, high, low] = ['sums', 'high', 'low'].map((name) => {
      const array = arrays.get(name + suffix);
      const size = name === 'sums' ? d : (d * (d + 1)) / 2;
      if (array?.dtype !== 'F64' || array.data.length !== size) throw bad(`has no ${name}${suffix} of ${size} numbers`);
      return new Float64Array(array.data as Float64Array);
    });
    const state: MomentState = { dimensions: d, range, count, sums, high, low };
    const all = new Moments(d, range);
    all.merge(state);
    return all;
  };
  const logits = arrays.get('logits')?.data as Float32Array | undefined;
  if (classes && count > 0 && logits?.length !== count * classes) throw bad(`has no logits of ${count} images`);
  const spatial = spatialDimensions ? moments(spatialDimensions, '_s') : undefined;
  return { about, set: { count, moments: moments(dimensions), spatial, logits } };
}

/**
 * All shards of a run, in order, as one set. They are read one after the other.
 * @throws EmigmError 'input' when they are of different runs; 'file'
 */
export async function mergeShards(
  paths: readonly string[],
  onUnfinished: (index: number) => void = () => {},
): Promise<ShardSums> {
  let whole: ShardSums | undefined;
  const logits: Float32Array[] = [];
  for (const [index, path] of paths.entries()) {
    const { about, set } = await readShard(path);
    const other = whole && difference(whole.about, about);
    if (other) throw new EmigmError('input', `${path} is of another run than ${paths[0]}: ${other} differs`);
    if (set.count < about.end - about.first) onUnfinished(index);
    if (set.logits) logits.push(set.logits);
    const bare = { ...set, logits: undefined };
    whole = { about: whole?.about ?? about, set: whole ? joinSets(whole.set, bare) : bare };
  }
  const { about, set } = whole!;
  const { images } = about;
  return {
    about: { ...about, first: 0, end: images },
    set: { ...set, logits: logits.length > 0 ? concatenate(logits) : undefined },
  };
}

/** What of two shards should be the same and is not: `weights`; `settings.steps`, where it is a part of the run. */
export function difference(a: ShardAbout, b: ShardAbout): string | undefined {
  const parts = ['extractor', 'weights', 'run', 'images'] as const;
  const other = parts.find((part) => JSON.stringify(a[part]) !== JSON.stringify(b[part]));
  return other === 'run' ? (partOf(JSON.parse(a.run), JSON.parse(b.run)) ?? other) : other;
}

/** The first part in which two values of JSON differ. */
function partOf(a: unknown, b: unknown): string | undefined {
  const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;
  if (!isObject(a) || !isObject(b)) return undefined;
  const name = [...Object.keys(a), ...Object.keys(b)].find((key) => JSON.stringify(a[key]) !== JSON.stringify(b[key]));
  const inner = name && partOf(a[name], b[name]);
  return inner ? `${name}.${inner}` : name;
}
