/** What the entry points of benchmarks share: streams, Ctrl-C, and errors as one line and an exit code. */
import { CommanderError } from 'commander';
import type { Io } from '../src/cli/io.ts';
import { EmigmError } from '../src/errors.ts';

/** Exit code of `work`; an EmigmError becomes one line on the standard error stream that begins with `name`. */
export async function exitCode(name: string, work: () => Promise<unknown>, signal?: AbortSignal): Promise<number> {
  try {
    await work();
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    if (!(error instanceof EmigmError)) throw error;
    process.stderr.write(`${name}: ${error.message}\n`);
    return signal?.aborted ? 130 : 1;
  }
}

/** As `exitCode`, with the process's arguments and streams; the first of `signals` asks `work` to stop, the second ends it. */
export function runStoppable(
  name: string,
  work: (argv: readonly string[], io: Io) => Promise<unknown>,
  signals: readonly NodeJS.Signals[] = ['SIGINT'],
): Promise<number> {
  const stop = new AbortController();
  for (const signal of signals) {
    process.on(signal, () => (stop.signal.aborted ? process.exit(130) : stop.abort()));
  }
  const io: Io = {
    out: (line) => void process.stdout.write(`${line}\n`),
    err: (line) => void process.stderr.write(`${line}\n`),
    columns: process.stderr.isTTY ? process.stderr.columns : undefined,
    signal: stop.signal,
  };
  return exitCode(name, () => work(process.argv.slice(2), io), stop.signal);
}
