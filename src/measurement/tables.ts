/** Reports as CSV and Markdown. */
import { type Field, fields, PART_NAMES, PARTS, runNames, sideBySide, split } from './rows.ts';
import type { NfeReport, Row } from './schema.ts';

/** Three significant digits without an exponent, or a dash. */
export function digits(value: number | undefined): string {
  if (value === undefined || !Number.isFinite(value)) return '-';
  if (value === 0) return '0';
  const after = Math.max(0, Math.min(9, 2 - Math.floor(Math.log10(Math.abs(value)))));
  return value.toFixed(after);
}

export const percent = (share: number): string => `${digits(100 * share)}%`;

/** `1.42 s`, `380 ms`, `95 us` */
export function time(seconds: number): string {
  if (seconds >= 1) return `${digits(seconds)} s`;
  return seconds >= 1e-3 ? `${digits(seconds * 1e3)} ms` : `${digits(seconds * 1e6)} us`;
}

const binary = (bytes: number) =>
  bytes >= 2 ** 30 ? `${digits(bytes / 2 ** 30)} GiB` : `${digits(bytes / 2 ** 20)} MiB`;
export const rate = (perSecond: number, unit: string) =>
  perSecond >= 1e12 ? `${digits(perSecond / 1e12)} T${unit}` : `${digits(perSecond / 1e9)} G${unit}`;

export type Table = { head: string[]; rows: string[][] };
export type Section = { title: string; text?: string; table?: Table };

/** What is the same in all rows: `model b-256, stored f16, ...`. */
export function commonText(rows: readonly Row[]): string {
  return split(rows)
    .common.map((name) => [name, String(fields[name](rows[0]))])
    .filter(([, value]) => value !== '-')
    .map(([name, value]) => `${name} ${value}`)
    .join(', ');
}

/** How much the runs differ; one run says nothing of that. */
const spread = ({ spread, samples }: Row['seconds']['anImage']): string => (samples.length > 1 ? percent(spread) : '-');

/** What the figures of quality are of: `Quality: FID of 50000 images against imagenet256.npz. Features: ...`. */
export function qualityText(rows: readonly Row[]): string {
  const all = rows.flatMap((row) => row.quality ?? []);
  const list = (texts: readonly string[], mark: string) => [...new Set(texts)].join(mark);
  const figures = all.map(({ name, images, reference }) => {
    const isScore = /score/i.test(name); // of the images alone
    return `${name} of ${images} images${reference && !isScore ? ` against ${reference}` : ''}`;
  });
  const features = list(
    all.flatMap(({ extractor }) => extractor ?? []),
    ', ',
  );
  return figures.length > 0 ? `Quality: ${list(figures, '; ')}.${features && ` Features: ${features}.`}` : '';
}

const varyingFields = (rows: readonly Row[]): Field[] => {
  const { varying } = split(rows);
  return varying.length > 0 ? varying : ['steps'];
};

/** The main table: what differs, times, rates, memory. */
export function latencyTable(rows: readonly Row[]): Table {
  const varying = varyingFields(rows);
  const isFast = rows.some(({ flopsPerSecond }) => flopsPerSecond >= 1e11);
  const quality = [...new Set(rows.flatMap((row) => row.quality?.map(({ name }) => name) ?? []))];
  const head = [
    'NFE',
    'head rows',
    's/image',
    'spread',
    'first image',
    isFast ? 'TFLOP/s' : 'GFLOP/s',
    'of peak',
    'GB/s',
    'host',
    'device memory',
  ];
  return {
    head: [...varying, ...head, ...quality],
    rows: rows.map((row) => {
      const { anImage, firstImage, host, batch } = row.seconds;
      const found = quality.map((name) => digits(row.quality?.find((one) => one.name === name)?.value));
      return [
        ...varying.map((name) => String(fields[name](row))),
        String(row.nfe),
        String(row.headEvaluations),
        digits(anImage.median),
        spread(anImage),
        time(firstImage.median),
        digits(row.flopsPerSecond / (isFast ? 1e12 : 1e9)),
        percent(row.shareOfPeak),
        digits(row.bytesPerSecond / 1e9),
        `${time(host.median)} (${percent(host.median / batch.median)})`,
        binary(row.memory.weights + row.memory.activations),
        ...found,
      ];
    }),
  };
}

/** Where the time of an image goes; undefined where the adapter has no timestamps. */
export function partsTable(rows: readonly Row[]): Table | undefined {
  const parts = PARTS.filter((part) => rows.some((row) => row.parts[part] !== undefined));
  if (parts.length < 2) return undefined;
  const varying = varyingFields(rows);
  return {
    head: [...varying, 'NFE', ...parts.map((part) => PART_NAMES[part] ?? part)],
    rows: rows.map((row) => [
      ...varying.map((name) => String(fields[name](row))),
      String(row.nfe),
      ...parts.map((part) => {
        const seconds = row.parts[part] ?? 0;
        return `${time(seconds / row.batch)} (${percent(seconds / row.seconds.batch.median)})`;
      }),
    ]),
  };
}

/** Seconds an image of several reports beside each other, and how many times as fast as the first each is. */
export function comparisonTable(reports: readonly NfeReport[]): Table {
  const names = runNames(reports);
  const [first, ...others] = names;
  return {
    head: ['point', 'NFE', `s/image: ${first}`, ...others.flatMap((name) => [`s/image: ${name}`, 'speed-up'])],
    rows: sideBySide(reports).map(({ id, rows }) => {
      const base = rows[0]?.seconds.anImage.median;
      const shown = (row: Row | undefined) => {
        if (!row) return '-';
        const { anImage } = row.seconds;
        return `${digits(anImage.median)}${anImage.samples.length > 1 ? ` ± ${percent(anImage.spread / 2)}` : ''}`;
      };
      const nfe = rows.find((row) => row !== undefined)!.nfe;
      return [
        id,
        String(nfe),
        shown(rows[0]),
        ...rows.slice(1).flatMap((row) => {
          const ratio = base && row ? base / row.seconds.anImage.median : undefined;
          return [shown(row), ratio === undefined ? '-' : `${digits(ratio)}x`];
        }),
      ];
    }),
  };
}

/** One line about the machine and what it can do. */
export function machineText({ machine, peak, date, repeats }: NfeReport): string {
  const versions = Object.entries(machine.versions).map(([name, version]) => `${name} ${version}`);
  if (machine.commit) versions.push(`commit ${machine.commit}`);
  return (
    `${machine.adapter} (${machine.driver}), ${machine.cpu}; ${versions.join(', ')}; ${date.slice(0, 10)}; ` +
    `${repeats > 1 ? `median of ${repeats} runs` : 'one run'}; measured peak ${rate(peak.flops.perSecond, 'FLOP/s')} ` +
    `(matmul ${peak.flops.size}, ${peak.flops.kernel}, weights ${peak.flops.stored}) and ${rate(peak.bytes.perSecond, 'B/s')}${machine.choice ? `; kernels chosen by ${machine.choice}` : ''}`
  );
}

const markdownTable = ({ head, rows }: Table): string => {
  const cell = (text: string) => text.replaceAll('|', '\\|');
  const lines = [head, head.map(() => '---'), ...rows];
  return lines.map((row) => `| ${row.map(cell).join(' | ')} |`).join('\n');
};

/** All tables with their headings, for Markdown and for the page. */
export function sections(reports: readonly NfeReport[]): Section[] {
  const names = runNames(reports);
  const found: Section[] = [];
  if (reports.length > 1) found.push({ title: 'Side by side', table: comparisonTable(reports) });
  for (const [i, report] of reports.entries()) {
    const { rows } = report;
    const of = reports.length > 1 ? `: ${names[i]}` : '';
    const common = commonText(rows);
    const text = [common && `In all rows: ${common}.`, qualityText(rows)].filter(Boolean).join(' ');
    found.push({ title: `Times, rates and memory${of}`, text, table: latencyTable(rows) });
    const parts = partsTable(rows);
    if (parts) found.push({ title: `Time of an image by part${of}`, table: parts });
  }
  return found;
}

export function markdown(reports: readonly NfeReport[]): string {
  return markdownOf(reports.map(machineText), sections(reports));
}

/** Machines as a list, then tables under their headings. */
export function markdownOf(machines: readonly string[], parts: readonly Section[]): string {
  const body = parts.map(({ title, text, table }) => {
    return [`## ${title}`, text, table && markdownTable(table)].filter(Boolean).join('\n\n');
  });
  return `${[machines.map((line) => `- ${line}`).join('\n'), ...body].join('\n\n')}\n`;
}

/** One line a point with all numbers at full precision; RFC 4180. */
export function csv(reports: readonly NfeReport[]): string {
  const names = runNames(reports);
  // Settings that no row has are left out.
  const settings = (Object.keys(fields) as Field[]).filter((name) =>
    reports.some(({ rows }) => rows.some((row) => given(row, name) !== undefined)),
  );
  const lines = reports.flatMap((report, i) => report.rows.map((row) => flat(names[i], row, settings)));
  return csvOf(lines);
}

/** Lines under all the names that any of them has; RFC 4180. */
export function csvOf(lines: readonly Readonly<Record<string, unknown>>[]): string {
  const head = [...new Set(lines.flatMap((line) => Object.keys(line)))];
  const cell = (value: unknown) => {
    const text = value === undefined ? '' : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [head, ...lines.map((line) => head.map((name) => line[name]))]
    .map((row) => `${row.map(cell).join(',')}\r\n`)
    .join('');
}

/** What a row has of a field; undefined where it has none. */
function given(row: Row, name: Field): unknown {
  const value = fields[name](row);
  return value === '-' ? undefined : value;
}

function flat(run: string, row: Row, settings: readonly Field[]): Record<string, unknown> {
  const { anImage, firstImage, batch, host } = row.seconds;
  return {
    run,
    id: row.id,
    ...Object.fromEntries(settings.map((name) => [name.replaceAll(' ', '_'), given(row, name)])),
    nfe: row.nfe,
    head_evaluations: row.headEvaluations,
    dispatches: row.dispatches,
    seconds_an_image: anImage.median,
    seconds_an_image_spread: anImage.spread,
    seconds_first_image: firstImage.median,
    seconds_first_image_spread: firstImage.spread,
    seconds_batch: batch.median,
    seconds_host: host.median,
    seconds_prepare: row.prepare,
    ...Object.fromEntries(Object.entries(row.parts).map(([part, value]) => [`seconds_${part}`, value])),
    flops: row.flops,
    bytes: row.bytes,
    flops_per_second: row.flopsPerSecond,
    share_of_peak: row.shareOfPeak,
    bytes_per_second: row.bytesPerSecond,
    weights_bytes: row.memory.weights,
    activations_bytes: row.memory.activations,
    process_bytes: row.process,
    ...Object.fromEntries((row.quality ?? []).map(({ name, value }) => [name, value])),
  };
}
