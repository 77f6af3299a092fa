/** Shards of `emigm sample` and `emigm eval fid --generate`: the same images, exact statistics, kills. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shardOf } from '../../src/cli/shard_flags.ts';
import { readShard } from '../../src/evaluation/shard_file.ts';
import { openSafetensors, writeSafetensors } from '../../src/formats/safetensors.ts';
import { saveModel } from '../../src/models/checkpoint.ts';
import { parameterShapes } from '../../src/models/inception/architecture.ts';
import { emigm } from '../helpers/cli.ts';
import { formulaWeight } from '../helpers/golden.ts';
import { toyConfig, toySource } from '../helpers/toy.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-shards-'));
const at = (...parts: string[]) => join(folder, ...parts);
const [model, latentModel, inception] = ['toy', 'latent', 'inception'].map((name) => at(`${name}.safetensors`));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeAll(async () => {
  const read = async (name: string) => new Float32Array(await toySource(toyConfig).read(name));
  const info = { name: 'toy', sampling: { steps: 3, headSteps: 3, cfg: 2 } };
  await saveModel(model, { config: toyConfig, info, read });
  await saveModel(latentModel, { config: { ...toyConfig, vaeStride: 2, imageSize: 16 }, info, read });
  const tensors = [...parameterShapes()].map(([name, shape]) => {
    return { name, dtype: 'F32' as const, shape, data: () => formulaWeight(name, shape, 1.5) };
  });
  await writeSafetensors(inception, tensors);
});

const pngs = (name: string) =>
  readdirSync(at(name))
    .filter((file) => /^\d+-\d+\.png$/.test(file))
    .sort();
const same = (a: string, b: string) => readFileSync(a).equals(readFileSync(b));

/** Starts the command in a process of its own, and kills it when `enough`. */
async function killed(argv: readonly string[], enough: () => boolean): Promise<void> {
  const child = spawn('node', ['--import', 'tsx', 'src/cli/main.ts', ...argv], { stdio: 'ignore' });
  while (!enough() && child.exitCode === null) await sleep(5);
  expect(child.exitCode, 'killed before it was done').toBeNull();
  child.kill('SIGKILL');
  await once(child, 'exit');
}

describe('emigm sample --shard', () => {
  const draw = (...argv: string[]) => emigm(['sample', '-m', model, '-n', '5', '--seed', '3', ...argv]);

  it('any number of shards makes the same images; merge lists them', { timeout: 240_000 }, async () => {
    const whole = await draw('-o', at('whole'));
    expect(whole.code, whole.err).toBe(0);
    for (const count of [2, 4]) {
      const name = `of-${count}`;
      for (let index = 0; index < count; index++) {
        const result = await draw('-o', at(name), '--shard', `${index}/${count}`, '-b', String(index + 1));
        expect(result.code, result.err).toBe(0);
        expect(result.out).toMatch(new RegExp(`^shard ${index} of ${count}: \\d images`));
      }
      expect(pngs(name)).toHaveLength(15);
      for (const file of pngs('whole')) expect(same(at(name, file), at('whole', file)), file).toBe(true);
      const merged = await emigm(['merge', at(name)]);
      expect([merged.code, merged.out]).toEqual([0, expect.stringMatching(/lists 15 images of \d shards/)]);
      const [made, expected] = [name, 'whole'].map((one) => JSON.parse(readFileSync(at(one, 'sample.json'), 'utf8')));
      expect(made.images).toEqual(expected.images);
      expect(made.settings).toEqual(expected.settings);
      expect(made.shards.map(({ images }: { images: number }) => images).reduce((a: number, b: number) => a + b)).toBe(
        15,
      );
    }
  });

  it('a shard that is killed or lost is run again without touching the rest', { timeout: 240_000 }, async () => {
    const argv = ['sample', '-m', model, '-n', '150', '--seed', '3', '-o', at('killed'), '-b', '1'];
    const start = (index: number) => emigm([...argv, '--shard', `${index}/3`]);
    expect((await start(0)).code).toBe(0);
    const before = new Map(pngs('killed').map((file) => [file, statSync(at('killed', file)).mtimeMs]));
    expect(before.size).toBe(150);
    await killed([...argv, '--shard', '1/3'], () => pngs('killed').length >= 155);
    const kept = pngs('killed').length - 150;
    const unfinished = await emigm(['merge', at('killed')]);
    expect([unfinished.code, unfinished.err]).toEqual([
      1,
      expect.stringMatching(/shard 2 of 3 is missing .*--shard 2\/3/),
    ]);
    expect((await start(2)).code).toBe(0);
    const still = await emigm(['merge', at('killed')]);
    expect([still.code, still.err]).toEqual([
      1,
      expect.stringMatching(/shard 1 of 3 is missing or unfinished; .*--shard 1\/3/),
    ]);
    const again = await start(1);
    expect(again.code, again.err).toBe(0);
    const [, made, there] = /: (\d+) images, (\d+) were there/.exec(again.out)!.map(Number);
    expect(made + there).toBe(150);
    expect(there).toBeGreaterThanOrEqual(kept);
    for (const [file, time] of before) expect(statSync(at('killed', file)).mtimeMs, file).toBe(time);
    expect((await emigm(['merge', at('killed')])).code).toBe(0);

    // A picture that got lost: its shard alone is not done any more.
    const straight = await emigm(['sample', '-m', model, '-n', '150', '--seed', '3', '-o', at('straight'), '-c', '1']);
    expect(straight.code, straight.err).toBe(0);
    rmSync(at('killed', '1-0007.png'));
    expect((await emigm(['merge', at('killed')])).err).toMatch(/shard 1 of 3/);
    expect((await start(1)).out).toMatch(/: 1 images, 149 were there/);
    for (const file of pngs('straight')) expect(same(at('killed', file), at('straight', file)), file).toBe(true);
  });

  it('latents become one file, as of an undivided run', { timeout: 240_000 }, async () => {
    const latents = (...argv: string[]) => emigm(['sample', '-m', latentModel, '-n', '3', ...argv]);
    expect((await latents('-o', at('latents'))).code).toBe(0);
    for (const shard of ['0/2', '1/2']) expect((await latents('-o', at('halves'), '--shard', shard)).code).toBe(0);
    const merged = await emigm(['merge', at('halves'), '--json']);
    expect(merged.code, merged.err).toBe(0);
    expect(JSON.parse(merged.out)).toMatchObject({ images: 9, shards: 2 });
    const [a, b] = [at('latents', 'latents.safetensors'), at('halves', 'latents.safetensors')];
    expect(same(a, b)).toBe(true);
    const file = await openSafetensors(b);
    expect(file.tensors.get('latents')!.shape).toEqual([9, 3, 8, 8]);
    await file.close();
  });

  it('refuses what cannot be', async () => {
    const refused = async (message: RegExp, ...argv: string[]) => {
      const result = await draw(...argv);
      expect([result.code > 0, result.err]).toEqual([true, expect.stringMatching(message)]);
    };
    await refused(/must be i\/n/, '-o', at('bad'), '--shard', '2/2');
    await refused(/must be i\/n/, '-o', at('bad'), '--shard', 'one');
    await refused(/--save-steps needs all images at once/, '-o', at('bad'), '--shard', '0/2', '--save-steps');
    expect(existsSync(at('bad'))).toBe(false);
    await refused(/is of another run; name another --out folder/, '-o', at('of-2'), '--shard', '0/2', '--seed', '4');
    const nothing = await emigm(['merge', at('whole')]);
    expect(nothing.err).toMatch(/has no shards/);
  });
});

describe('emigm eval fid --generate', () => {
  const flags = ['--generate', '6', '-m', model, '--inception', inception, '--splits', '2', '--sfid', '--seed', '3'];
  const fid = (...argv: string[]) => emigm(['eval', 'fid', ...flags, ...argv]);

  it('shards merge to the statistics of one run, also when one is killed', { timeout: 600_000 }, async () => {
    const whole = await fid('--out', at('whole.npz'), '--json', '--batch', '3');
    expect(whole.code, whole.err).toBe(0);
    const expected = JSON.parse(whole.out);
    expect(expected.images).toMatchObject({ generated: 6, count: 6 });
    expect(expected.figures['Inception Score'].value).toBeGreaterThanOrEqual(1);

    const state = at('sums');
    expect((await fid('--state', state, '--shard', '0/2', '--batch', '2')).code).toBe(0);
    const argv = ['eval', 'fid', ...flags, '--state', state, '--shard', '1/2', '--save-every', '1', '--batch', '1'];
    const file = join(state, 'shard-001-of-002.npz');
    await killed(argv, () => existsSync(file));
    const kept = await readShard(file);
    expect(kept.set.count).toBeGreaterThanOrEqual(1);
    const early = await emigm(['merge', state]);
    expect([early.code, early.err]).toEqual([1, expect.stringMatching(/shard 1 of 2 is missing or unfinished/)]);
    const bytes = statSync(join(state, 'shard-000-of-002.npz')).mtimeMs;
    const again = await emigm(argv);
    expect(again.code, again.err).toBe(0);
    expect(again.out).toMatch(new RegExp(`3 images, ${3 - kept.set.count} of them now`));
    expect(statSync(join(state, 'shard-000-of-002.npz')).mtimeMs).toBe(bytes);

    const merged = await emigm(['merge', state, '--out', at('merged.npz'), '--splits', '2', '--json']);
    expect(merged.code, merged.err).toBe(0);
    expect(same(at('merged.npz'), at('whole.npz'))).toBe(true);
    const found = JSON.parse(merged.out);
    expect(found.figures).toEqual(expected.figures);
    expect(found.images).toMatchObject({ generated: 6, count: 6, shards: 2 });

    const against = await emigm(['merge', state, '--reference', at('whole.npz'), '--splits', '2']);
    expect(against.out).toMatch(/^FID +0\.0000$/m);
    expect(against.out).toMatch(/^sFID +0\.0000$/m);

    copyFileSync(file, join(state, 'shard-001-of-003.npz'));
    expect((await emigm(['merge', state])).err).toMatch(/shards of 2 and of 3/);
  });

  it('shards of a folder merge to the statistics of the whole', { timeout: 240_000 }, async () => {
    const pictures = at('pictures');
    mkdirSync(pictures);
    const drawn = pngs('whole').slice(0, 11);
    for (const name of drawn) copyFileSync(at('whole', name), join(pictures, name));
    const folder = ['eval', 'fid', '--images', pictures, '--extractor', 'clothing32', '--splits', '2'];
    const run = async (...argv: string[]) => {
      const result = await emigm([...folder, ...argv]);
      expect(result.code, result.err).toBe(0);
      return result.out;
    };
    const expected = JSON.parse(await run('--out', at('folder.npz'), '--json'));
    expect(expected.images).toMatchObject({ count: 11 });
    const state = at('folder-sums');
    const saved = ['--state', state, '--save-every', '2', '--batch'];
    expect(await run(...saved, '3', '--shard', '0/2')).toMatch(/^shard 0 of 2: 5 images; sums are in/);
    expect((await emigm(['merge', state])).err).toMatch(/shard 1 of 2 is missing/);
    await run(...saved, '4', '--shard', '1/2');
    expect(await run(...saved, '4', '--shard', '1/2')).toMatch(/^shard 1 of 2: 6 images, 0 of them now/);
    const merged = await emigm(['merge', state, '--out', at('of-folder.npz'), '--splits', '2', '--json']);
    expect(merged.code, merged.err).toBe(0);
    expect(same(at('of-folder.npz'), at('folder.npz'))).toBe(true);
    const found = JSON.parse(merged.out);
    expect(found.figures).toEqual(expected.figures);
    expect(found.images).toMatchObject({ count: 11, shards: 2, pictures: expect.stringMatching(/^[\da-f]{64}$/) });
    expect(found.images).not.toHaveProperty('generated');
    rmSync(join(pictures, drawn[0]));
    copyFileSync(at('whole', drawn[1]), join(pictures, 'other.png'));
    const other = await emigm([...folder, ...saved, '3', '--shard', '0/2']);
    expect([other.code, other.err]).toEqual([1, expect.stringMatching(/is of another run \(pictures differs\)/)]);
  });

  it('bad combinations end in one line', async () => {
    const refused = async (message: RegExp, ...argv: string[]) => {
      const result = await emigm(['eval', 'fid', '--inception', inception, ...argv]);
      expect([result.code > 0, result.err]).toEqual([true, expect.stringMatching(message)]);
      expect(result.err).not.toContain('\n');
    };
    await refused(/either --images <folder> or --generate <n>/);
    await refused(/either --images <folder> or --generate <n>/, '--images', folder, '--generate', '5');
    await refused(/needs a folder for its sums: --state/, '--generate', '5', '--shard', '0/2');
    await refused(/needs a folder for its sums: --state/, '--images', at('whole'), '--shard', '0/2');
    await refused(/makes latents; name a tokenizer/, '--generate', '2', '-m', latentModel);
  });
});

describe('the shard of a batch system', () => {
  const slurm = (id: number, count: number, min = 0, max = min + count - 1) => ({
    ...{ SLURM_ARRAY_TASK_ID: String(id), SLURM_ARRAY_TASK_COUNT: String(count) },
    ...{ SLURM_ARRAY_TASK_MIN: String(min), SLURM_ARRAY_TASK_MAX: String(max) },
  });

  it('is told by Slurm, by Kubernetes with a count, or by the flag before both', () => {
    expect(shardOf({}, {})).toBeUndefined();
    expect(shardOf({}, slurm(3, 8))).toEqual({ index: 3, count: 8 });
    expect(shardOf({}, { JOB_COMPLETION_INDEX: '5', EMIGM_SHARD_COUNT: '8' })).toEqual({ index: 5, count: 8 });
    expect(shardOf({}, { ...slurm(3, 1, 3), EMIGM_SHARD_COUNT: '8' })).toEqual({ index: 3, count: 8 });
    expect(shardOf({ shard: { index: 1, count: 2 } }, slurm(3, 8))).toEqual({ index: 1, count: 2 });
    expect(shardOf({ shard: { index: 0, count: 1 } }, slurm(3, 8))).toBeUndefined();
    expect(shardOf({}, slurm(0, 1))).toBeUndefined();
  });

  it('is refused where it would make other images than meant', () => {
    expect(() => shardOf({}, slurm(3, 1, 3))).toThrow(/numbered 3 to 3, not from 0 on: set EMIGM_SHARD_COUNT/);
    expect(() => shardOf({}, slurm(1, 8, 1))).toThrow(/numbered 1 to 8/);
    expect(() => shardOf({}, slurm(0, 2, 0, 3))).toThrow(/numbered 0 to 3/);
    expect(() => shardOf({}, { JOB_COMPLETION_INDEX: '5' })).toThrow(/of how many is not known/);
    expect(() => shardOf({}, { JOB_COMPLETION_INDEX: '8', EMIGM_SHARD_COUNT: '8' })).toThrow(/no shard of 8/);
  });
});
