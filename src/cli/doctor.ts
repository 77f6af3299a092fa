/** `emigm doctor`: which adapters there are, what the engine makes of them, and what would be better. */
import { execFile } from 'node:child_process';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { EmigmError } from '../errors.ts';
import { Device, mib } from '../gpu/device.ts';
import { openDevice } from '../ops/open_device.ts';
import { isOutdated, type StoredTuning, storedText, tuningText } from '../gpu/tuning.ts';
import { checkOps, isRight, type OpCheck } from '../ops/check.ts';
import type { Problem } from '../ops/op.ts';
import { ops } from '../ops/registry.ts';
import type { Io } from './io.ts';
import { table } from './options.ts';
import { createProgress } from './progress.ts';
import { versions } from './versions.ts';

export interface DoctorFlags {
  adapter?: string;
  json?: boolean;
  /** Looks at the chosen adapter only; what the probes of the others run. */
  only?: boolean;
  /** Checks every kernel against its oracle. */
  check?: boolean;
}

/** One adapter, as far as kernels care. */
export interface AdapterReport {
  name: string;
  driver: string;
  isCpu: boolean;
  f16: boolean;
  /** Size of a subgroup: one number where it is fixed, a range where not; undefined without subgroups. */
  subgroups: string | undefined;
  timestamps: boolean;
  /** Shapes for subgroup matrix kernels: `f16 x f16 -> f32 16x16x16`. */
  subgroupMatrix: string[];
  /** What is wrong with the kernels that use them, on this adapter: they are left out. */
  matricesLeftOut?: string;
  limits: Record<string, number>;
  /** The implementation of each op that the engine prefers here, of those that can serve. */
  kernels: { op: string; choice: string; of: string[] }[];
  /** Where that preference comes from: a built-in table, or `emigm tune`. */
  choice: string;
  /** What `emigm tune` has stored, whether it counts, and that in words. */
  tuning: Pick<StoredTuning, 'state' | 'file'> & { text: string };
}

export interface DoctorReport {
  versions: Record<string, string>;
  platform: string;
  chosen: AdapterReport | undefined;
  why: string;
  /** What each kind of adapter gives on this machine: a name, or why not. */
  found: { kind: string; name?: string; problem?: string }[];
  advice: string[];
  /** Kernels checked against their oracles, and those that are wrong here. */
  check?: { checked: number; wrong: OpCheck[] };
}

const KINDS = ['gpu', 'lavapipe', 'swiftshader'] as const;
const LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxStorageBuffersPerShaderStage',
  'maxImmediateSize',
];

export function registerDoctor(program: Command, io: Io): void {
  program
    .command('doctor')
    .summary('show adapters, drivers and what the engine chooses')
    .description('Shows the adapters of this machine, what the engine chooses and why, and what to install for better.')
    .option('--adapter <name>', 'auto, gpu, lavapipe, swiftshader or part of a name (default: EMIGM_ADAPTER, or auto)')
    .option('--only', 'look at the chosen adapter only')
    .option('--check', 'also compare every kernel with its float64 reference on the chosen adapter')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      '\nExamples:\n  emigm doctor\n  emigm doctor --check\n  emigm doctor --adapter swiftshader --json',
    )
    .action((flags: DoctorFlags) => doctor(flags, io));
}

/** @throws EmigmError 'adapter' with advice when there is no usable adapter */
export async function doctor(flags: DoctorFlags, io: Io, probe = probeInChild): Promise<void> {
  const environment = { ...process.env }; // as it is before a driver is chosen
  const asked = flags.adapter ?? (process.env.EMIGM_ADAPTER || 'auto');
  let chosen: AdapterReport | undefined;
  let failure: EmigmError | undefined;
  try {
    chosen = await examine(asked);
  } catch (error) {
    if (!(error instanceof EmigmError)) throw error;
    failure = error;
  }
  const found = flags.only ? [] : await Promise.all(KINDS.map((kind) => probe(kind, environment)));
  const report: DoctorReport = {
    versions: versions(),
    platform: `${process.platform} ${process.arch}`,
    chosen,
    why: reasonFor(asked, chosen),
    found,
    advice: adviceFor(chosen, found),
  };
  if (flags.check && chosen) report.check = await checkKernels(asked, io);
  if (flags.json) io.out(JSON.stringify(report, null, 2));
  else io.out(text(report));
  if (failure) throw failure;
  if (report.check?.wrong.length)
    throw new EmigmError('numeric', `${report.check.wrong.length} kernels are wrong on ${report.chosen?.name}`);
}

/** Compares every kernel that the adapter allows with its oracle. */
async function checkKernels(adapter: string, io: Io): Promise<NonNullable<DoctorReport['check']>> {
  const device = await Device.open({ adapter });
  const names = [...new Set(ops.map(({ name }) => name))];
  const progress = createProgress(io, { label: 'checking kernels', total: names.length });
  try {
    const result = { checked: 0, wrong: [] as OpCheck[] };
    for await (const one of checkOps(device)) {
      result.checked++;
      progress.update(names.indexOf(one.op), one.op);
      if (!isRight(one)) result.wrong.push(one);
      if (io.signal.aborted) throw new EmigmError('aborted', 'stopped');
    }
    return result;
  } finally {
    progress.stop();
    device.dispose();
  }
}

/** Opens an adapter and reads off what it can. */
async function examine(choice: string): Promise<AdapterReport> {
  const device = await openDevice({ adapter: choice });
  try {
    const { info } = device.adapter;
    const stored = device.storedTuning;
    const { subgroupMinSize: low, subgroupMaxSize: high } = info;
    const sizes = low === high ? low : `${low} to ${high}`;
    const configs = (info as { subgroupMatrixConfigs?: Record<string, unknown>[] }).subgroupMatrixConfigs ?? [];
    const limits = device.limits as unknown as Record<string, number>;
    // As models run there: half precision where a GPU has it.
    const half: Problem = !device.isCpu && device.hasF16 ? { stored: 'f16' } : {};
    const kernels = ops.flatMap((op) => {
      const problem = { ...(op.problems.bench[0] ?? op.problems.test[0]), ...half };
      const of = op.variants(device, problem);
      return of.length > 1 ? [{ op: op.name, choice: of[0], of }] : [];
    });
    return {
      name: device.name,
      driver: device.driver,
      isCpu: device.isCpu,
      f16: device.hasF16,
      subgroups: device.hasSubgroups ? `${sizes}${device.pinsLanes ? `, ${device.lanes} asked for` : ''}` : undefined,
      timestamps: device.hasTimestamps,
      subgroupMatrix: configs.map((c) => `${c.componentType} -> ${c.resultComponentType} ${c.M}x${c.N}x${c.K}`),
      ...(device.matricesLeftOut && { matricesLeftOut: device.matricesLeftOut }),
      limits: Object.fromEntries(LIMITS.filter((name) => name in limits).map((name) => [name, limits[name]])),
      kernels,
      choice: tuningText(device.tuning),
      tuning: { state: stored.state, file: stored.file, text: storedText(stored) },
    };
  } finally {
    device.dispose();
  }
}

/**
 * Tries a kind of adapter in a process of its own: a driver once loaded stays, and would be what the next try finds.
 */
function probeInChild(kind: string, env: NodeJS.ProcessEnv): Promise<DoctorReport['found'][number]> {
  const main = fileURLToPath(new URL(`./main${extname(fileURLToPath(import.meta.url))}`, import.meta.url));
  const args = [...process.execArgv, main, 'doctor', '--only', '--json', '--adapter', kind];
  return new Promise((resolve) => {
    execFile(process.execPath, args, { env, timeout: 30_000 }, (error, stdout, stderr) => {
      try {
        const { chosen } = JSON.parse(stdout) as DoctorReport;
        if (chosen) return resolve({ kind, name: chosen.name });
      } catch {
        // It died before it could report; what it said last is the reason.
      }
      const said = /^emigm: (.*?)(: (install|update) .*)?$/m.exec(stderr)?.[1];
      resolve({
        kind,
        problem: said ?? (error?.signal ? `its driver died (${error.signal})` : 'its driver gave no answer'),
      });
    });
  });
}

function reasonFor(asked: string, chosen: AdapterReport | undefined): string {
  if (!chosen) return `nothing usable for '${asked}'`;
  if (asked !== 'auto') return `'${asked}' was asked for`;
  if (!chosen.isCpu) return 'a hardware adapter comes first';
  return /embedded/.test(chosen.driver)
    ? 'no hardware adapter and no system Vulkan driver, so the CPU driver that comes along'
    : 'no hardware adapter, and a system CPU driver is faster than the one that comes along';
}

function adviceFor(chosen: AdapterReport | undefined, found: DoctorReport['found']): string[] {
  const has = (kind: string) => found.some((one) => one.kind === kind && one.name);
  const linux = process.platform === 'linux';
  if (!chosen) {
    const others = found.filter((one) => one.name).map((one) => `--adapter ${one.kind} (or EMIGM_ADAPTER=${one.kind})`);
    if (others.length > 0) return [`use ${others.join(' or ')}`];
    return [
      linux
        ? 'install the Vulkan driver of your GPU, or Mesa lavapipe 25 or newer (Debian: mesa-vulkan-drivers, libvulkan1)'
        : 'update the graphics driver',
    ];
  }
  const advice: string[] = [];
  if (chosen.isCpu && has('gpu')) advice.push('use --adapter gpu: there is a hardware adapter');
  if (chosen.isCpu && !has('gpu')) {
    advice.push(linux ? 'with a GPU: install its Vulkan driver' : 'with a GPU: update its driver');
  }
  if (/swiftshader/i.test(chosen.name) && linux && !has('lavapipe')) {
    advice.push('without a GPU: Mesa lavapipe 25 or newer runs several times faster (mesa-vulkan-drivers, libvulkan1)');
  }
  if (/swiftshader/i.test(chosen.name) && has('lavapipe')) advice.push('use --adapter lavapipe: it is faster');
  if (isOutdated(chosen.tuning)) advice.push('run emigm tune again (emigm tune --clear forgets what is stored)');
  if (!chosen.isCpu && !chosen.f16) advice.push('a newer driver may offer half precision (shader-f16)');
  return advice;
}

function text({ versions, platform, chosen, why, found, advice, check }: DoctorReport): string {
  const yes = (value: boolean) => (value ? 'yes' : 'no');
  const rows: [string, string][] = [
    [
      'versions',
      Object.entries(versions)
        .map(([name, version]) => `${name} ${version}`)
        .join(', '),
    ],
    ['platform', platform],
    ...found.map((one): [string, string] => [`found ${one.kind}`, one.name ?? `no: ${one.problem}`]),
    ['chosen', chosen ? `${chosen.name} (${chosen.driver})` : 'none'],
    ['why', why],
  ];
  if (chosen) {
    rows.push(
      ['kind', chosen.isCpu ? 'CPU driver' : 'GPU'],
      ['f16', yes(chosen.f16)],
      ['subgroups', chosen.subgroups ?? 'no'],
      ['timestamps', yes(chosen.timestamps)],
      ['subgroup matrix', chosen.subgroupMatrix.join(', ') || 'no'],
      ...(chosen.matricesLeftOut
        ? [['', `left out, as wrong here: ${chosen.matricesLeftOut}`] as [string, string]]
        : []),
      ...Object.entries(chosen.limits).map(([name, value]): [string, string] => {
        return [name, !name.endsWith('Size') ? `${value}` : value >= 2 ** 20 ? mib(value) : `${value} B`];
      }),
      ['kernels chosen by', chosen.choice],
      ['tuning', chosen.tuning.text],
      ...chosen.kernels.map(({ op, choice, of }): [string, string] => {
        const others = of.filter((name) => name !== choice);
        return [`kernel ${op}`, `${choice} (also usable: ${others.join(', ')})`];
      }),
    );
  }
  if (check) {
    rows.push(['kernels checked', `${check.checked}, ${check.checked - check.wrong.length} right`]);
    for (const { op, variant, problem, error, tolerance, failure } of check.wrong) {
      const how = failure ?? `off by ${error.toExponential(1)}, ${tolerance.toExponential(1)} is allowed`;
      rows.push(['wrong', `${op} ${variant} ${JSON.stringify(problem)}: ${how}`]);
    }
  }
  rows.push(...advice.map((line): [string, string] => ['advice', line]));
  return table(rows);
}
