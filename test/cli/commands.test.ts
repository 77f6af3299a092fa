import { execFileSync, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { doctor } from '../../src/cli/doctor.ts';
import { openModel } from '../../src/models/checkpoint.ts';
import { parameterCounts } from '../../src/models/config.ts';
import { emigm } from '../helpers/cli.ts';
import { goldenFiles, goldenPath, loadGolden } from '../helpers/golden.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const compiler = join(root, 'node_modules/typescript/bin/tsc');
const shipped = join(root, 'weights/clothing32.safetensors');
const folder = mkdtempSync(join(tmpdir(), 'emigm-cli-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Flags for what the golden checkpoints do not say: their heads, and without arguments their tokenizer. */
const UNTOLD = ['--encoder-heads', '2', '--channels', '4', '--vae-stride', '16'];
const checkpoints = goldenFiles('checkpoints/ckpt_ema_only*.pth');

async function failing(code: number, ...argv: string[]): Promise<string> {
  const result = await emigm(argv);
  expect(result.code, result.err).toBe(code);
  expect(result.err).toMatch(/^emigm: [^\n]+$/);
  return result.err;
}

describe('convert', () => {
  if (checkpoints.length === 0) test.skip('absent: no checkpoints/ckpt_ema_only*.pth', () => {});
  for (const name of checkpoints) {
    test(`${name}: configuration and weights are kept`, async () => {
      const out = join(folder, 'converted.safetensors');
      const { code, err, out: said } = await emigm(['convert', goldenPath(name), out, ...UNTOLD]);
      expect(err).toBe('');
      expect(code).toBe(0);
      expect(said).toContain('the raw mask_token is used');
      expect(said).toContain('inferred: ');
      const source = await openModel(goldenPath(name), { config: { encoderHeads: 2, channels: 4, vaeStride: 16 } });
      const model = await openModel(out);
      expect(model.config).toEqual(source.config);
      expect(model.info.maskToken).toBe('raw');
      const loaded = loadGolden('checkpoints/ckpt_ema_loaded');
      for (const tensor of model.names()) expect(await model.read(tensor), tensor).toEqual(loaded.f32(tensor));
      expect(model.maskTokenNote).toBe(source.maskTokenNote);
      await model.close();
      await source.close();
    });

    test(`${name}: half precision, averaged mask token, information from a file`, async () => {
      const out = join(folder, 'half.safetensors');
      const infoFile = join(folder, 'info.json');
      writeFileSync(infoFile, JSON.stringify({ name: 'tiny', sampling: { steps: 4 } }));
      const flags = ['--dtype', 'f16', '--averaged-mask-token', '--info', infoFile, '--quiet'];
      expect(await emigm(['convert', goldenPath(name), out, ...UNTOLD, ...flags])).toEqual({
        code: 0,
        out: '',
        err: '',
      });
      const model = await openModel(out);
      const { maskToken, sampling } = model.info;
      expect([model.info.name, maskToken, sampling?.steps]).toEqual(['tiny', 'averaged', 4]);
      expect(model.names().map((tensor) => model.dtype(tensor))).toEqual(model.names().map(() => 'F16'));
      await model.close();
    });
  }

  test('stopped by the user: exit code 130, nothing left', async () => {
    const before = readdirSync(folder);
    const stop = new AbortController();
    stop.abort();
    const result = await emigm(['convert', shipped, join(folder, 'stopped.safetensors')], stop.signal);
    expect(result).toEqual({ code: 130, out: '', err: '' });
    expect(readdirSync(folder)).toEqual(before);
  });

  test('refuses unusable paths and files', async () => {
    const copy = join(folder, 'copy.safetensors');
    const link = join(folder, 'link.safetensors');
    copyFileSync(shipped, copy);
    linkSync(copy, link);
    const out = join(folder, 'out.safetensors');
    for (const target of [copy, link, join(folder, '.', 'copy.safetensors')]) {
      expect(await failing(1, 'convert', copy, target)).toContain('is the input itself; name another file');
    }
    expect(readFileSync(copy).equals(readFileSync(shipped))).toBe(true);
    expect(await failing(1, 'convert', copy, folder)).toContain('is a folder; name a file in it');
    expect(await failing(1, 'convert', copy, join(folder, 'no', 'out'))).toContain('does not exist; make it first');
    expect(await failing(1, 'convert', join(folder, 'none.pth'), out)).toContain('none.pth: no such file');
    writeFileSync(join(folder, 'bad.json'), '{');
    expect(await failing(1, 'convert', copy, out, '--info', join(folder, 'bad.json'))).toContain('is no JSON');
    writeFileSync(join(folder, 'bad.json'), '{"classNames": ["a"]}');
    const names = await failing(1, 'convert', copy, out, '--info', join(folder, 'bad.json'));
    expect(names).toContain('1 class names for a model of 10 classes');
    writeFileSync(join(folder, 'short.safetensors'), readFileSync(shipped).subarray(0, 100_000));
    expect(await failing(1, 'convert', join(folder, 'short.safetensors'), out)).toContain('short.safetensors');
    expect(readdirSync(folder)).not.toContain('out.safetensors');
  });

  test('wrong use: exit code 2', async () => {
    expect(await failing(2, 'convert', 'a')).toContain("missing required argument 'out'");
    expect(await failing(2, 'convert', 'a', 'b', '--dtype', 'fp16')).toContain(
      'one of f32, f16, bf16. Did you mean f16?',
    );
    expect(await failing(2, 'convert', 'a', 'b', '--ema', '--raw')).toContain('cannot be used with');
    expect(await failing(2, 'convert', 'a', 'b', '--encoder-heads', '0')).toContain('positive whole number');
    expect(await failing(2, 'convert', 'a', 'b', '--dtyp', 'f16')).toContain('Did you mean --dtype?');
    expect(await failing(2, 'konvert')).toContain('Did you mean convert?');
  });
});

describe('inspect', () => {
  test('the shipped model: counts, configuration, information', async () => {
    const { code, out } = await emigm(['inspect', shipped, '--json', '--tensors', '--batch', '4']);
    expect(code).toBe(0);
    const report = JSON.parse(out);
    const { config, info, parameters, memory, tensors } = report;
    expect(parameters).toEqual(parameterCounts(config));
    const count = (shape: number[]) => shape.reduce((a, b) => a * b, 1);
    const stored = tensors
      .map(({ shape }: { shape: number[] }) => count(shape))
      .reduce((a: number, b: number) => a + b);
    expect(stored).toBe(parameters.total);
    expect(info.classNames).toHaveLength(config.classes);
    expect(info.sampling).toMatchObject({ steps: 16, headSteps: 8, cfg: 3, cfgInterval: [0, 1], maskSchedule: 'exp' });
    expect(memory.batch).toBe(4);
    expect(report.guessed).toEqual([]);
  });

  test('as text', async () => {
    const { out } = await emigm(['inspect', shipped, '--tensors']);
    expect(out).toContain('2,407,968: transformer 1,637,760, head 770,208');
    expect(out).toMatch(/class_emb\.weight +F16 +\[10, 128\] +1,280/);
    expect(out).toContain('for 16 guided images at once');
    expect(out).not.toContain('undefined');
  });

  for (const name of checkpoints) {
    test(`${name}: which mask token, what is inferred`, async () => {
      const { out } = await emigm(['inspect', goldenPath(name), ...UNTOLD]);
      expect(out).toContain('the raw mask_token is used, not its average, as the official evaluation does');
      expect(out).toMatch(/inferred .*mae true/);
      expect(await failing(1, 'inspect', goldenPath(name))).toMatch(/give --[a-z-]+ N$/);
    });
  }
});

describe('doctor', () => {
  const probe = async (kind: string) => ({ kind, problem: 'not here' });
  const captured = () => {
    const lines: string[] = [];
    const { signal } = new AbortController();
    return { lines, io: { out: (line: string) => lines.push(line), err: () => {}, columns: undefined, signal } };
  };

  test('the adapter of the tests: what it has and what will run on it', async () => {
    const { lines, io } = captured();
    await doctor({ json: true }, io, probe);
    const report = JSON.parse(lines.join('\n'));
    expect(report.chosen.name).not.toBe('');
    expect(report.chosen.limits.maxStorageBufferBindingSize).toBeGreaterThanOrEqual(2 ** 27);
    expect(report.chosen.kernels.map(({ op }: { op: string }) => op)).toContain('matmul');
    expect(report.found).toHaveLength(3);
    expect(report.versions.node).toBe(process.versions.node);
    expect(report.versions.webgpu).toMatch(/^\d+\.\d+\.\d+/);
  });

  test('no such adapter: the report all the same, then the error', async () => {
    const { lines, io } = captured();
    const flags = { adapter: 'no such adapter' };
    await expect(doctor(flags, io, async (kind) => ({ kind, name: 'found' }))).rejects.toThrow('no such adapter');
    expect(lines.join('\n')).toMatch(/chosen +none/);
    expect(lines.join('\n')).toContain('use --adapter gpu (or EMIGM_ADAPTER=gpu)');
    expect(await failing(1, 'doctor', '--only', '--adapter', 'no such adapter')).toContain('no such adapter');
  });
});

test('help: every command with examples', async () => {
  const { code, out } = await emigm(['--help']);
  expect(code).toBe(0);
  for (const command of ['convert', 'inspect', 'doctor']) {
    expect(out).toContain(command);
    expect((await emigm([command, '--help'])).out).toMatch(/Examples:\n {2}emigm /);
  }
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  expect((await emigm(['--version'])).out).toBe(version);
});

// A development bundle has no compiler.
test.runIf(existsSync(compiler))('as it is installed: compiled, started by node', () => {
  const build = join(root, 'node_modules/.cache/emigm-wgsl-test'); // where the dependencies are found
  mkdirSync(build, { recursive: true });
  copyFileSync(join(root, 'package.json'), join(build, 'package.json'));
  cpSync(join(root, 'kernels'), join(build, 'kernels'), { recursive: true });
  execFileSync(process.execPath, [compiler, '-p', root, '--outDir', join(build, 'dist'), '--declaration', 'false']);
  const main = join(build, 'dist/cli/main.js');
  expect(readFileSync(main, 'utf8')).toMatch(/^#!\/usr\/bin\/env node\n/);
  const start = (...argv: string[]) => spawnSync(process.execPath, [main, ...argv], { encoding: 'utf8' });
  const good = start('inspect', shipped);
  expect([good.status, good.stderr]).toEqual([0, '']);
  expect(good.stdout).toContain('clothing32');
  const bad = start('inspect', join(folder, 'none'));
  expect(bad.status).toBe(1);
  expect(bad.stderr).toMatch(/^emigm: .*none: no such file\n$/);
  expect(start('inspect').status).toBe(2);
});
