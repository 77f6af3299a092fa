/** Results as tables for people. */
import { table } from '../src/cli/options.ts';
import { mib } from '../src/gpu/device.ts';
import { problemText } from '../src/measurement/kernels/problems.ts';
import type { BenchResult, HostRow, OpRow, SamplingRow, TrainingRow } from './result.ts';

/** Three significant digits, or a dash. */
const digits = (value: number | undefined) => {
  if (value === undefined) return '-';
  return value >= 1000 ? value.toFixed(0) : value.toPrecision(3);
};
const percent = (value: number | undefined) => (value === undefined ? '-' : `${(100 * value).toFixed(1)}%`);

export function opsTable(rows: readonly OpRow[]): string {
  const head = ['op', 'problem', 'variant', 'kernels', 'ms', 'spread', 'GFLOP/s', 'GB/s', 'x reference'];
  const cells = rows.map((row) => [
    row.pass === 'backward' ? `${row.op} backward` : row.op,
    problemText(row.problem),
    row.variant,
    row.skipped ? `skipped: ${row.skipped}` : row.kernels.join(' '),
    digits(row.ms),
    percent(row.spread),
    digits(row.gflops),
    digits(row.gbps),
    row.overReference === undefined ? '-' : row.overReference.toFixed(2),
  ]);
  return table([head, ...cells], [4, 5, 6, 7, 8]);
}

export function hostTable(rows: readonly HostRow[]): string {
  const cells = rows.map(({ name, microseconds, spread, samples, method }) => {
    return [name, digits(microseconds), percent(spread), `${samples}`, method];
  });
  return table([['on the host', 'us', 'spread', 'samples', 'by'], ...cells], [1, 2, 3]);
}

export function samplingTable({ seconds, host, memory, ...row }: SamplingRow): string {
  const share = (part: number) => [`${part.toFixed(3)} s`, percent(part / seconds.total)];
  const lines: string[][] = [
    ['sampling', row.model, ''],
    [
      'run',
      `${row.images} image${row.images === 1 ? '' : 's'} in batches of ${row.batch}, ${row.steps} steps, ${row.headSteps} head steps`,
      '',
    ],
    ['NFE, head rows', `${row.nfe} an image, ${row.headEvaluations} in all`, ''],
    ['dispatches', `${row.dispatches} a batch`, ''],
    ...Object.entries(seconds.parts).map(([part, value]) => [`  ${part}`, ...share(value)]),
    ['total', ...share(seconds.total)],
    ['an image', `${seconds.anImage.toFixed(3)} s`, ''],
    ['loading, preparing', `${seconds.load.toFixed(2)} s, ${seconds.prepare.toFixed(2)} s (not in the total)`, ''],
    [
      'host',
      `${digits(host.microsecondsAStep)} us a step, ${digits(host.microsecondsADispatch)} us a dispatch`,
      percent(host.share),
    ],
    ['memory', `${mib(memory.device)} on the device at most, ${mib(memory.process)} the process at most`, ''],
  ];
  return table(lines, [2]);
}

export function trainingTable(row: TrainingRow): string {
  const { forward, backward, optimizer, update, memory } = row;
  const onDevice = forward + backward + optimizer;
  const share = (part: number) => [`${part.toFixed(3)} s`, percent(part / onDevice)];
  const lines: string[][] = [
    ['training', `${row.config}, ${row.batch} image${row.batch === 1 ? '' : 's'} a step`, ''],
    ['a step', `${row.secondsAStep.toFixed(3)} s, ${digits(row.gflops)} GFLOP/s`, ''],
    ['speed', `${digits(row.imagesASecond)} images/s`, ''],
    ['  forward', ...share(forward)],
    ['  backward', ...share(backward)],
    ['  optimizer', ...share(optimizer)],
    ['  of it update', ...share(update)],
    ['backward / forward', (backward / forward).toFixed(2), ''],
    ...Object.entries(row.shares)
      .slice(0, 6)
      .map(([op, part]) => [`  ${op}`, percent(part), '']),
    ['memory', `${mib(memory.device)} on the device at most, ${mib(memory.process)} the process at most`, ''],
  ];
  return table(lines, [2]);
}

export function resultText(result: BenchResult): string {
  const { adapter, driver, cpu, versions, commit, date } = result;
  const packages = Object.entries(versions).map(([name, version]) => `${name} ${version}`);
  const parts = [`${adapter} (${driver}) on ${cpu}; ${packages.join(', ')}; commit ${commit}; ${date.slice(0, 10)}`];
  if (result.ops.length > 0) parts.push(opsTable(result.ops));
  if (result.host.length > 0) parts.push(hostTable(result.host));
  for (const row of result.sampling) parts.push(samplingTable(row));
  for (const row of result.training) parts.push(trainingTable(row));
  return parts.join('\n\n');
}
