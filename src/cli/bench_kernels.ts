import { basename, dirname } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import { openDevice } from '../ops/open_device.ts';
import { tuningText } from '../gpu/tuning.ts';
import { compareReports } from '../measurement/kernels/compare.ts';
import { kernelFigures } from '../measurement/kernels/figures.ts';
import { askedProblems, fieldsOf, problemsOf, type Shapes } from '../measurement/kernels/problems.ts';
import { measureRoofline, shareOfRoofline } from '../measurement/kernels/roofline.ts';
import { measureJobs } from '../measurement/kernels/run.ts';
import { FORMAT, type KernelReport, parseKernelReport, type Row, VERSION } from '../measurement/kernels/schema.ts';
import { checkStandIn, standIn } from '../measurement/kernels/stand_in.ts';
import {
  changeTable,
  kernelLines,
  kernelMachineText,
  kernelSections,
  kernelTable,
  NUMBERS,
} from '../measurement/kernels/tables.ts';
import { type Job, jobsOf } from '../measurement/kernels/time.ts';
import { htmlPage } from '../measurement/page.ts';
import { csvOf, markdownOf } from '../measurement/tables.ts';
import { checkOps, isRight, type OpCheck } from '../ops/check.ts';
import type { Op, Problem } from '../ops/op.ts';
import { ops } from '../ops/registry.ts';
import type { Io } from './io.ts';
import { makeFolder } from './open.ts';
import { didYouMean, finiteNumber, oneOf, positiveNumber, table } from './options.ts';
import { createProgress } from './progress.ts';
import { machineOf } from './versions.ts';
import { readJson, reportJson, writeDocument, writeText } from './write_report.ts';

export interface KernelFlags {
  op?: string;
  pass?: 'forward' | 'backward' | 'all';
  variant: string;
  shapes: Shapes;
  size?: Record<string, string>;
  kernel?: string;
  replaces?: string;
  check?: boolean;
  seconds: number;
  limit: number;
  json?: string;
  out?: string;
  compare?: string;
  threshold: number;
  adapter?: string;
  quiet?: boolean;
}

/** Sizes and switches of all ops' problems that have a flag of their own; others are given by --size. */
const TAKEN = new Set(['op', 'pass', 'variant', 'shapes', 'size', 'kernel', 'check', 'seconds', 'out']);
const SIZES = [...new Set(ops.flatMap((op) => [...fieldsOf(op).keys()]))].filter((name) => !TAKEN.has(name));
const flagOf = (name: string) => name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

export function registerBenchKernels(bench: Command, io: Io): void {
  const command = bench
    .command('kernels')
    .summary('every op and kernel against the roofline of the adapter')
    .description(
      "Times ops in all their implementations by the device's own clock, over the shapes of the models and over a sweep of " +
        'sizes, in interleaved rounds, beside what multiply-adds alone and a copy alone reach on the same adapter. ' +
        'A kernel file of your own is measured and checked in the place of a built-in one: see docs/kernel-research.md.',
    )
    .option('--op <list>', `ops: matmul, attention, layernorm ... (default: all ${ops.length})`)
    .addOption(
      new Option(
        '--pass <pass>',
        'forward, backward or all (default: all; forward where sizes or a file are given)',
      ).argParser(oneOf(['forward', 'backward', 'all'])),
    )
    .option('--variant <list>', 'implementations: all, best (what the engine chooses), or names', 'all')
    .addOption(
      new Option('--shapes <which>', 'of the models, a sweep over sizes, or all')
        .default('all')
        .argParser(oneOf(['models', 'sweep', 'all'])),
    )
    .addOption(
      new Option(
        '--size <name=values>',
        "a size or switch of the op's problem; many have a flag: --m 64,320 --bias",
      ).argParser(sizeFlag),
    )
    .option('--kernel <file>', 'a .wgsl file that stands in for the one that --variant names, checked first')
    .option('--replaces <kernel>', 'which kernel --kernel stands in for, where the implementation runs several')
    .option('--check', 'compare the built-in implementations with the float64 reference too')
    .addOption(new Option('--seconds <s>', 'seconds of runs of each').default(0.5).argParser(positiveNumber))
    .addOption(
      new Option('--limit <s>', 'leave out what takes longer than this a run').default(2).argParser(positiveNumber),
    )
    .option('--json <file>', 'write the numbers')
    .option('-o, --out <folder>', 'write a report: JSON, CSV, Markdown, an HTML page, figures')
    .option('--compare <file>', 'say what changed since the JSON of an earlier run')
    .addOption(
      new Option('--threshold <ratio>', 'with --compare: fail when something is slower by more')
        .default(1.1)
        .argParser(ratio),
    )
    .option('--adapter <name>', "auto, gpu, lavapipe, swiftshader or a part of an adapter's name (also EMIGM_ADAPTER)")
    .option('-q, --quiet', 'print nothing but errors')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  emigm bench kernels --shapes models --variant best --out kernels\n' +
        '  emigm bench kernels --op matmul --m 320 --k 768 --n 3072 --variant all \\\n' +
        '      --json before.json\n' +
        '  emigm bench kernels --op matmul --m 320 --k 768 --n 3072 \\\n' +
        '      --compare before.json --threshold 1.1\n' +
        '  emigm bench kernels --op matmul --variant cpu --m 320 --k 768 --n 3072 \\\n' +
        '      --kernel my.wgsl\n' +
        '  emigm bench kernels --op attention --queries 64,256,1024\n' +
        "  emigm bench kernels --op conv --size kernel=3 --height 32 --width 32\n\nAn op's sizes are named when one is wrong: --op attention --m 1",
    );
  for (const name of SIZES) {
    command.addOption(new Option(`--${flagOf(name)} [values]`).argParser((text: string) => text).hideHelp());
  }
  command.action((flags: KernelFlags) => benchKernels(flags, io));
}

function ratio(text: string): number {
  const value = finiteNumber(text);
  if (value < 1) throw new InvalidArgumentError('It must be a ratio of at least 1, such as 1.1.');
  return value;
}

function sizeFlag(text: string, before: Record<string, string> = {}): Record<string, string> {
  const [name, value] = text.split('=');
  return { ...before, [name]: value ?? 'true' };
}

/** @throws EmigmError 'input', 'file', 'kernel', 'numeric', 'adapter', 'aborted'; 'numeric' too when something is slower than before */
export async function benchKernels(flags: KernelFlags, io: Io): Promise<void> {
  const { quiet, adapter } = flags;
  const then = flags.compare && parseKernelReport(await readJson(flags.compare), flags.compare);
  const chosen = opsOf(flags.op);
  const sizes = sizesOf(flags);
  if (Object.keys(sizes).length > 0 && chosen.length > 1)
    throw new EmigmError('input', 'sizes need --op to name one op');
  if (flags.kernel && chosen.length > 1) throw new EmigmError('input', '--kernel needs --op to name one op');
  if (flags.out) makeFolder(flags.out);
  const progress = createProgress(io, { label: 'measuring', total: 1, quiet });
  try {
    const device = await openDevice({ adapter });
    let groups: Job[][];
    let report: KernelReport;
    const checks = new Map<string, Row['check']>();
    try {
      groups = await plan(device, chosen, sizes, flags, checks);
      if (flags.check) await checkBuiltIn(device, groups, checks, io, (what) => progress.update(0, what));
      progress.update(0, 'the roofline');
      report = await emptyReport(device, io);
    } finally {
      device.dispose();
    }
    report.rows = await measureJobs(groups, {
      device: { adapter },
      limits: { once: flags.limit, each: flags.seconds },
      onProgress: (done, what) => progress.update(done, what),
      signal: io.signal,
    });
    for (const row of report.rows) {
      const share = shareOfRoofline(report.roofline, row);
      const check = checks.get(`${row.op} ${row.pass} ${row.variant}`);
      Object.assign(row, share !== undefined && { share }, check && { check });
    }
    progress.stop();
    await finish(report, then || undefined, flags, io);
  } finally {
    progress.stop();
  }
}

function opsOf(names: string | undefined): Op[] {
  if (names === undefined) return [...ops];
  const plain = (name: string) => name.toLowerCase().replaceAll(/[ _-]/g, '');
  return names.split(',').map((name) => {
    const op = ops.find((one) => plain(one.name) === plain(name));
    const all = ops.map((one) => one.name);
    if (!op) throw new EmigmError('input', `no op ${name}.${didYouMean(name, all) || ` There are ${all.join(', ')}.`}`);
    return op;
  });
}

function sizesOf(flags: KernelFlags): Record<string, string> {
  const given = flags as unknown as Record<string, string | true | undefined>;
  const named = SIZES.flatMap((name) => (given[name] === undefined ? [] : [[name, String(given[name])]]));
  return { ...Object.fromEntries(named), ...flags.size };
}

/** What to time; a file given by path is checked before. */
async function plan(
  device: Device,
  chosen: readonly Op[],
  sizes: Record<string, string>,
  flags: KernelFlags,
  checks: Map<string, Row['check']>,
): Promise<Job[][]> {
  const asked = Object.keys(sizes).length > 0;
  const { pass = asked || flags.kernel ? 'forward' : 'all' } = flags;
  const passes = pass === 'all' ? (['forward', 'backward'] as const) : [pass];
  const wanted = flags.variant.split(',').map((name) => name.trim());
  const choose = (usable: readonly string[]) => {
    if (wanted.includes('all')) return usable;
    return usable.filter((name, i) => wanted.includes(name) || (i === 0 && wanted.includes('best')));
  };
  const groups = chosen.flatMap((op) => {
    const problems = asked ? askedProblems(op, sizes) : problemsOf(op, flags.kernel ? 'models' : flags.shapes);
    return passes.map((one) => jobsOf(device, op, one, problems, choose));
  });
  if (flags.kernel) return [await withStandIn(device, groups.flat(), flags, checks)];
  if (groups.every(({ length }) => length === 0)) {
    const [op] = chosen;
    const usable = op.variants(device, (asked ? askedProblems(op, sizes) : op.problems.bench)[0]);
    throw new EmigmError('input', `nothing to measure: ${op.name} has ${usable.join(', ')} here, not ${flags.variant}`);
  }
  return groups;
}

async function withStandIn(
  device: Device,
  jobs: readonly Job[],
  { kernel: path, replaces, variant, pass }: KernelFlags,
  checks: Map<string, Row['check']>,
): Promise<Job[]> {
  if (pass && pass !== 'forward') throw new EmigmError('input', '--kernel stands in for forward kernels only');
  if (!path!.endsWith('.wgsl')) throw new EmigmError('input', `--kernel ${path}: name a .wgsl file`);
  if (variant === 'all' || variant.includes(',')) {
    throw new EmigmError('input', '--kernel needs --variant to name the implementation whose place it takes');
  }
  const [first] = jobs;
  if (!first) throw new EmigmError('input', `the op has no ${variant} here; emigm doctor shows what there is`);
  const built = first.variants[0];
  const one = standIn(device, first.op, first.problem, { path: path!, variant: built.name, replaces });
  const problems = jobs.map(({ problem }): Problem => problem);
  checks.set(`${first.op.name} forward ${one.name}`, await checkStandIn(device, one, first.op, problems));
  return jobs.map((job) => ({
    ...job,
    variants: [...job.variants, { name: one.name, isChoice: false, op: one.op, standsFor: built.name }],
  }));
}

/** Compares the implementations with their oracles on the ops' small and odd problems. */
async function checkBuiltIn(
  device: Device,
  groups: readonly (readonly Job[])[],
  checks: Map<string, Row['check']>,
  io: Io,
  onProgress: (what: string) => void,
): Promise<void> {
  const list = [
    ...new Set(
      groups
        .flat()
        .filter(({ pass }) => pass === 'forward')
        .map(({ op }) => op),
    ),
  ];
  const wrong: OpCheck[] = [];
  for await (const one of checkOps(device, list)) {
    if (io.signal.aborted) throw new EmigmError('aborted', 'stopped');
    onProgress(`checking ${one.op}`);
    if (!isRight(one)) wrong.push(one);
    const key = `${one.op} forward ${one.variant}`;
    const before = checks.get(key);
    const isWorse = !before || !(one.error <= (before.error ?? Number.POSITIVE_INFINITY));
    const worst = isWorse ? one : { error: before.error!, tolerance: before.tolerance };
    const error = Number.isNaN(worst.error) ? null : worst.error;
    checks.set(key, { error, tolerance: worst.tolerance, problems: (before?.problems ?? 0) + 1 });
  }
  if (wrong.length === 0) return;
  const [{ op, variant, problem, error, failure }] = wrong;
  const how = failure ?? `off by ${error.toExponential(1)}`;
  throw new EmigmError('numeric', `${op} ${variant} is wrong on ${device.name} at ${JSON.stringify(problem)}: ${how}`);
}

async function emptyReport(device: Device, io: Io): Promise<KernelReport> {
  return {
    format: FORMAT,
    version: VERSION,
    date: new Date().toISOString(),
    command: ['emigm', ...process.argv.slice(2)].map((word) => basename(word)).join(' '),
    machine: machineOf(device),
    choice: tuningText(device.tuning),
    roofline: await measureRoofline(device, io.signal),
    rows: [],
  };
}

async function finish(report: KernelReport, then: KernelReport | undefined, flags: KernelFlags, io: Io): Promise<void> {
  const { quiet, threshold } = flags;
  if (flags.json) {
    makeFolder(dirname(flags.json), '--json');
    await writeText(flags.json, reportJson(report));
  }
  const { head, rows } = kernelTable(report.rows);
  if (!quiet) io.out(`${kernelMachineText(report)}\n\n${table([head, ...rows], NUMBERS)}`);
  if (flags.out) {
    const machines = [kernelMachineText(report)];
    const sections = kernelSections(report);
    const html = await writeDocument(flags.out, 'kernels', kernelFigures(report), (figures) => ({
      json: reportJson(report),
      csv: csvOf(kernelLines(report)),
      md: markdownOf(machines, sections),
      html: htmlPage({ title: 'Kernels against the roofline', machines, figures, sections }),
    }));
    if (!quiet) io.out(`\n${html} has the figures`);
  }
  if (flags.json && !quiet) io.out(`\nwritten to ${flags.json}`);
  if (!then) return;
  const comparison = compareReports(report, then, threshold);
  const { changes, added, differs } = comparison;
  for (const line of differs) io.err(`${flags.compare} is of another machine or version: ${line}`);
  if (changes.length === 0) throw new EmigmError('input', `${flags.compare} has none of what was measured`);
  const shown = changeTable(comparison);
  if (!quiet) io.out(`\nsince ${then.date.slice(0, 16)}:\n\n${table([shown.head, ...shown.rows], [3, 4, 5])}`);
  if (added > 0 && !quiet) io.out(`${added} more are not in ${flags.compare}`);
  const slower = changes.filter(({ verdict }) => verdict === 'slower');
  if (slower.length > 0) {
    const [{ row, ratio: most }] = slower;
    const worst = `${row.op} ${row.variant}, ${most.toFixed(2)} times as long`;
    throw new EmigmError(
      'numeric',
      `${slower.length} of ${changes.length} slower than ${threshold} times: at most ${worst}`,
    );
  }
}
