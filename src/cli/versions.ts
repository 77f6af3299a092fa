/** Versions that a result depends on. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { cpus } from 'node:os';
import { dirname, join } from 'node:path';
import type { Device } from '../gpu/device.ts';
import { packageFolder } from '../gpu/node.ts';
import type { Machine } from '../measurement/schema.ts';

const versionIn = (folder: string): string => JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).version;

/** Version of an installed package, wherever the package manager has put it. */
function versionOf(name: string): string {
  for (let folder = dirname(createRequire(import.meta.url).resolve(name)); ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json'))) return versionIn(folder);
    if (dirname(folder) === folder) return 'unknown';
  }
}

export function versions(): Record<string, string> {
  return { 'emigm-wgsl': versionIn(packageFolder()), webgpu: versionOf('webgpu'), node: process.version.slice(1) };
}

/** Of the working tree, `-dirty` when files differ from it; a bundle's as it was made; undefined elsewhere. */
export function commit(): string | undefined {
  const cwd = packageFolder();
  const bundle = join(cwd, 'bundle.json');
  if (existsSync(bundle)) return JSON.parse(readFileSync(bundle, 'utf8')).commit;
  if (!existsSync(join(cwd, '.git'))) return undefined;
  try {
    return execFileSync('git', ['describe', '--always', '--dirty', '--abbrev=12'], {
      cwd,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return undefined; // no git
  }
}

/** Number and name of the processors: `2 x NAME`. */
export function processorText(): string {
  const processors = cpus();
  return `${processors.length} x ${processors[0]?.model.trim() ?? 'unknown'}`;
}

/** What a measurement on the device was made with and on. */
export function machineOf({ name, driver, isCpu }: Device): Machine {
  return { adapter: name, driver, isCpu, cpu: processorText(), versions: versions(), commit: commit() };
}
