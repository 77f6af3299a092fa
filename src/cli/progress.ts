/** A progress bar with the time left, for work that turns out to take more than two seconds. */
import { Presets, SingleBar } from 'cli-progress';
import type { Io } from './io.ts';

const DELAY = 2000; // milliseconds before anything is shown
const LINE_EVERY = 5000; // milliseconds between lines where there is no terminal
/** What is done must be so much of all, or so many milliseconds old, to tell how long the rest takes. */
const ENOUGH = { share: 0.01, time: 60_000 };

export interface Progress {
  /** So much of the total is done; `note` is shown behind the bar. */
  update(done: number, note?: string): void;
  /** Ends the bar, whether or not the work was finished. Safe to call twice. */
  stop(): void;
}

export interface ProgressOptions {
  /** What is being done: `converting`. */
  label: string;
  total: number;
  quiet?: boolean;
  /** Milliseconds; for tests. */
  now?(): number;
}

/** `8 s`, `3 min 20 s`, `2 h 5 min` */
export function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

/** A bar on a terminal, plain lines elsewhere, nothing with `quiet` or when the work is done within two seconds. */
export function createProgress(io: Io, { label, total, quiet = false, now = Date.now }: ProgressOptions): Progress {
  const start = now();
  let bar: SingleBar | undefined;
  let lastLine = Number.NEGATIVE_INFINITY;
  let stopped = quiet;
  const left = (done: number) => {
    const passed = now() - start;
    if (done === 0 || (done / total < ENOUGH.share && passed < ENOUGH.time)) return 'some time';
    return duration(((passed / done) * (total - done)) / 1000);
  };

  return {
    update(done, note = '') {
      if (stopped || now() - start < DELAY) return;
      if (io.columns === undefined) {
        if (now() - lastLine < LINE_EVERY || done >= total) return;
        lastLine = now();
        io.err(`${label}: ${Math.floor((100 * done) / total)}%, ${left(done)} left${note ? `, ${note}` : ''}`);
        return;
      }
      if (!bar) {
        const format = `${label} {bar} {percentage}%  {left} left  {note}`;
        bar = new SingleBar({ format, hideCursor: true, clearOnComplete: true, barsize: 30 }, Presets.shades_classic);
        bar.start(total, done, { left: left(done), note });
      }
      bar.update(done, { left: left(done), note });
    },
    stop() {
      stopped = true;
      bar?.stop();
      bar = undefined;
    },
  };
}
