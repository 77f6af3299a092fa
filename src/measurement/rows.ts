/** From measured lines to rows, and what rows have in common. */
import type { Header, Line, NfeReport, Row, Summary } from './schema.ts';
import { FORMAT, VERSION } from './schema.ts';
import { quantile, summarise } from './statistics.ts';

/** The report of all points that have been measured, in the order in which they are wanted. */
export function assemble(
  header: Header,
  lines: readonly Line[],
  wanted: readonly string[],
  about: { date: string; command: string; repeats: number },
): NfeReport {
  const rows = wanted.flatMap((id) => {
    const row = rowOf(id, lines, header, about.repeats);
    return row ? [row] : [];
  });
  const { machine, peak } = header;
  return { format: FORMAT, version: VERSION, ...about, machine, peak, rows };
}

function rowOf(id: string, lines: readonly Line[], { peak }: Header, repeats: number): Row | undefined {
  const found = lines.find((line) => line.kind === 'facts' && line.id === id);
  const runs = lines.flatMap((line) => {
    return line.kind === 'run' && line.id === id && line.round <= repeats ? [line.seconds] : [];
  });
  if (found?.kind !== 'facts' || runs.length === 0) return undefined;
  const { facts, kernels, process } = found;
  const summary = (values: readonly number[]): Summary => {
    const { median, spread } = summarise(values);
    return { median, spread, samples: [...values] };
  };
  const batch = summary(runs.map(({ total }) => total));
  const names = [...new Set(runs.flatMap(({ parts }) => Object.keys(parts)))];
  const parts = Object.fromEntries(
    names.map((name) => [
      name,
      quantile(
        runs.map((run) => run.parts[name] ?? 0),
        0.5,
      ),
    ]),
  );
  // The tokenizer's work is not counted, so its time is not either.
  const drawing = batch.median - (parts.decode ?? 0);
  // By name, as there may be figures by several networks; the newest, where it was measured again with other images.
  const named = lines.flatMap((line) => (line.kind === 'quality' && line.id === id ? line.quality : []));
  const quality = [...new Map(named.map((one) => [one.name, one])).values()];
  return {
    ...facts,
    id,
    seconds: {
      anImage: summary(batch.samples.map((total) => total / facts.batch)),
      firstImage: summary(runs.map(({ firstImage }) => firstImage)),
      batch,
      host: summary(runs.map(({ host }) => host)),
    },
    parts,
    flopsPerSecond: facts.flops / drawing,
    bytesPerSecond: facts.bytes / drawing,
    shareOfPeak: facts.flops / drawing / peak.flops.perSecond,
    process,
    ...(kernels && { kernels }),
    ...(quality.length > 0 && { quality }),
  };
}

/** What distinguishes points, for tables and legends. */
export const fields = {
  model: (row: Row) => row.model.name,
  preset: (row: Row) => row.preset ?? '-',
  codes: (row: Row) => row.model.codes ?? '-',
  stored: (row: Row) => row.stored,
  kernels: (row: Row) => row.kernel,
  steps: (row: Row) => row.settings.steps,
  'head steps': (row: Row) => row.settings.headSteps ?? '-',
  'head steps last': (row: Row) => row.settings.headStepsLast ?? '-',
  'head sampler': (row: Row) => row.settings.headSampler ?? '-',
  cfg: (row: Row) => row.settings.cfg,
  interval: (row: Row) => `${row.settings.cfgInterval.join(' to ')}`,
  'share early': (row: Row) => row.settings.shareEarly ?? '-',
  'reuse encoder': (row: Row) => row.settings.reuseEncoder ?? '-',
  counts: (row: Row) => row.settings.counts ?? '-',
  batch: (row: Row) => row.batch,
} as const;

export type Field = keyof typeof fields;

/** Settings that a preset brings along: where its name tells them, it is enough. */
const OF_PRESETS: readonly Field[] = ['counts'];

/** Fields in which the rows differ, and those that are the same in all. */
export function split(rows: readonly Row[]): { varying: Field[]; common: Field[] } {
  const names = Object.keys(fields) as Field[];
  const differ = (some: readonly Row[], name: Field) => new Set(some.map((row) => String(fields[name](row)))).size > 1;
  const byPreset = [...new Set(rows.map(fields.preset))].map((preset) =>
    rows.filter((row) => fields.preset(row) === preset),
  );
  const varies = (name: Field) =>
    OF_PRESETS.includes(name) ? byPreset.some((some) => differ(some, name)) : differ(rows, name);
  return { varying: names.filter(varies), common: names.filter((name) => !differ(rows, name)) };
}

/** `batch 8, cfg 4`: a row among others by some of the fields. */
export function label(row: Row, names: readonly Field[]): string {
  const bare: readonly Field[] = ['model', 'stored', 'head sampler'];
  return names
    .filter((name) => fields[name](row) !== '-')
    .map((name) => (bare.includes(name) ? String(fields[name](row)) : `${name} ${fields[name](row)}`))
    .join(', ');
}

/** Parts of a batch's time in the order in which they run. */
export const PARTS = ['encoder', 'decoder', 'head', 'rest', 'idle', 'decode'] as const;

/** What tables and legends call them. */
export const PART_NAMES: Readonly<Record<string, string>> = {
  rest: 'rest of the device',
  idle: 'between kernels',
  decode: 'tokenizer',
};

/** One row of each point of several reports, the points in the order of their first occurrence. */
export function sideBySide(reports: readonly NfeReport[]): { id: string; rows: (Row | undefined)[] }[] {
  const ids = [...new Set(reports.flatMap(({ rows }) => rows.map(({ id }) => id)))];
  return ids.map((id) => ({ id, rows: reports.map(({ rows }) => rows.find((row) => row.id === id)) }));
}

/** A name for each report: the adapter, with versions, date or number where that is not enough. */
export function runNames(reports: readonly NfeReport[]): string[] {
  const ways: ((report: NfeReport) => string)[] = [
    ({ machine }) => machine.adapter,
    ({ machine }) => `${machine.adapter}, ${machine.commit ?? machine.versions['emigm-wgsl']}`,
    ({ machine, date }) => `${machine.adapter}, ${date.slice(0, 16).replace('T', ' ')}`,
  ];
  for (const way of ways) {
    const names = reports.map(way);
    if (new Set(names).size === names.length) return names;
  }
  return reports.map(({ machine }, i) => `${i + 1}: ${machine.adapter}`);
}
