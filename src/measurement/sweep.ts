/** A sweep: all points, each run several times, the rounds interleaved, so that a drift of the machine is no trend. */
import { EmigmError } from '../errors.ts';
import { numbers } from './random_weights.ts';
import { type Point, pointId, rungName } from './point.ts';
import { factsOf, kernelTimes, timedRun } from './run.ts';
import type { Line } from './schema.ts';
import { summarise } from './statistics.ts';
import type { Workbench } from './workbench.ts';

export interface SweepOptions {
  points: readonly Point[];
  /** Measured runs of each point. */
  repeats: number;
  /** What earlier sweeps have measured: it is not measured again. */
  finished: readonly Line[];
  /** Device time by kernel: a run more of each point. */
  kernels?: boolean;
  /** Takes what has been measured, at once. */
  onLine: (line: Line) => void;
  /** The share that is done, by the time that it takes. */
  onProgress?: (done: number, what: string) => void;
  /** Bytes that the process has held at most. */
  processPeak?: () => number;
  signal?: AbortSignal;
}

/**
 * Runs what is not finished yet. In each round every point runs once, in an order of its own: models in random order,
 * the points of a model in random order.
 * @throws EmigmError 'aborted' between steps, and as running a point does, naming the point
 */
export async function sweep(bench: Workbench, options: SweepOptions): Promise<void> {
  const { points, repeats, finished, kernels = true, onLine, onProgress, processPeak = () => 0, signal } = options;
  const facts = new Set(finished.flatMap((line) => (line.kind === 'facts' ? [line.id] : [])));
  const runs = new Set(finished.flatMap((line) => (line.kind === 'run' ? [`${line.id} ${line.round}`] : [])));
  const clock = new Costs(points, finished);
  const jobs: { point: Point; id: string; round: number }[] = [];
  for (let round = 1; round <= repeats; round++) {
    for (const point of orderOf(points, round)) {
      const id = pointId(point);
      if (!runs.has(`${id} ${round}`)) jobs.push({ point, id, round });
    }
  }
  for (const [i, { point, id, round }] of jobs.entries()) {
    const left = jobs.slice(i).map((job) => job.point);
    if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
    onProgress?.(clock.share(left), `round ${round} of ${repeats}, ${id}`);
    try {
      const start = performance.now();
      const prepared = await bench.prepared(point);
      if (!prepared.isWarm) await timedRun(prepared, signal);
      prepared.isWarm = true;
      if (!facts.has(id)) {
        const measured = kernels ? await kernelTimes(prepared, signal) : undefined;
        const found = factsOf(prepared);
        onLine({ kind: 'facts', id, facts: found, kernels: measured, process: processPeak() });
        facts.add(id);
      }
      const seconds = await timedRun(prepared, signal);
      onLine({ kind: 'run', id, round, date: new Date().toISOString(), seconds });
      clock.spent(id, (performance.now() - start) / 1000, seconds.total);
    } catch (error) {
      if (!(error instanceof EmigmError) || error.code === 'aborted') throw error;
      throw new EmigmError(error.code, `${id}: ${error.message}`, { cause: error });
    }
  }
  onProgress?.(1, '');
}

/** The points of a round: groups that share a model in random order, so that models are loaded seldom. */
function orderOf(points: readonly Point[], round: number): Point[] {
  const source = numbers(round);
  for (let i = 0; i < 8; i++) source.next(); // small seeds begin alike
  const shuffled = <T>(items: readonly T[]): T[] => {
    const keyed = items.map((item) => ({ item, key: source.next() }));
    return keyed.sort((a, b) => a.key - b.key).map(({ item }) => item);
  };
  const groups = new Map<string, Point[]>();
  for (const point of points) {
    const key = [point.model, point.preset, point.codes, point.stored, rungName(point.kernel)].join(' ');
    groups.set(key, [...(groups.get(key) ?? []), point]);
  }
  return shuffled([...groups.values()]).flatMap(shuffled);
}

/** How long the rest will take: points that have run tell it, others by their steps and batch. */
class Costs {
  private readonly points: readonly Point[];
  private readonly known = new Map<string, number>();
  private done = 0;
  private rate = 1;

  constructor(points: readonly Point[], finished: readonly Line[]) {
    this.points = points;
    for (const line of finished) if (line.kind === 'run') this.known.set(line.id, line.seconds.total);
    this.learn();
  }

  private learn(): void {
    const rates = this.points.flatMap((point) => {
      const seconds = this.known.get(pointId(point));
      return seconds === undefined ? [] : [seconds / guess(point)];
    });
    if (rates.length > 0) this.rate = summarise(rates).median;
  }

  spent(id: string, spent: number, total: number): void {
    this.done += spent;
    this.known.set(id, total);
    this.learn();
  }

  /** Points that have not run yet have a warm-up and a profile before them. */
  share(left: readonly Point[]): number {
    const seen = new Set<string>();
    const rest = left.reduce((sum, point) => {
      const id = pointId(point);
      const seconds = this.known.get(id);
      if (seconds !== undefined) return sum + seconds;
      const first = !seen.has(id);
      seen.add(id);
      return sum + (first ? 3 : 1) * this.rate * guess(point);
    }, 0);
    return this.done / (this.done + rest);
  }
}

/** Stands for seconds: what is not said counts as it usually is. */
const guess = ({ steps = 16, batch }: Point): number => steps * (1 + batch);
