/** The goals on GPUs beside what was measured. */
import type { PeerResult } from '../peers/result.ts';
import { samplingWork } from '../peers/sampling.ts';
import type { BlockRow } from './block.ts';

export interface Goal {
  what: string;
  goal: string;
  measured: string;
  verdict: 'met' | 'SHORT' | 'not measured';
}

const MODELS = ['B', 'L', 'H'];
const OWN = 'emigm f16';

/** Names of a whole run beside PyTorch `peer` (autocast, compile): its section without `peers-`, and its work. */
export function samplingNames(peer: string, model: number, batch: number): { section: string; work: string } {
  return { section: `sampling-${peer}-${MODELS[model].toLowerCase()}-${batch}`, work: samplingWork(model, batch).name };
}

/** What the files say of each goal. `read` gives a section's JSON, undefined where there is none. */
export function goalsOf(read: (section: string) => unknown): Goal[] {
  const goals: Goal[] = [];
  const add = (what: string, goal: string, measured: string | undefined, isMet?: boolean) => {
    const verdict = measured === undefined ? 'not measured' : isMet ? 'met' : 'SHORT';
    goals.push({ what, goal, measured: measured ?? '-', verdict });
  };
  const check = (read('doctor') as { check?: { checked: number; wrong: unknown[] } } | undefined)?.check;
  add(
    'kernels against float64',
    'none wrong',
    check && `${check.wrong.length} of ${check.checked}`,
    check?.wrong.length === 0,
  );
  const tests = read('tests') as { numPassedTests: number; numFailedTests: number; success: boolean } | undefined;
  add('tests', 'none fails', tests && `${tests.numFailedTests} fail, ${tests.numPassedTests} pass`, tests?.success);
  const block = (read('block') as { rows: BlockRow[] } | undefined)?.rows.map(({ dispatches }) => dispatches);
  add(
    'dispatches of a transformer block',
    '<= 8',
    block && String(Math.max(...block)),
    block && Math.max(...block) <= 8,
  );

  for (const size of ['4096', '320', '1024']) {
    const rows = (read(`peers-matmul-${size}`) as PeerResult | undefined)?.rows ?? [];
    const own = rows.filter(({ peer, residentMs }) => peer === OWN && residentMs);
    const ratios = own.flatMap(({ work, residentMs, wrong }) => {
      const cublas = rows.find((row) => row.work === work && row.peer === 'PyTorch autocast' && row.residentMs);
      // Wrong numbers are no speed.
      return cublas ? [{ work, ratio: wrong ? 0 : cublas.residentMs! / residentMs! }] : [];
    });
    const [worst] = ratios.sort((a, b) => a.ratio - b.ratio);
    const where = size === '4096' ? '4096 cubed' : `${size} rows, shapes of eMIGM-B, -L, -H`;
    const met = ratios.filter(({ ratio }) => ratio >= 0.45).length;
    const text =
      worst && `${worst.ratio.toFixed(2)} (${worst.work})${size === '4096' ? '' : `; ${met} of ${ratios.length}`}`;
    add(`matmul, f16, over cuBLAS: ${where}`, '>= 0.45', text, met === ratios.length);
  }
  const runs = (peer: string, batch: number, least: number) => {
    for (const [model, letter] of MODELS.entries()) {
      const { section, work } = samplingNames(peer, model, batch);
      const rows = (read(`peers-${section}`) as PeerResult | undefined)?.rows ?? [];
      const ms = (name: string) => rows.find((row) => row.work === work && row.peer === name)?.ms;
      const [own, other] = [ms(OWN), ms(`PyTorch ${peer}`)];
      const ratio = own && other ? other / own : undefined;
      const text = ratio && `${ratio.toFixed(2)} (${(own! / batch).toFixed(1)} ms an image)`;
      add(`eMIGM-${letter}, batch ${batch}, over PyTorch ${peer}`, `>= ${least}`, text || undefined, ratio! >= least);
    }
  };
  runs('autocast', 1, 2);
  runs('compile', 64, 0.6);
  return goals;
}

export function goalsMarkdown(goals: readonly Goal[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  const rows = goals.map(({ what, goal, measured, verdict }) => line([what, goal, measured, verdict]));
  return [line(['what', 'goal', 'measured', '']), '|---|---|---|---|', ...rows].join('\n');
}
