/** `emigm bench nfe` and `emigm report`: files, going on after a kill, bad input. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import type { Row } from '../../src/measurement/schema.ts';
import { saveModel } from '../../src/models/checkpoint.ts';
import { saveDiscreteModel } from '../../src/models/discrete/file.ts';
import { parameterShapes } from '../../src/models/inception/architecture.ts';
import { emigm } from '../helpers/cli.ts';
import { toyCodebook, toyDiscrete, toyDiscreteSource } from '../helpers/discrete.ts';
import { formulaWeight } from '../helpers/golden.ts';
import { toyConfig, toySource } from '../helpers/toy.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-nfe-'));
const at = (...parts: string[]) => join(folder, ...parts);
const model = at('toy.safetensors');
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeAll(async () => {
  const read = async (name: string) => new Float32Array(await toySource(toyConfig).read(name));
  await saveModel(model, { config: toyConfig, info: { name: 'toy', sampling: { headSteps: 3, cfg: 2 } }, read });
});

const nfe = (...argv: string[]) => emigm(['bench', 'nfe', '--model', model, '--steps', '2,3', ...argv]);
const json = (...parts: string[]) => JSON.parse(readFileSync(at(...parts), 'utf8'));

describe('emigm bench nfe', () => {
  it('writes a report, then more points and repeats beside what is there', { timeout: 240_000 }, async () => {
    const result = await nfe('--batch', '1,2', '--repeat', '2', '--out', at('a'));
    expect(result.code, result.err).toBe(0);
    expect(result.out).toMatch(/\| steps \| batch \| NFE \|/);
    const files = ['figures', 'measurements.jsonl', 'nfe.csv', 'nfe.html', 'nfe.json', 'nfe.md'];
    expect(readdirSync(at('a')).sort()).toEqual(files);
    const first = json('a', 'nfe.json');
    expect(first).toMatchObject({ format: 'emigm-nfe', version: 1, repeats: 2 });
    expect(first.rows).toHaveLength(4);
    expect(first.rows[0].model.file.name).toBe('toy.safetensors');
    expect(readFileSync(at('a', 'nfe.json'), 'utf8')).not.toContain(folder);
    const before = readFileSync(at('a', 'measurements.jsonl'), 'utf8');

    const again = await nfe('--batch', '1', '--repeat', '3', '--no-kernels', '--out', at('a'), '--quiet');
    expect([again.code, again.out]).toEqual([0, '']);
    const after = readFileSync(at('a', 'measurements.jsonl'), 'utf8');
    expect(after.startsWith(before)).toBe(true);
    expect(after.slice(before.length).trim().split('\n')).toHaveLength(2);
    const [row] = json('a', 'nfe.json').rows;
    expect(row.seconds.anImage.samples).toHaveLength(3);
    expect(row.seconds.anImage.samples.slice(0, 2)).toEqual(first.rows[0].seconds.anImage.samples);

    const seed = await nfe('--seed', '7', '--out', at('a'));
    expect([seed.code, seed.err]).toEqual([1, expect.stringMatching(/of another kind: options .*name another folder/)]);
  });

  it('that is killed goes on with what is on file', { timeout: 240_000 }, async () => {
    const argv = ['bench', 'nfe', '--model', model, '--steps', '2,3,4', '--repeat', '200', '--no-kernels'];
    const file = at('killed', 'measurements.jsonl');
    const child = spawn('node', ['--import', 'tsx', 'src/cli/main.ts', ...argv, '--out', at('killed')]);
    const lines = () => (existsSync(file) ? readFileSync(file, 'utf8').split('\n').length - 1 : 0);
    while (lines() < 8 && child.exitCode === null) await sleep(20);
    child.kill('SIGKILL');
    await once(child, 'exit');
    const kept = readFileSync(file, 'utf8');
    const whole = kept.slice(0, kept.lastIndexOf('\n') + 1);
    writeFileSync(file, `${whole}{"kind":"run","id":"to`);
    const rounds = whole
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
      .filter(({ kind }) => kind === 'run').length;
    expect(rounds).toBeLessThan(600);
    const repeats = Math.ceil(rounds / 3) + 1;
    const result = await emigm([...argv, '--repeat', String(repeats), '--out', at('killed')]);
    expect(result.code, result.err).toBe(0);
    const now = readFileSync(file, 'utf8');
    expect(now.startsWith(whole)).toBe(true);
    const keys = now
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
      .filter(({ kind }) => kind === 'run')
      .map(({ id, round }) => `${id} ${round}`);
    expect(keys).toHaveLength(3 * repeats);
    expect(new Set(keys).size).toBe(keys.length);
  });

  it('that is stopped by Ctrl-C says that it goes on', { timeout: 240_000 }, async () => {
    const stop = new AbortController();
    const running = emigm(
      ['bench', 'nfe', '--model', model, '--steps', '2', '--repeat', '500', '--out', at('stopped')],
      stop.signal,
    );
    const file = at('stopped', 'measurements.jsonl');
    while (!existsSync(file) || readFileSync(file, 'utf8').split('\n').length < 4) await sleep(10);
    stop.abort();
    const { code, err } = await running;
    expect(code).toBe(130);
    expect(err).toMatch(/what was measured is in .*measurements\.jsonl, and the same command goes on from there/);
    expect(readdirSync(at('stopped'))).toEqual(['measurements.jsonl']);
  });
});

describe('emigm bench nfe --quality', () => {
  const refuseReference = async (argv: readonly string[]) => {
    const { code, err } = await nfe(...argv, '--out', at('bad'));
    expect([code, err]).toEqual([
      1,
      expect.stringMatching(/statistics are of classifier .*, the images' of Inception/),
    ]);
  };

  it('measures each setting once, and writes it beside the times', { timeout: 600_000 }, async () => {
    const inception = at('inception.safetensors');
    const tensors = [...parameterShapes()].map(([name, shape]) => {
      return { name, dtype: 'F32' as const, shape, data: () => formulaWeight(name, shape, 1.5) };
    });
    await writeSafetensors(inception, tensors);
    const reference = at('reference.npz');
    const settings = ['--model', model, '--seed', '5', '--steps', '2'];
    const made = await emigm([
      'eval',
      'fid',
      '--generate',
      '3',
      ...settings,
      '--inception',
      inception,
      '-o',
      reference,
    ]);
    expect(made.code, made.err).toBe(0);
    const flags = ['--seed', '5', '--batch', '1,2', '--repeat', '1', '--no-kernels', '--out', at('q')];
    const quality = ['--quality', '3', '--reference', reference, '--inception', inception];
    const result = await nfe(...flags, ...quality);
    expect(result.code, result.err).toBe(0);
    const { rows } = json('q', 'nfe.json');
    const fid = (steps: number, batch: number) => {
      const row = rows.find((one: Row) => one.settings.steps === steps && one.batch === batch);
      expect(row.quality).toHaveLength(1);
      expect(row.quality[0]).toMatchObject({ name: 'FID', images: 3, reference: 'reference.npz' });
      return row.quality[0].value;
    };
    // The reference is of the very images of two steps.
    expect(fid(2, 1)).toBeCloseTo(0, 6);
    expect(fid(3, 1)).toBeGreaterThan(1e-3);
    expect([fid(2, 2), fid(3, 2)]).toEqual([fid(2, 1), fid(3, 1)]);
    expect(readdirSync(at('q', 'quality'))).toHaveLength(2);
    expect(readdirSync(at('q', 'figures'))).toContain('quality.svg');
    expect(result.out).toMatch(/\| device memory \| FID \|/);
    const before = readFileSync(at('q', 'measurements.jsonl'), 'utf8');
    expect((await nfe(...flags, ...quality)).code).toBe(0);
    expect(readFileSync(at('q', 'measurements.jsonl'), 'utf8')).toBe(before);

    // By a classifier's features too: beside FID, under its own name.
    const small = ['--extractor', 'clothing32', '--reference', at('small.npz')];
    const drawn = ['eval', 'fid', '--generate', '3', ...settings, ...small.slice(0, 2), '-o', at('small.npz')];
    expect((await emigm(drawn)).code).toBe(0);
    await refuseReference(['--quality', '3', '--inception', inception, '--reference', at('small.npz')]);
    const both = await nfe(...flags, '--quality', '3', ...small);
    expect(both.code, both.err).toBe(0);
    const name = expect.stringMatching(/^Fréchet distance \(classifier clothing32-classifier, \d+ features\)$/);
    const extractor = expect.stringMatching(/^classifier clothing32-classifier \(SHA-256 [\da-f]{8}\)$/);
    const [{ quality: figures }] = json('q', 'nfe.json').rows;
    expect(figures).toMatchObject([
      { name: 'FID', extractor: 'Inception-v3 (2015-12-05)' },
      { name, images: 3, reference: 'small.npz', extractor },
    ]);
    expect(figures[1].value).toBeCloseTo(0, 6);
    expect(readFileSync(at('q', 'nfe.csv'), 'utf8')).toContain(`"${figures[1].name}"`);
    expect(both.out).toContain(`| FID | ${figures[1].name} |`);
  });

  it('is refused where it means nothing', async () => {
    const random = await emigm(['bench', 'nfe', '--model', 'xs-256', '--quality', '50', '--out', at('bad')]);
    expect(random.err).toMatch(/needs trained weights; xs-256 has random ones/);
    expect((await nfe('--quality', '3', '--out', at('bad'))).err).toMatch(/needs 10 images or more, for the score/);
    expect(existsSync(at('bad'))).toBe(false);
  });
});

describe('emigm report', () => {
  it('lays runs side by side', { timeout: 240_000 }, async () => {
    const codes = at('codes.safetensors');
    const read = async (name: string) => new Float32Array(await toyDiscreteSource(toyDiscrete).read(name));
    const info = { name: 'toy codes', preset: 'mdm' };
    await saveDiscreteModel(codes, { config: toyDiscrete, info, codebook: toyCodebook, read });
    const flags = ['--cfg', '1', '--cfg-interval', '0,1', '--repeat', '1', '-q'];
    const [b, c] = [
      await nfe(...flags, '--model', `${model},${codes}`, '--out', at('b')),
      await nfe(...flags, '--kernel', 'matmul=reference', '--out', at('c')),
    ];
    expect([b.code, c.code], b.err + c.err).toEqual([0, 0]);
    expect(readFileSync(at('b', 'nfe.md'), 'utf8')).toMatch(/^\| toy codes \| 12 \| 2 \| - \| - \| 2 \| 0 \|/m);
    const refused = await emigm(['bench', 'nfe', '--model', codes, '--preset', 'emigm', '--out', at('bad')]);
    expect([refused.code, refused.err]).toEqual([1, expect.stringMatching(/take --preset maskgit or mdm with this/)]);
    const result = await emigm(['report', at('b', 'nfe.json'), at('c', 'nfe.json'), '--out', at('d')]);
    expect(result.code, result.err).toBe(0);
    expect(result.out).toMatch(/## Side by side/);
    expect(readdirSync(at('d')).sort()).toEqual(['figures', 'report.csv', 'report.html', 'report.md']);
    expect(readFileSync(at('d', 'report.csv'), 'utf8').trim().split('\r\n')).toHaveLength(7);
  });
});

describe('bad input ends in one line', () => {
  it.each([
    [['--steps', '4,x'], /positive whole number/],
    [
      ['--preset', 'maskgit'],
      /preset maskgit draws codes, toy.safetensors continuous tokens: take --preset mar or emigm/,
    ],
    [['--codes', '20000'], /16384 at most/],
    [['--codes', '2048'], /--codes counts for sizes with --preset maskgit or mdm/],
    [['--kernel', 'matmul=fast'], /must be one of matmul=default\|reference\|/],
    [['--head-steps', 'ddim25'], /--head-steps: dpm-solver takes a positive whole number, not ddim25/],
    [['--cfg-interval', '0.3,0.1'], /reversed; give 0.1,0.3/],
    // The toy's file recommends three head steps.
    [['--head-steps-last', '2,4'], /toy.safetensors steps=2 head-last=4 batch=1: --head-steps-last: 4 is more than 3/],
    [['--counts', 'expect'], /official, expected, floor. Did you mean expected\?/],
    [
      ['--model', 'xs-256', '--preset', 'mdm', '--share-early', '4'],
      /--share-early is for models with a diffusion head/,
    ],
    [['--model', 'b-255'], /b-255: no such file, nor a size; sizes are .* Did you mean b-256\?/],
    [['--vae', 'nosuch.ckpt'], /nosuch.ckpt: no such file/],
    [['--vae', 'weights/clothing32.safetensors'], /is no KL-16 or DC-AE/],
    [['--reference', 'x.npz'], /--reference counts with --quality/],
    [['--extractor', 'clothing32'], /--extractor counts with --quality/],
  ])('%s', async (argv, message) => {
    const result = await nfe(...argv, '--out', at('bad'));
    expect(result.code).toBeGreaterThan(0);
    expect(result.err).toMatch(message);
    expect(result.err).not.toContain('\n');
    expect(existsSync(at('bad'))).toBe(false);
  });

  it('reports that are none', async () => {
    writeFileSync(at('x.json'), '{');
    writeFileSync(at('y.json'), '{}');
    for (const [path, message] of [
      [at('x.json'), /is no JSON/],
      [at('y.json'), /no report of emigm bench nfe/],
      [at('z.json'), /no such file/],
    ] as const) {
      const result = await emigm(['report', path, '--out', at('bad')]);
      expect([result.code, result.err]).toEqual([1, expect.stringMatching(message)]);
    }
  });
});
