/** `npx tsx bench/gpu/run.ts`: everything that is to be measured on a GPU, as far as time allows, and the goals beside it. */
import { spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Command } from 'commander';
import type { Io } from '../../src/cli/io.ts';
import { positiveInteger } from '../../src/cli/options.ts';
import { commit } from '../../src/cli/versions.ts';
import { EmigmError } from '../../src/errors.ts';
import { makeFolders } from '../../src/formats/folders.ts';
import { Device } from '../../src/gpu/device.ts';
import { packageFolder } from '../../src/gpu/node.ts';
import { runStoppable } from '../main.ts';
import { goalsMarkdown, goalsOf } from './goals.ts';
import { type Section, sections } from './sections.ts';

interface Flags {
  adapter: string;
  out: string;
  only?: string;
  limit: number;
  quick?: boolean;
}

function command(): Command {
  return new Command('npx tsx bench/gpu/run.ts')
    .description(
      'Measures everything on a GPU, section by section: every kernel and test, tuning, kernels, PyTorch beside it, sampling,\n' +
        'training, starts. Each writes its JSON; one whose file is there is done, and one that failed (.failed.log) is left\n' +
        'out until that file is removed. The goals beside what was measured come last.',
    )
    .option('--adapter <name>', 'gpu, or as of emigm sample', 'gpu')
    .option('--out <folder>', 'where the files go', 'gpu')
    .option('--only <pattern>', 'sections whose name matches this regular expression')
    .option('--limit <seconds>', 'stop before a section that would not end by then', positiveInteger, 540)
    .option('--quick', 'tiny work in each section: to see that they run')
    .addHelpText(
      'after',
      `\nSections: ${sections({ adapter: '' })
        .map(({ name }) => name)
        .join(', ')}`,
    )
    .exitOverride();
}

/** How a section ended: its JSON is there, it failed, or it was stopped and may be tried again. */
export type Outcome = 'done' | 'failed' | 'stopped';

export interface Running {
  /** Seconds for all. */
  limit: number;
  /** Seconds since the start. */
  elapsed(): number;
  /** How the section ended before, undefined when it has not run. */
  before(section: Section): Outcome | undefined;
  /** Runs it for at most so many seconds; `isAll`: no call could give it more. */
  run(section: Section, seconds: number, isAll: boolean): Promise<Outcome>;
  say(line: string): void;
}

/** Runs what has not been run, in order, while it fits. Returns the names of those that are left. */
export async function runSections(all: readonly Section[], running: Running): Promise<string[]> {
  const { limit, elapsed, before, run, say } = running;
  const left = all.filter((section) => before(section) === undefined);
  for (let first = true; left.length > 0; first = false) {
    const [section] = left;
    const seconds = limit - elapsed();
    // The first has all the time that there is.
    if (!first && section.estimate > seconds) break;
    const began = elapsed();
    const outcome = await run(section, seconds, first);
    say(`${section.name}: ${outcome}, ${Math.round(elapsed() - began)} s`);
    if (outcome === 'stopped') break;
    left.shift();
  }
  return left.map(({ name }) => name);
}

/** Runs a section in a process of its own; its files begin with `path`. */
export async function runSection(
  section: Section,
  path: string,
  { seconds, isAll, adapter, signal }: { seconds: number; isAll: boolean; adapter: string; signal: AbortSignal },
): Promise<Outcome> {
  const partial = `${path}.partial.json`;
  const log = openSync(`${path}.log`, 'w');
  const out = section.prints ? openSync(partial, 'w') : log;
  const argv = section.argv(partial);
  const execArgv = argv[0].endsWith('.ts') ? process.execArgv : []; // tsx, where Node does not run TypeScript itself
  const child = spawn(process.execPath, [...execArgv, ...argv], {
    cwd: packageFolder(),
    env: { ...process.env, EMIGM_ADAPTER: adapter },
    stdio: ['ignore', out, log],
    detached: true, // a group of its own, so that what it has started ends with it
  });
  const kill = () => process.kill(-child.pid!, 'SIGKILL');
  const timer = setTimeout(kill, seconds * 1000);
  signal.addEventListener('abort', kill);
  const code = await new Promise<number | null>((done) => child.on('close', done).on('error', () => done(null)));
  clearTimeout(timer);
  signal.removeEventListener('abort', kill);
  for (const file of new Set([log, out])) closeSync(file);
  if (signal.aborted) throw new EmigmError('aborted', 'stopped');
  const isWhole = code !== null || isAll;
  // Also of what ended with an error, as tests that fail do, or of what took too long: as far as it went.
  if (isWhole && readJson(partial) !== undefined) {
    renameSync(partial, `${path}.json`);
    return 'done';
  }
  rmSync(partial, { force: true });
  if (!isWhole) return 'stopped';
  writeFileSync(`${path}.log`, code === null ? `took longer than ${seconds} s\n` : `exit code ${code}\n`, {
    flag: 'a',
  });
  renameSync(`${path}.log`, `${path}.failed.log`);
  return 'failed';
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
}

/** @throws EmigmError 'adapter' when there is none of that name, 'aborted' */
export async function measureGpu(argv: readonly string[], io: Io): Promise<void> {
  const flags = command()
    .configureOutput({ writeOut: (text) => io.out(text.trimEnd()), writeErr: (text) => io.err(text.trimEnd()) })
    .parse([...argv], { from: 'user' })
    .opts<Flags>();
  const { adapter, quick, limit } = flags;
  const device = await Device.open({ adapter });
  const { name, driver } = device;
  device.dispose();
  const folder = resolve(flags.out);
  makeFolders(folder);
  const slug = name
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^-|-$/g, '');
  const path = (section: string) => join(folder, `${slug}-${section}`);
  const pattern = new RegExp(flags.only ?? '');
  const chosen = sections({ adapter, quick }).filter((section) => pattern.test(section.name));
  if (chosen.length === 0) throw new EmigmError('input', `no section matches --only ${flags.only}; --help lists them`);
  const began = performance.now();
  const left = await runSections(chosen, {
    limit,
    elapsed: () => (performance.now() - began) / 1000,
    before: (section) => {
      if (existsSync(`${path(section.name)}.json`)) return 'done';
      return existsSync(`${path(section.name)}.failed.log`) ? 'failed' : undefined;
    },
    run: (section, seconds, isAll) =>
      runSection(section, path(section.name), { seconds, isAll, adapter, signal: io.signal }),
    say: io.out,
  });
  const goals = goalsMarkdown(goalsOf((section) => readJson(`${path(section)}.json`)));
  const text = `${name} (${driver}), commit ${commit() ?? 'unknown'}\n\n${goals}\n`;
  writeFileSync(`${path('goals')}.md`, text);
  io.out(`\n${text}`);
  const failed = chosen.filter((section) => existsSync(`${path(section.name)}.failed.log`));
  if (failed.length > 0)
    io.out(`failed: ${failed.map((section) => section.name).join(', ')} (${path('*')}.failed.log)`);
  io.out(left.length > 0 ? `the same command goes on with ${left.join(', ')}` : 'all sections have been run');
}

if (process.argv[1] === import.meta.filename)
  process.exitCode = await runStoppable('gpu', measureGpu, ['SIGINT', 'SIGTERM']);
