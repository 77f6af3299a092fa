#!/usr/bin/env node
/** The command `emigm`. */
import module from 'node:module';
import { join } from 'node:path';
import { cacheFolder } from '../gpu/node.ts';
import type { Io } from './io.ts';

const STOPPED = 130; // 128 + SIGINT, as shells have it
const GRACE = 1000; // milliseconds that a command has to clean up after Ctrl-C

const stop = new AbortController();
let saves = false;
function onSignal(): void {
  if (stop.signal.aborted) leave();
  stop.abort();
  if (!saves) setTimeout(leave, GRACE).unref();
}
/** At once, whatever is going on. */
function leave(): never {
  // A progress bar that nobody stops has hidden the cursor and switched the wrapping of lines off.
  if (process.stderr.isTTY) process.stderr.write('\u001B[?25h\u001B[?7h\n');
  process.exit(STOPPED);
}
process.on('SIGINT', onSignal);
process.on('SIGTERM', onSignal);
// `emigm inspect FILE | head`: the reader has seen enough.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? 0 : 1);
});

const io: Io = {
  out: (line) => void process.stdout.write(`${line}\n`),
  err: (line) => void process.stderr.write(`${line}\n`),
  columns: process.stderr.isTTY ? process.stderr.columns : undefined,
  signal: stop.signal,
  savesWhenStopped: () => {
    saves = true;
  },
};

// From Node 22 on compiled modules are kept, which saves a part of each start; where it cannot, nothing is said.
const { enableCompileCache } = module as { enableCompileCache?(folder: string): unknown };
enableCompileCache?.(join(cacheFolder(), 'modules'));

const { run } = await import('./program.ts');
const code = await run(process.argv.slice(2), io);
process.exitCode = stop.signal.aborted ? STOPPED : code;
