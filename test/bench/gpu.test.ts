/** What is measured on a GPU: the sections, what runs when, how they end, and the goals beside stored results. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { blockRows } from '../../bench/gpu/block.ts';
import { goalsMarkdown, goalsOf } from '../../bench/gpu/goals.ts';
import { type Outcome, runSection, runSections } from '../../bench/gpu/run.ts';
import { type Section, sections } from '../../bench/gpu/sections.ts';
import { PEERS } from '../../bench/peers/peer.ts';
import { workloads } from '../../bench/peers/workloads.ts';
import { packageFolder } from '../../src/gpu/node.ts';
import { Device } from '../../src/gpu/device.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-gpu-test-'));
afterAll(() => rmSync(folder, { recursive: true }));

const all = sections({ adapter: 'gpu' });
const flag = (section: Section, name: string) => section.argv('x.json')[section.argv('x.json').indexOf(name) + 1];

describe('sections', () => {
  it.each([false, true])('have names of their own, files that are there, and fit in a call (quick: %s)', (quick) => {
    const list = sections({ adapter: 'gpu', quick });
    expect(new Set(list.map(({ name }) => name)).size).toBe(all.length);
    for (const section of list) {
      expect(existsSync(join(packageFolder(), section.argv('x.json')[0]))).toBe(true);
      expect(section.estimate).toBeLessThan(540);
      expect(section.prints ?? false).not.toBe(section.argv('x.json').some((word) => word.includes('x.json')));
    }
  });

  it('ask for work and for peers that there are', () => {
    const peers = all.filter(({ name }) => name.startsWith('peers-'));
    expect(peers.length).toBeGreaterThan(20);
    for (const section of peers) {
      const works = workloads().filter(({ name }) => new RegExp(flag(section, '--only')).test(name));
      const names = PEERS.map(({ name }) => name).filter((name) => new RegExp(flag(section, '--peers')).test(name));
      expect(names, section.name).toContain('emigm f16');
      expect(
        names.some((name) => name.startsWith('PyTorch')),
        section.name,
      ).toBe(true);
      if (section.name.includes('sampling')) expect([works.length, names.length], section.name).toEqual([1, 2]);
      if (/matmul-(320|1024)/.test(section.name)) expect(works.length, section.name).toBe(12);
      expect(works.length, section.name).toBeGreaterThan(0);
    }
  });
});

describe('runs', () => {
  const section = (name: string, estimate: number): Section => ({ name, estimate, argv: () => [] });
  const four = [section('a', 100), section('b', 300), section('c', 300), section('d', 10)];

  /** Calls with a clock of their own, each section taking so many seconds, until nothing is left or nothing is done. */
  async function calls(takes: Record<string, number>, limit: number, files = new Map<string, Outcome>()) {
    const made: string[][] = [];
    for (let left = ['?']; left.length > 0 && made.length < 5; ) {
      let now = 0;
      const ran: string[] = [];
      left = await runSections(four, {
        limit,
        elapsed: () => now,
        before: ({ name }) => files.get(name),
        run: async ({ name }, seconds, isAll) => {
          const fits = takes[name] <= seconds;
          now += Math.min(takes[name], seconds);
          const outcome = fits ? 'done' : isAll ? 'failed' : 'stopped';
          ran.push(`${name} ${outcome}`);
          if (outcome !== 'stopped') files.set(name, outcome);
          return outcome;
        },
        say: () => {},
      });
      made.push(ran);
    }
    return made;
  }

  it('stop before a section that would not fit, and go on there', async () => {
    const takes = { a: 90, b: 290, c: 250, d: 5 };
    expect(await calls(takes, 540)).toEqual([
      ['a done', 'b done'],
      ['c done', 'd done'],
    ]);
    expect(await calls(takes, 1000)).toEqual([['a done', 'b done', 'c done', 'd done']]);
    const there = new Map<string, Outcome>([
      ['a', 'done'],
      ['c', 'failed'],
    ]);
    expect(await calls(takes, 540, there)).toEqual([['b done', 'd done']]);
  });

  it('try what took longer than was left once more, from the start of a call', async () => {
    expect(await calls({ a: 250, b: 400, c: 700, d: 5 }, 600)).toEqual([
      ['a done', 'b stopped'],
      ['b done'],
      ['c failed'],
      ['d done'],
    ]);
    // Estimated longer than any call: tried all the same.
    expect((await calls({ a: 20, b: 20, c: 20, d: 5 }, 50)).flat()).toHaveLength(4);
  });
});

describe('a section ends', () => {
  const script = join(folder, 'work.mjs');
  writeFileSync(
    script,
    `import { writeFileSync } from 'node:fs';
    const [how, out] = process.argv.slice(2);
    if (how === 'prints') console.log(JSON.stringify({ adapter: process.env.EMIGM_ADAPTER }));
    if (how === 'writes' || how === 'stays') writeFileSync(out, '{"rows":[1]}');
    if (how === 'stays') setInterval(() => {}, 1000);
    if (how !== 'prints') console.log('said');
    process.exitCode = how === 'prints' ? 0 : 3;`,
  );
  const run = (name: string, how: string, isAll: boolean, seconds = 60) => {
    const section = { name, estimate: 1, prints: how === 'prints', argv: (out: string) => [script, how, out] };
    const { signal } = new AbortController();
    return runSection(section, join(folder, name), { seconds, isAll, adapter: 'gpu', signal });
  };
  const text = (file: string) => readFileSync(join(folder, file), 'utf8');

  it('done: what it prints or writes is kept, also with an error', async () => {
    expect(await run('a', 'prints', false)).toBe('done');
    expect(JSON.parse(text('a.json'))).toEqual({ adapter: 'gpu' });
    expect(await run('b', 'writes', false)).toBe('done');
    expect([text('b.json'), text('b.log')]).toEqual(['{"rows":[1]}', 'said\n']);
  });

  it('failed: with what it said', async () => {
    expect(await run('c', 'fails', false)).toBe('failed');
    expect(text('c.failed.log')).toBe('said\nexit code 3\n');
  });

  it('stopped when time is up: again later, or as far as it went where a call has no more', async () => {
    expect(await run('d', 'stays', false, 0.3)).toBe('stopped');
    expect(existsSync(join(folder, 'd.json'))).toBe(false);
    expect(existsSync(join(folder, 'd.partial.json'))).toBe(false);
    expect(await run('d', 'stays', true, 3)).toBe('done');
    expect(text('d.json')).toBe('{"rows":[1]}');
  });
});

it('a block: its dispatches, however many images', async () => {
  const device = await Device.open();
  const rows = await blockRows(device);
  device.dispose();
  expect(rows.map(({ batch }) => batch)).toEqual([1, 8]);
  for (const { dispatches, ops } of rows) {
    expect(ops).toHaveLength(dispatches);
    expect(ops.filter((op) => op === 'matmul')).toHaveLength(4);
    expect(ops.filter((op) => op === 'attention')).toHaveLength(1);
    expect(dispatches).toBeLessThanOrEqual(8);
  }
});

describe('goals', () => {
  const row = (work: string, peer: string, time: object) => ({ work, peer, ...time });
  const shape = 'matmul 320 x 768 x 3072';
  const stored: Record<string, unknown> = {
    doctor: { check: { checked: 90, wrong: [] } },
    tests: { success: false, numPassedTests: 900, numFailedTests: 1 },
    block: { rows: [{ dispatches: 7 }, { dispatches: 7 }] },
    'peers-matmul-320': {
      rows: [
        row(shape, 'emigm f16', { residentMs: 0.04 }),
        row(shape, 'PyTorch autocast', { residentMs: 0.02 }),
        row('matmul 320 x 768 x 768', 'emigm f16', { residentMs: 0.03 }),
        row('matmul 320 x 768 x 768', 'PyTorch autocast', { residentMs: 0.012 }),
        row('matmul 320 x 768 x 2304', 'emigm f16', { residentMs: 0.03 }),
        row('matmul 320 x 768 x 2304', 'PyTorch autocast', { skipped: 'no CUDA device' }),
      ],
    },
    'peers-matmul-1024': {
      rows: [
        row('matmul 1024 x 768 x 768', 'emigm f16', { residentMs: 0.01, wrong: true }),
        row('matmul 1024 x 768 x 768', 'PyTorch autocast', { residentMs: 0.02 }),
      ],
    },
    'peers-sampling-autocast-b-1': {
      rows: [
        row('sampling b-256, 16 steps, batch 1', 'emigm f16', { ms: 100 }),
        row('sampling b-256, 16 steps, batch 1', 'PyTorch autocast', { ms: 250 }),
      ],
    },
    'peers-sampling-compile-l-64': {
      rows: [
        row('sampling l-256, 16 steps, batch 64', 'emigm f16', { ms: 6400 }),
        row('sampling l-256, 16 steps, batch 64', 'PyTorch compile', { ms: 3200 }),
      ],
    },
    'peers-sampling-compile-h-64': {
      rows: [row('sampling h-256, 16 steps, batch 64', 'PyTorch compile', { ms: 3200 })],
    },
  };

  it('stand beside what the files say', () => {
    const goals = goalsOf((name) => stored[name]).map(({ measured, verdict }) => [measured, verdict]);
    expect(goals).toEqual([
      ['0 of 90', 'met'],
      ['1 fail, 900 pass', 'SHORT'],
      ['7', 'met'],
      ['-', 'not measured'], // 4096 cubed
      ['0.40 (matmul 320 x 768 x 768); 1 of 2', 'SHORT'],
      ['0.00 (matmul 1024 x 768 x 768); 0 of 1', 'SHORT'], // wrong numbers
      ['2.50 (100.0 ms an image)', 'met'],
      ['-', 'not measured'],
      ['-', 'not measured'],
      ['-', 'not measured'],
      ['0.50 (100.0 ms an image)', 'SHORT'],
      ['-', 'not measured'],
    ]);
  });

  it('as a table, also of nothing', () => {
    const lines = goalsMarkdown(goalsOf(() => undefined)).split('\n');
    expect(lines).toHaveLength(14);
    for (const line of lines.slice(2)) expect(line).toMatch(/^\| .+ \| .+ \| - \| not measured \|$/);
    expect(goalsMarkdown(goalsOf((name) => stored[name]))).toContain(
      '| eMIGM-B, batch 1, over PyTorch autocast | >= 2 |',
    );
  });
});
