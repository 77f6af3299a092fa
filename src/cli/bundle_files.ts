/** Which installed packages a bundle needs, and which of their files. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import { EmigmError } from '../errors.ts';

interface Manifest {
  name?: string;
  version?: string;
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  main?: string;
  module?: string;
  exports?: unknown;
  imports?: unknown;
}

/** An installed package. */
export interface InstalledPackage {
  name: string;
  version: string;
  /** Where it is, and where it goes: a path from the bundle's app folder. */
  folder: string;
  target: string;
  manifest: Manifest;
}

/** Served by what a bundle carries unpacked, the CPU driver; and of the tests' packages one that is for style sheets alone. */
const LEFT_OUT = new Set(['@sparticuz/chromium', 'tar-fs', 'lightningcss']);

/** Packages that tests and benchmarks run on beside the product's own. */
export const DEVELOPMENT_PACKAGES = ['vitest', 'benchmark'];

const manifestOf = (folder: string): Manifest => JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));

/** The package `name` as Node finds it from `folder`. */
function resolve(name: string, folder: string): string | undefined {
  for (let at = folder; ; at = dirname(at)) {
    const candidate = join(at, 'node_modules', name);
    if (existsSync(join(candidate, 'package.json'))) return candidate;
    if (dirname(at) === at) return undefined;
  }
}

/**
 * Packages that the product in `root` needs to run, its own dependencies and theirs, and with `more` these and theirs; of
 * optional ones those that are installed. @throws EmigmError 'file' naming one that is missing
 */
export function neededPackages(root: string, more: readonly string[] = []): InstalledPackage[] {
  const found = new Map<string, InstalledPackage>();
  const visit = (folder: string, manifest: Manifest): void => {
    const optional = Object.keys(manifest.optionalDependencies ?? {});
    for (const name of new Set([...Object.keys(manifest.dependencies ?? {}), ...optional])) {
      if (LEFT_OUT.has(name)) continue;
      const at = resolve(name, folder);
      if (at === undefined) {
        if (optional.includes(name)) continue;
        throw new EmigmError('file', `the package ${name} is not installed: run npm ci`);
      }
      // Beside the product, or above it where it is itself installed as a package.
      const outer = at.startsWith(join(root, 'node_modules') + sep) ? root : at.split(`${sep}node_modules${sep}`)[0];
      const target = relative(outer, at);
      const known = found.get(target);
      if (known && known.folder !== at) throw new EmigmError('file', `${at} and ${known.folder} are two: run npm ci`);
      if (known) continue;
      const own = manifestOf(at);
      found.set(target, { name, version: own.version ?? '', folder: at, target, manifest: own });
      visit(at, own);
    }
  };
  const own = manifestOf(root);
  const asked = Object.fromEntries(more.map((name) => [name, '*']));
  visit(root, { ...own, dependencies: { ...own.dependencies, ...asked } });
  return [...found.values()].sort((a, b) => (a.target < b.target ? -1 : 1));
}

/** Never read at run time: types, source maps, documents (licences are kept), build files. */
const UNUSED = /\.(map|[cm]?ts|tsx|flow|md|markdown|html|ya?ml|lock|c|cc|h|gyp|tsbuildinfo)$|^\.|\.min\.js$/i;
const LICENCE = /^(licen[cs]e|notice|copying|copyright|third)/i;
const UNUSED_FOLDERS = new Set(['test', 'tests', '__tests__', 'docs', 'doc', 'example', 'examples', '.github']);

/** Files of packages that ship much besides what Linux on x64 loads. */
const ONLY: Record<string, RegExp> = {
  webgpu: /^(index\.js|dist[/\\]linux-x64[/\\].*)$/,
  wgsl_reflect: /^wgsl_reflect\.module\.js$/,
};

/** Files of the package that run, licences and its manifest, as paths within it. */
export function neededFiles({ name, folder, manifest }: InstalledPackage): string[] {
  const entries = JSON.stringify([manifest.main, manifest.module, manifest.exports, manifest.imports]);
  const files: string[] = [];
  const visit = (at: string): void => {
    for (const entry of readdirSync(join(folder, at), { withFileTypes: true })) {
      const path = join(at, entry.name);
      if (entry.isDirectory()) {
        const source = path === 'src' && !/"(\.\/)?src\//.test(entries);
        const nested = entry.name === 'node_modules'; // packages of their own
        if (!source && !nested && !UNUSED_FOLDERS.has(entry.name)) visit(path);
      } else if (LICENCE.test(entry.name) || path === 'package.json') files.push(path);
      else if (!UNUSED.test(entry.name) && (ONLY[name]?.test(path) ?? true)) files.push(path);
    }
  };
  visit('');
  return files.sort();
}
