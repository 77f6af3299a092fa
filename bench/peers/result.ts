import { table } from '../../src/cli/options.ts';
import { rate } from '../../src/measurement/tables.ts';

export interface PeerRow {
  work: string;
  peer: string;
  /** Whether it is one of the engines on the WebGPU adapter (not the CPU backend). */
  onAdapter: boolean;
  half?: boolean;
  flops: number;
  /** Median of the rounds, their quartile distance over it, and all of them: from host to host. */
  ms?: number;
  spread?: number;
  rounds?: number[];
  /** Median of the rounds without the ways from and to the host, where the peer can tell. */
  residentMs?: number;
  /** The shortest round: what other work on the machine has disturbed least. */
  bestMs?: number;
  /** Loading and compiling, and the first call. */
  prepareMs?: number;
  firstMs?: number;
  /** Largest difference from the reference over the reference's largest value. */
  error?: number;
  /** Its time over this engine's; above 1 this engine is faster. Only for right numbers. */
  ratio?: number;
  /** The same of `residentMs`. */
  residentRatio?: number;
  /** Numbers are wrong: not compared. */
  wrong?: boolean;
  /** Why there is nothing. */
  skipped?: string;
}

export interface PeerResult {
  schema: 1;
  date: string;
  command: string;
  adapter: string;
  driver: string;
  cpu: string;
  commit: string;
  versions: Record<string, string>;
  devices: Record<string, string>;
  /** What each piece of work was compared with. */
  references: Record<string, string>;
  rows: PeerRow[];
}

const isOwn = ({ peer }: PeerRow): boolean => /^emigm\b/.test(peer);

/** Ratios to this engine's row of the same work and precision, for rows that have a time and right numbers. */
export function withRatios(rows: readonly PeerRow[]): PeerRow[] {
  return rows.map((row) => {
    const of = (half: boolean) =>
      rows.find((own) => isOwn(own) && own.work === row.work && own.ms && !own.wrong && (own.half ?? false) === half);
    const base = row.half ? (of(true) ?? of(false)) : of(false);
    if (!base || !row.ms || row.wrong) return row;
    const resident = row.residentMs && base.residentMs && { residentRatio: row.residentMs / base.residentMs };
    return { ...row, ratio: row.ms / base.ms!, ...resident };
  });
}

/** The best right peer on the adapter for each piece of work, and how many times its time this engine's is. */
export function bestPeers(rows: readonly PeerRow[]): { work: string; peer: string; ratio: number }[] {
  const works = [...new Set(rows.map(({ work }) => work))];
  return works.flatMap((work) => {
    const rivals = rows.filter((row) => row.work === work && !isOwn(row) && row.onAdapter && row.ratio);
    if (rivals.length === 0) return [];
    const best = rivals.reduce((a, b) => (a.ratio! <= b.ratio! ? a : b));
    return [{ work, peer: best.peer, ratio: best.ratio! }];
  });
}

const milliseconds = (ms: number | undefined) =>
  ms === undefined ? '-' : ms >= 100 ? ms.toFixed(0) : ms.toPrecision(3);

/** This engine's rows that others are compared with have no ratio of their own. */
const isBase = ({ peer }: PeerRow): boolean => peer === 'emigm' || peer === 'emigm f16';

function cell(row: PeerRow | undefined): string {
  if (!row || row.skipped) return '-';
  if (row.wrong) return `${milliseconds(row.ms)} wrong`;
  return isBase(row) ? milliseconds(row.ms) : `${milliseconds(row.ms)} (${row.ratio?.toFixed(2) ?? '-'})`;
}

function residentCell(row: PeerRow | undefined): string {
  if (!row?.residentMs || row.wrong) return '-';
  const flops = row.flops > 0 ? `, ${rate((1e3 * row.flops) / row.residentMs, 'FLOP/s')}` : '';
  const ratio = isBase(row) ? '' : ` (${row.residentRatio?.toFixed(2) ?? '-'})`;
  return `${milliseconds(row.residentMs)}${ratio}${flops}`;
}

/** The same work without the ways from and to the host, by the peers that can tell; undefined when none has. */
export function residentTable({ rows }: Pick<PeerResult, 'rows'>): string | undefined {
  const timed = rows.filter(({ residentMs }) => residentMs);
  if (timed.length === 0) return undefined;
  const peers = [...new Set(timed.map(({ peer }) => peer))];
  const lines = [...new Set(timed.map(({ work }) => work))].map((work) => [
    work,
    ...peers.map((peer) => residentCell(timed.find((row) => row.work === work && row.peer === peer))),
  ]);
  return table(
    [['ms on the device (x emigm)', ...peers], ...lines],
    peers.map((_, i) => i + 1),
  );
}

/** A row a piece of work, a column a peer: milliseconds, and in brackets how many times this engine's. */
export function resultTable({ rows, adapter, driver, commit, date }: PeerResult): string {
  const peers = [...new Set(rows.map(({ peer }) => peer))];
  const works = [...new Set(rows.map(({ work }) => work))];
  const best = new Map(bestPeers(rows).map(({ work, ratio }) => [work, ratio]));
  const lines = works.map((work) => [
    work,
    ...peers.map((peer) => cell(rows.find((row) => row.work === work && row.peer === peer))),
    best.get(work)?.toFixed(2) ?? '-',
  ]);
  const right = Array.from({ length: peers.length + 1 }, (_, i) => i + 1);
  const text = table([['ms (x emigm)', ...peers, 'best on adapter'], ...lines], right);
  const notes = new Set(rows.flatMap(({ peer, work, skipped }) => (skipped ? [`${peer}, ${work}: ${skipped}`] : [])));
  return [`${adapter} (${driver}); commit ${commit}; ${date.slice(0, 10)}`, '', text, '', ...notes]
    .join('\n')
    .trimEnd();
}
