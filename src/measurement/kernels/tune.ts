/** Measuring which implementation serves each layer of a model best on this adapter. */
import { EmigmError } from '../../errors.ts';
import type { Device } from '../../gpu/device.ts';
import { tileChoice, tileKey } from '../../gpu/tuning.ts';
import type { Op } from '../../ops/op.ts';
import { ops } from '../../ops/registry.ts';
import type { LayerShape } from './layers.ts';
import { type Job, jobsOf, type Limits, type Rates, timeJob } from './time.ts';

/** What was found for one shape. */
export interface Choice {
  key: string;
  /** The built-in table's, and the one that is best here. */
  builtIn: string;
  choice: string;
  /** Time of the built-in over that of the choice. */
  gain: number;
  /** Seconds an image, in all calls of the shape; what was left out as far slower has none. */
  seconds: Record<string, number>;
  /** Rows of a workgroup that are best at a number of rows, where the choice has several. */
  tiles: TileChoice[];
}

export interface TileChoice {
  rows: number;
  builtIn: number;
  choice: number;
  gain: number;
}

/** What is to be stored of it. */
export function entries({ key, choice, tiles }: Choice): [string, string][] {
  return [
    [key, choice],
    ...tiles.map(({ rows, choice: tile }): [string, string] => [tileKey(key, rows), tileChoice(choice, tile)]),
  ];
}

export interface TuneOptions {
  limits?: Limits;
  /** What another implementation has to gain over the built-in one to be chosen: less may be chance. */
  margin?: number;
  onProgress?: (done: number, what: string) => void;
  signal?: AbortSignal;
}

type Settings = Required<Pick<TuneOptions, 'limits' | 'margin'>> & Pick<TuneOptions, 'signal'>;

const LIMITS: Limits = { once: 1, each: 0.25 };
/** An implementation that is slower than the best by so much on few rows is not tried on more. */
const HOPELESS = 4;

/**
 * Times every implementation that the adapter allows, on a few numbers of rows for each shape, and chooses one for the
 * shape: it may not depend on the number of rows, or a row's bits would depend on the batch it is in. Tiles, of which no
 * bit depends, are chosen for each number of rows.
 * `device` is opened without measured choices. @throws EmigmError 'aborted', and as the device does
 */
export async function tuneLayers(
  device: Device,
  layers: readonly LayerShape[],
  { limits = LIMITS, margin = 1.05, onProgress, signal }: TuneOptions = {},
): Promise<Choice[]> {
  const found: Choice[] = [];
  for (const [i, layer] of layers.entries()) {
    if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
    onProgress?.(i / layers.length, layer.key);
    const op = ops.find(({ name }) => name === layer.op)!;
    found.push(await tuneLayer(device, op, layer, { limits, margin, signal }));
  }
  return found;
}

async function tuneLayer(
  device: Device,
  op: Op,
  { key, problems }: LayerShape,
  { limits, margin, signal }: Settings,
): Promise<Choice> {
  const seconds = new Map<string, number>();
  const rates: Rates = new Map();
  let left = op.variants(device, problems[0].problem);
  const [builtIn] = left;
  for (const name of left) seconds.set(name, 0);
  for (const { problem, weight } of problems) {
    const [job] = jobsOf(device, op, 'forward', [problem], (usable) => usable.filter((name) => left.includes(name)));
    if (!job) continue;
    const rows = await timeJob(device, job, limits, rates, signal);
    const least = Math.min(...rows.map((row) => row.seconds?.median ?? Number.POSITIVE_INFINITY));
    const time = (name: string) => rows.find(({ variant }) => variant === name)?.seconds?.median;
    // The built-in one stays as what others are compared with, even where it took too long to be timed.
    left = left.filter((name) => name === builtIn || (time(name) ?? Number.POSITIVE_INFINITY) < HOPELESS * least);
    for (const name of seconds.keys()) {
      const one = left.includes(name) ? time(name) : undefined;
      seconds.set(name, seconds.get(name)! + weight * (one ?? Number.POSITIVE_INFINITY));
    }
  }
  const base = seconds.get(builtIn)!;
  const best = [...seconds].reduce((a, b) => (b[1] < a[1] ? b : a))[0];
  const choice = base >= margin * seconds.get(best)! ? best : builtIn;
  const tiles: TileChoice[] = [];
  for (const { problem } of problems) {
    const found = await tuneTile(device, { op, pass: 'forward', problem, variants: [] }, choice, {
      limits,
      margin,
      signal,
    });
    if (found) tiles.push(found);
  }
  const timed = [...seconds].filter(([, value]) => Number.isFinite(value));
  return { key, builtIn, choice, gain: base / seconds.get(choice)!, seconds: Object.fromEntries(timed), tiles };
}

/** The best tile of this implementation for the job's problem; undefined where it has one alone. */
async function tuneTile(
  device: Device,
  job: Job,
  variant: string,
  { limits, margin, signal }: Settings,
): Promise<TileChoice | undefined> {
  const { op, problem } = job;
  const tiles = op.tiles?.of(device, problem, variant) ?? [];
  if (tiles.length < 2) return undefined;
  const variants = tiles.map((tile, i) => ({ name: variant, isChoice: i === 0, tile }));
  const times = await timeJob(device, { ...job, variants }, limits, new Map(), signal);
  const seconds = times.map((row) => row.seconds?.median ?? Number.POSITIVE_INFINITY);
  if (!Number.isFinite(seconds[0])) return undefined;
  const best = seconds.indexOf(Math.min(...seconds));
  const at = seconds[0] >= margin * seconds[best] ? best : 0;
  return { rows: op.tiles!.rows(problem), builtIn: tiles[0], choice: tiles[at], gain: seconds[0] / seconds[at] };
}
