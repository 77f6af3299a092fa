/** The same work in this engine and in others, interleaved, checked for equal numbers, printed as ratios. */
import { createRequire } from 'node:module';
import { basename, isAbsolute } from 'node:path';
import { Command, Option } from 'commander';
import { oneOf, positiveInteger } from '../../src/cli/options.ts';
import { commit, processorText } from '../../src/cli/versions.ts';
import { EmigmError } from '../../src/errors.ts';
import { Device } from '../../src/gpu/device.ts';
import { summarise } from '../../src/measurement/statistics.ts';
import type { Hosting } from './dawn.ts';
import { Float64Ops } from './float64.ts';
import { PEERS } from './peer.ts';
import { type PeerHandle, PeerProcess } from './process.ts';
import { PythonProcess } from './python.ts';
import { type PeerResult, type PeerRow, residentTable, resultTable, withRatios } from './result.ts';
import { type Workload, workloads } from './workloads.ts';
import { exitCode } from '../main.ts';
import { writeRows } from '../result.ts';

interface Flags {
  adapter?: string;
  only?: string;
  peers?: string;
  rounds: number;
  hosting: Hosting;
  limit: number;
  json?: string;
  resident?: boolean;
  pytorchCpu?: boolean;
  verbose?: boolean;
}

/** Largest error allowed, over the reference's largest value; sums of f32 differ in their order alone. */
const TOLERANCE = 1e-4;
/** The same with operands in half precision: 2^-11 each, through up to fifty layers. */
const HALF_TOLERANCE = 2e-2;
/** Work up to this many FLOPs is compared with float64, larger work with onnxruntime's CPU backend. */
const FLOAT64 = 1e9;
const CPU = 'onnxruntime-node CPU';
/** Seconds that a peer may compile for; torch.compile meets a sampling run's shapes one after the other. */
const COMPILING = { torch: 900, other: 120 };

function command(): Command {
  return new Command('npx tsx bench/peers/run.ts')
    .description('Measures the same work in this engine and in its peers, in interleaved rounds. Prints ratios.')
    .option('--adapter <name>', 'auto, gpu, lavapipe, swiftshader or a part of a name (also EMIGM_ADAPTER)')
    .option('--only <pattern>', 'work whose name matches this regular expression')
    .option('--peers <pattern>', 'peers whose name matches this regular expression; if none is this engine, emigm too')
    .option('--rounds <n>', 'measurements of each peer', positiveInteger, 5)
    .addOption(
      new Option(
        '--hosting <how>',
        "browser peers on plain Dawn, or with the engine's settings of it and way of waiting",
      )
        .default('plain')
        .argParser(oneOf(['plain', 'shared'])),
    )
    .option('--limit <seconds>', 'a peer that takes longer for one piece of work is left out', positiveInteger, 60)
    .option('--json <file>', 'where the result goes')
    .option('--resident', 'also time without the ways from and to the host; on GPUs always')
    .option('--pytorch-cpu', 'PyTorch on the CPU, where there is no CUDA: to check its numbers')
    .option('--verbose', 'show what the peers print')
    .addHelpText(
      'after',
      `
The peers have a package.json of their own: npm run peers:install

Work: ${describe(workloads().map(({ name }) => name))}
Peers: ${PEERS.map(({ name }) => name).join(', ')}

Examples:
  npx tsx bench/peers/run.ts --adapter lavapipe --only matmul --rounds 5 --json out/peers.json
  npx tsx bench/peers/run.ts --only 'block|tiny' --peers 'jax|web'`,
    )
    .exitOverride();
}

/** Names, those that begin alike as one. */
const describe = (names: readonly string[]): string => {
  const count = (first: string) => names.filter((name) => name.startsWith(`${first} `)).length;
  const short = names.map((name) => {
    const first = name.split(' ')[0];
    return count(first) > 2
      ? `${first} (${count(first)}, such as '${names.find((one) => one.startsWith(first))}')`
      : name;
  });
  return [...new Set(short)].join(', ');
};

const isInstalled = (name: string): boolean => {
  try {
    createRequire(import.meta.url).resolve(name);
    return true;
  } catch {
    return false;
  }
};

/** Runs what the flags ask for; `say` is given lines for people as the run goes on. */
export async function comparePeers(argv: readonly string[], say: (line: string) => void): Promise<PeerResult> {
  const flags = command()
    .parse([...argv], { from: 'user' })
    .opts<Flags>();
  const pattern = new RegExp(flags.only ?? '');
  const { result, isCpu } = await emptyResult(flags, argv);
  flags.resident ||= !isCpu;
  const chosen = workloads().filter(({ name, forGpus }) => pattern.test(name) && !(forGpus && isCpu && !flags.only));
  if (chosen.length === 0) throw new EmigmError('input', `no work matches --only ${flags.only}; --help lists it`);
  const processes = await openPeers(flags, result, say);
  // One that stands still does not end by itself.
  const stop = () => {
    for (const one of processes) one.kill();
    process.exit(130);
  };
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, stop);
  try {
    for (const work of chosen) {
      result.rows.push(...withRatios(await measure(work, processes, flags, result)));
      for (const row of result.rows.filter((row) => row.work === work.name)) say(line(row));
      if (flags.json) await writeRows(flags.json, result); // so that what is done stays when the rest is cut short
    }
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM']) process.off(signal, stop);
    for (const one of processes) one.kill();
  }
  return result;
}

const line = ({ work, peer, ms, spread = 0, ratio, error = 0, wrong, skipped }: PeerRow): string => {
  if (skipped) return `${work}, ${peer}: ${skipped}`;
  const times = ratio === undefined ? '' : `, ${ratio.toFixed(2)} x emigm`;
  const state = wrong ? 'WRONG, ' : '';
  return `${work}, ${peer}: ${ms?.toPrecision(4)} ms +- ${(100 * spread).toFixed(0)}%${times}, ${state}error ${error.toExponential(1)}`;
};

async function emptyResult(flags: Flags, argv: readonly string[]): Promise<{ result: PeerResult; isCpu: boolean }> {
  const device = await Device.open({ adapter: flags.adapter });
  const { name: adapter, driver, isCpu } = device;
  device.dispose();
  const words = argv.map((word) => (isAbsolute(word) ? basename(word) : /[ |()]/.test(word) ? `'${word}'` : word));
  const result: PeerResult = {
    schema: 1,
    date: new Date().toISOString(),
    command: ['npx tsx bench/peers/run.ts', ...words].join(' '),
    adapter,
    driver,
    cpu: processorText(),
    commit: commit() ?? 'unknown',
    versions: {},
    devices: {},
    references: {},
    rows: [],
  };
  return { result, isCpu };
}

/** Starts the peers, one after the other; those that cannot are left out with a line. */
async function openPeers(flags: Flags, result: PeerResult, say: (line: string) => void): Promise<PeerHandle[]> {
  const pattern = new RegExp(flags.peers ?? '');
  const options = { adapter: flags.adapter, hosting: flags.hosting };
  const open: PeerHandle[] = [];
  const chosen = PEERS.filter(({ name }) => pattern.test(name));
  // Others are nothing without this engine beside them.
  if (!chosen.some(({ name }) => name.startsWith('emigm'))) chosen.unshift(PEERS[0]);
  for (const description of chosen) {
    const { name, needs } = description;
    if (needs && !isInstalled(needs)) {
      say(`${name}: skipped, ${needs} is not installed (npm ci --prefix bench/peers)`);
      continue;
    }
    const { verbose = false, pytorchCpu = false } = flags;
    const process = description.python
      ? new PythonProcess(description, { verbose, onCpu: pytorchCpu })
      : new PeerProcess(description, verbose);
    try {
      const { device, versions } = await process.ask({ do: 'open', peer: name, options }, 120);
      result.devices[name] = device;
      Object.assign(result.versions, versions);
      open.push(process);
    } catch (error) {
      if (!(error instanceof EmigmError)) throw error;
      process.kill();
      say(`${name}: skipped, ${error.message}`);
    }
  }
  return open;
}

interface Entry {
  process: PeerHandle;
  row: PeerRow;
  output: Float32Array | undefined;
}

/** One piece of work: every peer prepares, is checked, and is asked in turns. */
async function measure(work: Workload, processes: readonly PeerHandle[], flags: Flags, result: PeerResult) {
  const { limit, rounds, resident } = flags;
  const entries: Entry[] = [];
  for (const process of processes) {
    entries.push(await prepare(work, process, limit));
  }
  const [name, reference] = await referenceOf(work, entries);
  result.references[work.name] = name;
  for (const entry of entries) {
    if (!entry.output || !reference) continue;
    entry.row.error = relativeError(entry.output, reference);
    const tolerance = entry.row.half ? HALF_TOLERANCE : (work.tolerance ?? TOLERANCE);
    entry.row.wrong = !(entry.row.error <= tolerance) || undefined;
    entry.output = undefined;
  }
  const seconds = entries.map((): number[] => []);
  const residents = entries.map((): number[] => []);
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < entries.length; turn++) {
      const i = (turn + round) % entries.length; // nobody is always after the same neighbour
      await trying(entries[i], async ({ process }) => {
        for (const one of processes) one.rest(one !== process);
        const measured = await process.ask({ do: 'measure', resident }, limit * 2);
        seconds[i].push(measured.seconds);
        if (measured.resident !== undefined) residents[i].push(measured.resident);
      });
    }
  }
  for (const process of processes) process.rest(false);
  for (const [i, entry] of entries.entries()) {
    if (seconds[i].length > 0 && !entry.row.skipped) {
      const { median, spread } = summarise(seconds[i]);
      Object.assign(entry.row, {
        ms: median * 1e3,
        spread,
        bestMs: Math.min(...seconds[i]) * 1e3,
        rounds: seconds[i].map((s) => Number((s * 1e3).toPrecision(5))),
        ...(residents[i].length > 0 && { residentMs: summarise(residents[i]).median * 1e3 }),
      });
    }
    await entry.process.ask({ do: 'release' }, 60).catch(() => undefined);
  }
  return entries.map(({ row }) => row);
}

/** Does something with a peer unless it has already failed; what goes wrong is said in its row. */
async function trying(entry: Entry, act: (entry: Entry) => Promise<void>): Promise<void> {
  if (entry.row.skipped) return;
  try {
    await act(entry);
  } catch (error) {
    if (!(error instanceof EmigmError)) throw error;
    entry.row.skipped = error.message;
  }
}

async function prepare(work: Workload, process: PeerHandle, limit: number): Promise<Entry> {
  const { name: peer, onAdapter, half } = process.description;
  const row: PeerRow = { work: work.name, peer, onAdapter, half, flops: work.flops };
  const entry: Entry = { process, row, output: undefined };
  await trying(entry, async () => {
    // It compiles, runs twice, and runs again until it is warm.
    const compiling = process.description.python ? COMPILING.torch : COMPILING.other;
    const reply = await process.ask({ do: 'prepare', work: work.name }, compiling + 3 * limit);
    entry.output = reply.output;
    row.prepareMs = Math.round(reply.prepareSeconds * 1e3);
    row.firstMs = Number((reply.firstSeconds * 1e3).toPrecision(4));
  });
  return entry;
}

async function referenceOf(work: Workload, entries: readonly Entry[]) {
  if (work.kind === 'sampling') return ['none: every peer draws its own noise', undefined] as const;
  if (work.flops <= FLOAT64) {
    const ops = new Float64Ops(work.inputs(), await work.parameters());
    return ['float64', work.build(ops).data] as const;
  }
  const of = (name: string) => entries.find(({ process }) => process.description.name === name)?.output;
  const [name, output] = of(CPU) ? [CPU, of(CPU)] : ['emigm', of('emigm')];
  return [name, output && Float32Array.from(output)] as const;
}

function relativeError(output: Float32Array, reference: ArrayLike<number>): number {
  if (output.length !== reference.length) return Number.POSITIVE_INFINITY;
  let largest = 0;
  let error = 0;
  for (let i = 0; i < output.length; i++) {
    const difference = Math.abs(output[i] - reference[i]);
    if (!(difference <= error)) error = difference; // NaN stays
    largest = Math.max(largest, Math.abs(reference[i]));
  }
  return error / largest;
}

if (process.argv[1] === import.meta.filename) {
  process.exitCode = await exitCode('peers', async () => {
    const result = await comparePeers(process.argv.slice(2), (text) => void process.stderr.write(`${text}\n`));
    process.stdout.write(`${[resultTable(result), residentTable(result)].filter(Boolean).join('\n\n')}\n`);
  });
}
