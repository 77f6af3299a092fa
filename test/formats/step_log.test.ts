import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { openStepLog, readStepLog } from '../../src/formats/step_log.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-log-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let made = 0;
const fresh = (content?: string) => {
  const path = join(folder, `${made++}.jsonl`);
  if (content !== undefined) writeFileSync(path, content);
  return path;
};
const line = (step: number, loss = step / 10) => ({ step, loss });
const text = (...steps: number[]) => steps.map((step) => `${JSON.stringify(line(step))}\n`).join('');

test('lines are on file as soon as they are appended', async () => {
  const path = fresh();
  const log = await openStepLog(path);
  log.append(line(1));
  log.append({ ...line(2), lr: 1e-4, note: 'zwei\nZeilen' });
  expect(await readStepLog(path)).toEqual([line(1), { ...line(2), lr: 1e-4, note: 'zwei\nZeilen' }]);
  expect(log.last).toBe(2);
  log.close();
});

test('a resumed run leaves one line for each step', async () => {
  const path = fresh(text(1, 2, 3, 4, 5));
  const log = await openStepLog(path, 3);
  expect(log.last).toBe(3);
  expect(readFileSync(path, 'utf8')).toBe(text(1, 2, 3));
  log.append(line(4, 9));
  log.close();
  expect(await readStepLog(path)).toEqual([line(1), line(2), line(3), line(4, 9)]);
  expect(readdirSync(folder).filter((name) => name.endsWith('.tmp'))).toEqual([]);
});

test('nothing to drop: the file is left alone', async () => {
  const path = fresh(text(1, 2));
  const before = statSync(path).ino;
  (await openStepLog(path, 2)).close();
  expect([statSync(path).ino, readFileSync(path, 'utf8')]).toEqual([before, text(1, 2)]);
});

test('from nothing, everything is dropped', async () => {
  const path = fresh(text(1, 2));
  (await openStepLog(path)).close();
  expect(readFileSync(path, 'utf8')).toBe('');
});

describe('a torn last line', () => {
  test.each(['{"step":3,"lo', '{"step":3,"loss":0.3}', '{', '\u0000\u0000'])('%j', async (torn) => {
    const path = fresh(text(1, 2) + torn);
    expect(await readStepLog(path)).toEqual([line(1), line(2)]);
    const log = await openStepLog(path, 7);
    expect(log.last).toBe(2); // even a whole line without its end is not trusted: more might have come
    log.append(line(3, 8));
    log.close();
    expect(await readStepLog(path)).toEqual([line(1), line(2), line(3, 8)]);
  });
});

test('a line said twice stays once', async () => {
  const path = fresh(text(1, 2, 2, 1, 3));
  (await openStepLog(path, 3)).close();
  expect(readFileSync(path, 'utf8')).toBe(text(1, 2, 3));
});

test('steps only ascend', async () => {
  const log = await openStepLog(fresh(text(1, 2)), 2);
  expect(() => log.append(line(2))).toThrow(/step 2 cannot follow step 2/);
  expect(() => log.append(line(2.5))).toThrow(/cannot follow/);
  log.close();
});

test('damage in the middle is told, not mended', async () => {
  for (const damaged of ['{"step":2,\n', '\n', '[1]\n', '{"loss":1}\n', 'null\n']) {
    const path = fresh(text(1) + damaged + text(3));
    await expect(readStepLog(path)).rejects.toThrow(/jsonl: line 2 is no JSON object with a step/);
    await expect(openStepLog(path, 3)).rejects.toThrow(/line 2/);
  }
  await expect(readStepLog(join(folder, 'absent'))).rejects.toThrow(/absent: no such file/);
});

test('not-a-number is null', async () => {
  const path = fresh();
  const log = await openStepLog(path);
  log.append(line(1, Number.NaN));
  log.close();
  expect(await readStepLog(path)).toEqual([{ step: 1, loss: null }]);
});

test('a process killed while it writes leaves whole lines, and one for each step after it is resumed', async () => {
  const path = fresh();
  const url = new URL('../../src/formats/step_log.ts', import.meta.url).href;
  const script = `const { openStepLog } = await import(${JSON.stringify(url)});
    const log = await openStepLog(${JSON.stringify(path)});
    for (let step = 1; ; step++) { log.append({ step, loss: Math.sin(step) }); if (step === 50) console.log('go'); }`;
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await new Promise((resolve) => child.stdout.once('data', resolve));
  child.kill('SIGKILL');
  await new Promise((resolve) => child.once('exit', resolve));
  const lines = await readStepLog(path);
  expect(lines.length).toBeGreaterThanOrEqual(50);
  const log = await openStepLog(path, 40);
  for (let step = 41; step <= 60; step++) log.append({ step, loss: Math.sin(step) });
  log.close();
  const all = await readStepLog(path);
  expect(all).toEqual(Array.from({ length: 60 }, (_, i) => ({ step: i + 1, loss: Math.sin(i + 1) })));
});
