/** The benchmark runs, measures something, and says where its numbers come from. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { problemText } from '../../src/measurement/kernels/problems.ts';
import { numbers, randomWeights } from '../../src/measurement/random_weights.ts';
import { resultText } from '../../bench/report.ts';
import { SCHEMA } from '../../bench/result.ts';
import { bench } from '../../bench/run.ts';
import { quantile, summarise } from '../../src/measurement/statistics.ts';
import type { Io } from '../../src/cli/io.ts';
import { presets } from '../../src/models/config.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-bench-'));
afterAll(() => rmSync(folder, { recursive: true }));

const out = join(folder, 'deep', 'result.json');
const said: string[] = [];
const io: Io = {
  out: (line) => said.push(line),
  err: () => {},
  columns: undefined,
  signal: new AbortController().signal,
};
const run = (...argv: string[]) => bench([...argv, '--quick', '--out', out], io);
const written = () => JSON.parse(readFileSync(out, 'utf8'));

describe('statistics', () => {
  it('quartiles are interpolated', () => {
    expect(quantile([4, 1, 3, 2], 0.5)).toBe(2.5);
    expect(quantile([1, 2, 3, 4, 5], 0.25)).toBe(2);
    expect(quantile([7], 0.75)).toBe(7);
  });

  it('spread is the distance of the quartiles over the median', () => {
    expect(summarise([1, 2, 3, 4, 5])).toEqual({ median: 3, spread: 2 / 3, samples: 5 });
  });
});

it('every variant of an op, with rates that follow from its time', async () => {
  const result = await run('--only', 'ops', '--ops', '^(matmul|gate)$');
  expect(written()).toEqual(JSON.parse(JSON.stringify(result)));
  expect(result).toMatchObject({ schema: SCHEMA, host: [], sampling: [] });
  expect(result.command).toBe('npm run bench -- --only ops --ops ^(matmul|gate)$ --quick --out result.json');
  const forward = result.ops.filter(({ op, pass }) => op === 'matmul' && pass === 'forward');
  expect(forward.map(({ variant }) => variant)).toContain('reference');
  expect(forward.length).toBeGreaterThan(1);
  for (const row of result.ops) {
    expect(row.skipped).toBeUndefined();
    expect(row.ms).toBeGreaterThan(0);
    expect(row.samples).toBeGreaterThanOrEqual(1);
    expect(row.kernels.length).toBeGreaterThan(0);
  }
  const [{ ms, gflops, problem }] = forward;
  const { m, k, n } = problem as Record<string, number>;
  expect(gflops).toBeCloseTo((2 * m * k * n) / (ms! * 1e6), 6);
  const reference = forward.find(({ variant }) => variant === 'reference')!;
  expect(reference.overReference).toBe(1);
  for (const row of forward) expect(row.overReference).toBeCloseTo(reference.ms! / row.ms!, 9);
  expect(result.ops.some(({ pass }) => pass === 'backward')).toBe(true);
});

it('the best variant alone is the one that the engine chooses', async () => {
  const { ops } = await run('--only', 'ops', '--ops', '^matmul$', '--variants', 'best');
  expect(ops.filter(({ pass }) => pass === 'forward')).toHaveLength(1);
});

it('host costs', async () => {
  const { host } = await run('--only', 'host');
  expect(host.map(({ method }) => method)).toContain('benchmark.js');
  for (const { microseconds } of host) expect(microseconds).toBeGreaterThan(0);
  const [step, dispatch] = host.slice(-2);
  const count = Number(/of (\d+)\)/.exec(dispatch.name)![1]);
  expect(count).toBeGreaterThan(50);
  expect(dispatch.microseconds).toBeCloseTo(step.microseconds / count, 9);
});

it('a sampling run: parts add up to the total', async () => {
  const { sampling } = await run('--only', 'sampling', '--batch', '2', '--steps', '4', '--head-steps', '2');
  const [row] = sampling;
  expect(row).toMatchObject({ images: 2, batch: 2, steps: 4, headSteps: 2 });
  expect(row.nfe).toBe(4 + 4); // guided all the way, as the shipped model asks
  const { parts, total, anImage } = row.seconds;
  expect(Object.keys(parts).sort()).toEqual(['decoder', 'encoder', 'head', 'idle', 'rest']);
  expect(Object.values(parts).reduce((a, b) => a + b, 0)).toBeCloseTo(total, 9);
  expect(anImage).toBeCloseTo(total / 2, 9);
  expect(row.host.share).toBeGreaterThan(0);
  expect(row.host.share).toBeLessThan(1);
  expect(row.memory.process).toBeGreaterThan(row.memory.device);
  expect(said.join('\n')).toContain('decoder');
});

it('bad flags end in one clear error', async () => {
  await expect(run('--only', 'ops', '--ops', 'matmull')).rejects.toThrow(/no op matches matmull; there are matmul, /);
  await expect(run('--only', 'sampling', '--model', 'q-256')).rejects.toThrow(
    /q-256 is neither a file nor one of xs-256/,
  );
  await expect(run('--only', 'everything')).rejects.toThrow(/ops, host, sampling/);
});

it('random weights have the shapes of the configuration, and the same numbers each time', async () => {
  const config = presets['xs-256'];
  const source = randomWeights(config);
  const name = 'encoder_blocks.0.attn.qkv.weight';
  const [first, second] = [await source.read(name), await randomWeights(config).read(name)];
  expect(first).toHaveLength(3 * 448 * 448);
  expect(first).toEqual(second);
  const meanSquare = first.reduce((sum, x) => sum + x * x, 0) / first.length;
  expect(meanSquare * 448).toBeCloseTo(1, 1);
  expect(await source.read('encoder_norm.weight')).toEqual(new Float32Array(448).fill(1));
  expect(numbers(1).next()).not.toBe(numbers(2).next());
});

it('tables: a row that was left out says why', () => {
  expect(problemText({ m: 3, bias: true, gate: false })).toBe('m 3 bias');
  const text = resultText({
    ...{ schema: SCHEMA, date: '2026-01-02T03:04:05Z', command: '', adapter: 'A', driver: 'D', cpu: 'C' },
    ...{ versions: { node: '20' }, commit: 'abc', host: [], sampling: [], training: [] },
    ops: [{ op: 'x', pass: 'backward', problem: {}, variant: 'v', kernels: [], skipped: 'would take an hour' }],
  });
  expect(text).toMatch(/x backward +v +skipped: would take an hour +- /);
  expect(text).toContain('2026-01-02');
});
