/** Starts: cold ones find empty caches, warm ones what the cold start left; the result says where its numbers come from. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { startup } from '../../bench/startup.ts';
import type { Io } from '../../src/cli/io.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-startup-test-'));
afterAll(() => rmSync(folder, { recursive: true }));
const out = join(folder, 'startup.json');
const said: string[] = [];
const io: Io = {
  out: (line) => said.push(line),
  err: () => {},
  columns: undefined,
  signal: new AbortController().signal,
};

/** Stands in for the program: takes its flags, and says for how many starts each cache has been there. */
const program = join(folder, 'main.mjs');
writeFileSync(
  program,
  `import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
const value = (flag) => process.argv[process.argv.indexOf(flag) + 1];
if (value('--adapter') === 'none') { console.error('emigm: no such adapter'); process.exit(1); }
const starts = ['XDG_CACHE_HOME', 'EMIGM_CACHE', 'MESA_SHADER_CACHE_DIR', '__GL_SHADER_DISK_CACHE_PATH'].map((name) => {
  const file = process.env[name] + '/' + name;
  const before = existsSync(file) ? Number(readFileSync(file)) : 0;
  mkdirSync(process.env[name], { recursive: true });
  writeFileSync(file, String(before + 1));
  return before;
});
const [modules, device, weights, kernels] = starts;
const firstImage = { total: modules + device + weights + kernels, modules, device, weights, kernels, drawing: 0 };
mkdirSync(value('--out'), { recursive: true });
const said = { adapter: value('--adapter').toUpperCase(), driver: process.env.EMIGM_TUNING, seconds: { firstImage } };
writeFileSync(value('--out') + '/sample.json', JSON.stringify(said));
`,
);

it('adapters and builds each begin with empty caches', async () => {
  const argv = ['--adapter', 'a,b', '--rounds', '1', '--main', program, '--against', program, '--out', out];
  const rows = await startup(argv, io);
  const kinds = rows.map(({ build, adapter, start }) => `${build} ${adapter} ${start}`);
  expect(kinds).toEqual(
    ['this A', 'this B', 'against A', 'against B'].flatMap((one) => [`${one} cold`, `${one} warm`]),
  );
  for (const { start, process, firstImage, driver } of rows) {
    expect(firstImage!.total).toEqual({ median: start === 'cold' ? 0 : 4, spread: 0, samples: 1 });
    expect(firstImage!.kernels.median).toBe(start === 'cold' ? 0 : 1);
    expect(process.median).toBeGreaterThan(0);
    expect(driver).toBe('off'); // measured choices of this machine play no part
  }
  const written = JSON.parse(readFileSync(out, 'utf8'));
  expect(written.rows).toEqual(JSON.parse(JSON.stringify(rows)));
  expect(written).toMatchObject({ adapter: 'A, B', driver: 'off' });
  expect(written.command).toBe(
    'npx tsx bench/startup.ts --adapter a,b --rounds 1 --main main.mjs --against main.mjs --out startup.json',
  );
  expect(said[0].split('\n')[2]).toMatch(/^A +this +warm +4\.00 +0 % +1\.00 +1\.00 +1\.00 +1\.00 +0\.00 /);
});

it('says what the program said when it fails', async () => {
  const argv = ['--adapter', 'none', '--rounds', '1', '--main', program];
  await expect(startup(argv, io)).rejects.toThrow('none: emigm: no such adapter');
});
