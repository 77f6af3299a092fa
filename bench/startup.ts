/** `npx tsx bench/startup.ts`: from the start of the process to the first image, with empty and with filled caches. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Command } from 'commander';
import type { Io } from '../src/cli/io.ts';
import { positiveInteger, table } from '../src/cli/options.ts';
import { createProgress } from '../src/cli/progress.ts';
import type { FirstImage } from '../src/cli/sample_start.ts';
import { EmigmError } from '../src/errors.ts';
import { packageFolder } from '../src/gpu/node.ts';
import { type Summary, summarise } from '../src/measurement/statistics.ts';
import { resultHead, writeRows } from './result.ts';
import { runStoppable } from './main.ts';

const OWN = join(packageFolder(), 'dist', 'cli', 'main.js');

interface Flags {
  adapter: string[];
  rounds: number;
  main: string;
  against?: string;
  model?: string;
  out?: string;
}

/** Runs on one adapter; seconds. */
export interface StartupRow {
  adapter: string;
  driver: string;
  /** `this` is the build of --main, `against` the other. */
  build: 'this' | 'against';
  /** cold: empty caches; warm: the run after it, with the same. */
  start: 'cold' | 'warm';
  /** From the start of the process until it has ended. */
  process: Summary;
  /** Until the first image, and its parts: see FirstImage. Absent where the build does not tell them. */
  firstImage?: Record<keyof FirstImage, Summary>;
}

function command(): Command {
  return new Command('npx tsx bench/startup.ts')
    .description(
      'Starts emigm sample for one image again and again: cold, with an empty folder for all caches of the program and the\n' +
        'driver, then warm, with what that run left there. Adapters and builds take turns. Needs npm run build.',
    )
    .option('--adapter <list>', 'adapters, as of emigm sample', (text) => text.split(','), ['auto'])
    .option('--rounds <n>', 'cold and warm starts of each', positiveInteger, 5)
    .option('--main <file>', 'the program', OWN)
    .option('--against <file>', "another build's dist/cli/main.js, measured in turns with this one")
    .option('--model <file>', 'a model file (default: the shipped one)')
    .option('--out <file>', 'where the JSON goes')
    .exitOverride();
}

/**
 * Where everything that could make a second start faster is kept: Mesa's and NVIDIA's compiled shaders, the program's own
 * (unpacked driver, compiled modules). Dawn for Node keeps nothing. Files that the system has in memory stay there.
 */
const cachesIn = (folder: string): NodeJS.ProcessEnv => ({
  XDG_CACHE_HOME: folder,
  EMIGM_CACHE: join(folder, 'emigm'),
  MESA_SHADER_CACHE_DIR: join(folder, 'mesa'),
  __GL_SHADER_DISK_CACHE_PATH: folder,
  CUDA_CACHE_PATH: join(folder, 'cuda'),
  EMIGM_TUNING: 'off',
});

interface Start {
  adapter: string;
  driver: string;
  process: number;
  firstImage?: FirstImage;
}

/** One start. @throws EmigmError 'adapter' with what the program said */
function startOnce(main: string, adapter: string, caches: string, model: string | undefined, signal: AbortSignal) {
  const out = join(caches, 'out');
  const argv = [main, 'sample', '--adapter', adapter, '-c', '0', '-n', '1', '--quiet', '--out', out];
  if (model) argv.push('--model', model);
  const began = performance.now();
  return new Promise<Start>((done, failed) => {
    execFile(process.execPath, argv, { env: { ...process.env, ...cachesIn(caches) }, signal }, (error, _, stderr) => {
      const seconds = (performance.now() - began) / 1000;
      if (signal.aborted) return failed(new EmigmError('aborted', 'stopped'));
      if (error) return failed(new EmigmError('adapter', `${adapter}: ${stderr.trim().split('\n').at(-1)}`));
      const said = JSON.parse(readFileSync(join(out, 'sample.json'), 'utf8'));
      done({ adapter: said.adapter, driver: said.driver, process: seconds, firstImage: said.seconds.firstImage });
    });
  });
}

function rowOf(build: StartupRow['build'], start: StartupRow['start'], starts: readonly Start[]): StartupRow {
  const { adapter, driver, firstImage } = starts[0];
  const part = (name: string) => summarise(starts.map((one) => one.firstImage![name as keyof FirstImage]));
  const parts = Object.keys(firstImage ?? {}).map((name) => [name, part(name)]);
  return {
    adapter,
    driver,
    build,
    start,
    process: summarise(starts.map((one) => one.process)),
    firstImage: firstImage && Object.fromEntries(parts),
  };
}

/** Measures and returns the rows, which are written to `out` too. @throws EmigmError */
export async function startup(argv: readonly string[], io: Io): Promise<StartupRow[]> {
  const flags = command()
    .configureOutput({ writeOut: (text) => io.out(text.trimEnd()), writeErr: (text) => io.err(text.trimEnd()) })
    .parse([...argv], { from: 'user' })
    .opts<Flags>();
  const builds = { this: resolve(flags.main), ...(flags.against && { against: resolve(flags.against) }) };
  const kinds = Object.keys(builds).flatMap((build) =>
    flags.adapter.map((adapter) => ({
      build: build as StartupRow['build'],
      adapter,
      cold: [] as Start[],
      warm: [] as Start[],
    })),
  );
  const progress = createProgress(io, { label: 'starting', total: flags.rounds * kinds.length });
  try {
    for (let round = 0; round < flags.rounds; round++) {
      for (const [i, { build, adapter, cold, warm }] of kinds.entries()) {
        const caches = mkdtempSync(join(tmpdir(), 'emigm-startup-'));
        try {
          for (const starts of [cold, warm]) {
            starts.push(await startOnce(builds[build]!, adapter, caches, flags.model, io.signal));
          }
        } finally {
          rmSync(caches, { recursive: true, force: true });
        }
        progress.update(round * kinds.length + i + 1, `${adapter}, round ${round + 1} of ${flags.rounds}`);
      }
    }
  } finally {
    progress.stop();
  }
  const rows = kinds.flatMap(({ build, cold, warm }) => [rowOf(build, 'cold', cold), rowOf(build, 'warm', warm)]);
  io.out(startupTable(rows));
  if (flags.out) {
    const named = (of: (row: StartupRow) => string) => [...new Set(rows.map(of))].join(', ');
    const about = { name: named(({ adapter }) => adapter), driver: named(({ driver }) => driver) };
    await writeRows(flags.out, { ...resultHead(about, argv, 'npx tsx bench/startup.ts'), rows });
    io.out(`\nwritten to ${flags.out}`);
  }
  return rows;
}

/** Medians in seconds, the spread of the first image. */
export function startupTable(rows: readonly StartupRow[]): string {
  const parts = ['modules', 'device', 'weights', 'kernels', 'drawing'] as const;
  const seconds = (one: Summary | undefined) => one?.median.toFixed(2) ?? '-';
  const body = rows.map(({ adapter, build, start, process, firstImage }) => [
    adapter,
    build,
    start,
    seconds(firstImage?.total),
    firstImage ? `${Math.round(100 * firstImage.total.spread)} %` : '-',
    ...parts.map((name) => seconds(firstImage?.[name])),
    seconds(process),
  ]);
  const head = ['adapter', 'build', 'start', 'first image s', 'spread', ...parts, 'process'];
  return table([head, ...body], [3, 4, 5, 6, 7, 8, 9, 10]);
}

if (process.argv[1] === import.meta.filename) process.exitCode = await runStoppable('startup', startup);
