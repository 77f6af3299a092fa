import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { DecodePool } from '../../src/formats/decode_pool.ts';
import { centerCrop, readImage, writePng } from '../../src/formats/images.ts';
import { writeNpz } from '../../src/formats/npz.ts';
import { random } from '../helpers/golden.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-pool-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function picture(name: string, width: number, height: number): Promise<string> {
  const draw = random();
  const path = join(folder, name);
  const rgb = Uint8Array.from({ length: width * height * 3 }, () => draw.integer(0, 255));
  await writePng(path, { rgb, width, height });
  return path;
}

test('pictures are cropped as centerCrop does, many at once, each to its asker', async () => {
  const paths = await Promise.all(Array.from({ length: 9 }, (_, i) => picture(`p${i}.png`, 20 + 3 * i, 17 + i)));
  const pool = new DecodePool(2);
  const decoded = await Promise.all(paths.map((path) => pool.decode({ kind: 'picture', path, size: 8 })));
  for (const [i, path] of paths.entries()) {
    expect(decoded[i].data, path).toEqual(centerCrop(await readImage(path), 8).rgb);
    expect(decoded[i].shape).toEqual([8, 8, 3]);
  }
  await pool.close();
  await expect(pool.decode({ kind: 'picture', path: paths[0], size: 8 })).rejects.toThrow(/closed/);
});

test('an unreadable file is named, and the pool goes on', async () => {
  const good = await picture('good.png', 8, 8);
  const bad = join(folder, 'bad.jpg');
  writeFileSync(bad, 'no picture');
  const pool = new DecodePool(1);
  const all = await Promise.allSettled(
    [bad, good, join(folder, 'absent.png')].map((path) => pool.decode({ kind: 'picture', path, size: 8 })),
  );
  expect(all.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'rejected']);
  const reasons = all.map((one) => (one.status === 'rejected' ? one.reason : undefined));
  expect(reasons[0]).toMatchObject({ name: 'EmigmError', code: 'file', message: expect.stringContaining(bad) });
  expect(reasons[2].message).toContain('absent.png: no such file');
  await pool.close();
});

test('arrays of .npz files', async () => {
  const path = join(folder, 'latents.npz');
  const data = Float32Array.from({ length: 8 }, (_, i) => i / 3);
  await writeNpz(path, { moments: { dtype: 'F32', shape: [2, 2, 2], data } });
  const pool = new DecodePool(1);
  expect(await pool.decode({ kind: 'npz', path, array: 'moments' })).toEqual({ data, shape: [2, 2, 2] });
  await expect(pool.decode({ kind: 'npz', path, array: 'moments_flip' })).rejects.toThrow(
    /latents\.npz: has no array "moments_flip" \(it has moments\)/,
  );
  await pool.close();
});

test('closing rejects what is not done', async () => {
  const path = await picture('late.png', 300, 300);
  const pool = new DecodePool(1);
  const jobs = Promise.allSettled(Array.from({ length: 6 }, () => pool.decode({ kind: 'picture', path, size: 64 })));
  await pool.close();
  for (const job of await jobs) expect(job).toMatchObject({ status: 'rejected', reason: { code: 'aborted' } });
});

test('an idle pool does not keep the process alive', async () => {
  const path = await picture('alone.png', 9, 9);
  const url = new URL('../../src/formats/decode_pool.ts', import.meta.url).href;
  const script = `const { DecodePool } = await import(${JSON.stringify(url)});
    const pool = new DecodePool(1);
    const { data } = await pool.decode({ kind: 'picture', path: ${JSON.stringify(path)}, size: 4 });
    console.log(data.length);`;
  const args = ['--import', 'tsx', '--input-type=module', '-e', script];
  const { stdout, stderr, status } = spawnSync(process.execPath, args, {
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
    encoding: 'utf8',
    timeout: 60_000,
  });
  expect([stdout.trim(), stderr, status]).toEqual(['48', '', 0]);
});

test('a number of threads that cannot be', () => {
  expect(() => new DecodePool(0)).toThrow(/threads/);
});
