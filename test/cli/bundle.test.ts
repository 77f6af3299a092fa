import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { bundle } from '../../src/cli/bundle.ts';
import { DEVELOPMENT_PACKAGES, neededFiles, neededPackages } from '../../src/cli/bundle_files.ts';
import type { Io } from '../../src/cli/io.ts';
import { emigm } from '../helpers/cli.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const lines: string[] = [];
const io: Io = {
  out: (line) => lines.push(line),
  err: (line) => lines.push(line),
  columns: undefined,
  signal: new AbortController().signal,
};
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'emigm-bundle-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('packages: what the product runs on and what that runs on, no tools, no second copy of the driver', () => {
  const names = neededPackages(root).map(({ name }) => name);
  for (const name of ['webgpu', 'sharp', 'commander', 'vega-lite', 'detect-libc']) expect(names).toContain(name);
  for (const name of ['typescript', 'vitest', 'tsx', '@sparticuz/chromium', 'tar-fs'])
    expect(names).not.toContain(name);
  if (process.platform === 'linux' && process.arch === 'x64') expect(names).toContain('@img/sharp-linux-x64');
});

test('packages of a development bundle: the tests', () => {
  const names = neededPackages(root, DEVELOPMENT_PACKAGES).map(({ name }) => name);
  for (const name of ['vitest', 'vite', 'rolldown', 'benchmark', 'webgpu']) expect(names).toContain(name);
  // Node strips types by itself; the others' binaries are large and for other work.
  for (const name of ['typescript', 'tsx', 'esbuild', 'lightningcss', '@sparticuz/chromium'])
    expect(names).not.toContain(name);
});

test('files: one platform, no types or maps, licences kept', () => {
  const packages = neededPackages(root);
  const webgpu = packages.find(({ name }) => name === 'webgpu')!;
  expect(neededFiles(webgpu)).toEqual(['LICENSE.md', 'dist/linux-x64/dawn.node', 'index.js', 'package.json']);
  for (const one of packages) {
    const files = neededFiles(one);
    expect(files.filter((file) => /\.(d\.[cm]?ts|map)$/.test(file))).toEqual([]);
  }
});

// No bundle is made from a bundle.
const makesBundles = process.platform === 'linux' && process.arch === 'x64' && !existsSync(join(root, 'bundle.json'));
describe.runIf(makesBundles)('a bundle', () => {
  test('draws an image with nothing of this checkout, no home, the environment empty', async () => {
    const product = join(root, 'node_modules/.cache/emigm-wgsl-bundle-test');
    mkdirSync(product, { recursive: true });
    for (const part of ['package.json', 'LICENSE', 'kernels', 'configs', 'weights'])
      cpSync(join(root, part), join(product, part), { recursive: true });
    if (!existsSync(join(product, 'node_modules')))
      symlinkSync(join(root, 'node_modules'), join(product, 'node_modules'));
    const tsc = join(root, 'node_modules/typescript/bin/tsc');
    execFileSync(process.execPath, [tsc, '-p', root, '--outDir', join(product, 'dist'), '--declaration', 'false']);

    const flags = { out: join(folder, 'made'), node: '', nodeBinary: process.execPath, archive: false };
    // What was copied has no tests; the Node that runs this may be too old to run TypeScript.
    await expect(bundle({ ...flags, development: true }, io, product)).rejects.toThrow(/needs a checkout/);
    const made = await bundle(flags, io, product);
    expect(lines.at(-1)).toBe(made.folder);
    expect(statSync(join(made.folder, 'emigm')).mode & 0o111).not.toBe(0);
    const { node, webgpu } = JSON.parse(readFileSync(join(made.folder, 'app/bundle.json'), 'utf8'));
    expect(node).toBe(process.versions.node);
    expect(webgpu).toMatch(/^\d/);

    // Through a link, from elsewhere, with no home to write to.
    symlinkSync(join(made.folder, 'emigm'), join(folder, 'link'));
    const env = { PATH: '/usr/bin:/bin', HOME: '/nonexistent' };
    const start = (...argv: string[]) => spawnSync(join(folder, 'link'), argv, { encoding: 'utf8', cwd: folder, env });
    const drawn = start('sample', '--adapter', 'swiftshader', '--class', 'dress', '-n', '1', '--steps', '2');
    expect([drawn.status, drawn.stderr]).toEqual([0, '']);
    expect(statSync(join(folder, 'out', 'dress-0000.png')).size).toBeGreaterThan(100);
    // vega and its many packages are loaded for figures alone.
    const figure = start('plot', '--axes', '--out', 'axes');
    expect([figure.status, figure.stderr]).toEqual([0, '']);
    const again = start('bundle');
    expect([again.status, again.stderr]).toEqual([1, 'emigm: this is a bundle already: copy its archive\n']);
  });

  test('what is wrong is said before anything is made', async () => {
    const none = await emigm([
      'bundle',
      '--out',
      join(folder, 'x'),
      '--node-binary',
      join(folder, 'none'),
      '--no-archive',
    ]);
    expect(none.code).toBe(1);
    expect(none.err).toMatch(/node-binary .*none: no such file/);
    expect(existsSync(join(folder, 'x'))).toBe(false);
    const path = process.env.PATH;
    process.env.PATH = folder; // neither tar nor xz
    try {
      expect((await emigm(['bundle', '--out', join(folder, 'y')])).err).toMatch(/needs the command tar: install it/);
    } finally {
      process.env.PATH = path;
    }
  });
});
