/** `emigm bench kernels`: a result, a kernel of one's own, what changed since. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readKernelSource } from '../../src/gpu/node.ts';
import { compareReports } from '../../src/measurement/kernels/compare.ts';
import type { KernelReport, Row } from '../../src/measurement/kernels/schema.ts';
import { emigm } from '../helpers/cli.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-kernels-'));
const at = (...parts: string[]) => join(folder, ...parts);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const kernels = (...argv: string[]) =>
  emigm(['bench', 'kernels', '--op', 'gate', '--rows', '6', '--width', '8', '--seconds', '0.001', ...argv]);
const stored = (name: string) => JSON.parse(readFileSync(at(name), 'utf8')) as KernelReport;
const source = readKernelSource('activation/gate');

describe('emigm bench kernels', () => {
  it('times a kernel of one’s own beside the built-in one, checked, and writes a result and figures', async () => {
    writeFileSync(at('my.wgsl'), source.replace('residual[i] + gate[at] * x[i]', 'fma(gate[at], x[i], residual[i])'));
    const flags = ['--variant', 'gate', '--kernel', at('my.wgsl'), '--json', at('a.json'), '--out', at('page')];
    const { code, out, err } = await kernels(...flags);
    expect(code, err).toBe(0);
    expect(out).toMatch(/^gate +rows 6 width 8 +gate \* .*\n^gate +rows 6 width 8 +my\.wgsl /m);
    const { rows, roofline, choice } = stored('a.json');
    expect(choice).toBe('the built-in table');
    expect(roofline.f32).toBeGreaterThan(0);
    expect(roofline.bytes).toBeGreaterThan(0);
    expect(rows.map(({ variant, isChoice, standsFor }) => [variant, isChoice, standsFor])).toEqual([
      ['gate', true, undefined],
      ['my.wgsl', false, 'gate'],
    ]);
    for (const { seconds, flops, bytes, share } of rows) {
      expect(seconds?.median).toBeGreaterThan(0);
      expect([flops, bytes]).toEqual([2 * 6 * 8, 4 * 6 * 8 * 6]);
      expect(share).toBeCloseTo(bytes / seconds!.median / roofline.bytes, 6);
    }
    expect(rows[1].check?.problems).toBe(3); // the op's own two, and the one asked for
    expect(rows[1].check?.error).toBeLessThanOrEqual(rows[1].check!.tolerance);
    expect(readFileSync(at('a.json'), 'utf8')).not.toContain(folder);
    expect(readdirSync(at('page', 'figures')).sort()).toEqual(['roofline.png', 'roofline.svg']);
  });

  it('refuses a kernel that is wrong or does not compile, before anything is timed', async () => {
    writeFileSync(at('wrong.wgsl'), source.replace('residual[i] +', 'residual[i] -'));
    const wrong = await kernels('--variant', 'gate', '--kernel', at('wrong.wgsl'));
    expect([wrong.code, wrong.out]).toEqual([1, '']);
    expect(wrong.err).toMatch(/^emigm: wrong\.wgsl is wrong on 3 of 3 problems: off by /);
    writeFileSync(at('bad.wgsl'), source.replace('* x[i]', '* z[i]'));
    const bad = await kernels('--variant', 'gate', '--kernel', at('bad.wgsl'));
    expect([bad.code, bad.err]).toEqual([
      1,
      expect.stringMatching(/bad\.wgsl:\d+:\d+: unresolved value 'z'\n +y\[i\] = /),
    ]);
    expect((await kernels('--kernel', at('my.wgsl'))).err).toMatch(/--kernel needs --variant/);
  });

  it('--compare says by ratio what changed, and fails beyond the threshold', async () => {
    const before = stored('a.json');
    for (const row of before.rows) row.seconds!.median /= 1000; // no kernel has become so much slower
    writeFileSync(at('before.json'), JSON.stringify(before));
    const { code, out, err } = await kernels('--compare', at('before.json'), '--threshold', '2');
    expect(code).toBe(1);
    expect(out).toMatch(/since \d{4}-.*:\n\nop .*\n.*gate .* slower$/);
    expect(err).toMatch(/^emigm: 1 of 1 slower than 2 times: at most gate gate, \d+\.\d\d times as long$/m);
  });
});

describe('a comparison', () => {
  const row = (variant: string, median: number, more: Partial<Row> = {}): Row => ({
    op: 'matmul',
    pass: 'forward',
    problem: { m: 320, k: 768 },
    variant,
    isChoice: false,
    kernels: [],
    dispatches: 1,
    flops: 1,
    bytes: 1,
    seconds: { median, spread: 0, samples: [median] },
    ...more,
  });
  const report = (...rows: Row[]) =>
    ({ machine: { adapter: 'one', driver: '', versions: { node: '20' } }, rows }) as unknown as KernelReport;

  it('sets each beside its own earlier time, a kernel given by path beside what it stands in for', () => {
    const then = report(row('tiled', 2), row('cpu', 1), row('few_rows', 1));
    const other = { problem: { m: 64, k: 768 } };
    const now = report(
      row('tiled', 2.1),
      row('cpu', 2),
      row('few_rows', 0.5),
      row('my.wgsl', 3, { standsFor: 'tiled' }),
      row('cpu', 1, other),
    );
    const { changes, added, differs } = compareReports(now, then, 1.1);
    expect(changes.map((change) => [change.row.variant, change.ratio, change.verdict])).toEqual([
      ['cpu', 2, 'slower'],
      ['my.wgsl', 1.5, 'slower'],
      ['tiled', 1.05, 'same'],
      ['few_rows', 0.5, 'faster'],
    ]);
    expect([added, differs]).toEqual([1, []]);
  });

  it('names what of the machine is another', () => {
    const then = report(row('cpu', 1));
    then.machine.versions = { node: '22', webgpu: '0.6' };
    expect(compareReports(report(row('cpu', 1)), then, 1.1).differs).toEqual([
      'node 22 then, 20 now',
      'webgpu 0.6 then, none now',
    ]);
  });
});
