/** Versions that a result depends on. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageFolder } from '../gpu/node.ts';

const versionIn = (folder: string): string =>
  JSON.parse(readFileSync(join(packageFolder(), folder, 'package.json'), 'utf8')).version;

export function versions(): Record<string, string> {
  return { 'emigm-wgsl': versionIn('.'), webgpu: versionIn('node_modules/webgpu'), node: process.version.slice(1) };
}
