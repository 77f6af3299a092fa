/**
 * Golden reference files: found in test/golden, or in the folder that EMIGM_GOLDEN names. Tests are
 * driven by what a file holds; a file that the folder lacks shows as a skipped test that says so.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, test } from 'vitest';
import { type StoredArray, toFloat32 } from '../../src/formats/dtype.ts';
import { parseSafetensors } from '../../src/formats/safetensors_parse.ts';

export { expectClose, type Random, random } from './numbers.ts';
export { formulaUniform, formulaWeight } from './formula.ts';

/** The folder of golden files. */
export function goldenFolder(): string {
  return process.env.EMIGM_GOLDEN || fileURLToPath(new URL('../golden', import.meta.url));
}

/** The path of a golden file, for readers that take a path. */
export function goldenPath(name: string): string {
  return join(goldenFolder(), name);
}

/** Names of golden files that match, `*` standing for any run of characters; subfolders as `folder/name`. */
export function goldenFiles(pattern = '*'): string[] {
  const folder = goldenFolder();
  if (!existsSync(folder)) return [];
  const expression = new RegExp(`^${pattern.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replace(/\*/g, '.*')}$`);
  const names = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(join(folder, '/').length).replaceAll('\\', '/'));
  return names.filter((name) => expression.test(name)).sort();
}

export interface Golden {
  readonly file: string;
  /** The tensor in its stored type. */
  get(name: string): StoredArray;
  f32(name: string): Float32Array<ArrayBuffer>;
  f64(name: string): Float64Array<ArrayBuffer>;
  shape(name: string): number[];
  has(name: string): boolean;
  /** Names of all tensors, or of those that begin with `prefix`. */
  names(prefix?: string): string[];
  /** A metadata value, parsed as JSON where it is JSON; throws when it is absent. */
  // biome-ignore lint/suspicious/noExplicitAny: what a key holds is known to the test that asks for it
  meta(key: string): any;
  metaKeys(): string[];
}

/** Loads a golden .safetensors file (the suffix may be left out). */
export function loadGolden(name: string): Golden {
  const file = name.endsWith('.safetensors') ? name : `${name}.safetensors`;
  const parsed = parseSafetensors(readFileSync(goldenPath(file)), file);
  const f64 = (tensor: string) => {
    const { dtype, data } = parsed.read(tensor);
    if (data instanceof BigInt64Array) return Float64Array.from(data, Number);
    return new Float64Array(dtype === 'F16' || dtype === 'BF16' ? toFloat32(dtype, data) : data);
  };
  return {
    file,
    get: (tensor) => parsed.read(tensor).data,
    f32: (tensor) => parsed.readFloat32(tensor),
    f64,
    shape: (tensor) => [...parsed.read(tensor).shape],
    has: (tensor) => parsed.tensors.has(tensor),
    names: (prefix = '') => [...parsed.tensors.keys()].filter((tensor) => tensor.startsWith(prefix)),
    metaKeys: () => Object.keys(parsed.metadata),
    meta: (key) => {
      if (!Object.hasOwn(parsed.metadata, key)) throw new Error(`${file} has no metadata "${key}"`);
      try {
        return JSON.parse(parsed.metadata[key]);
      } catch {
        return parsed.metadata[key];
      }
    },
  };
}

/**
 * Declares the tests of every golden .safetensors file that matches `pattern` (suffix optional).
 * `declare` runs while tests are collected and declares tests from the keys it finds in the file.
 */
export function describeGolden(pattern: string, declare: (golden: Golden) => void): void {
  describeGoldenFile(pattern.endsWith('.safetensors') ? pattern : `${pattern}.safetensors`, (file) =>
    declare(loadGolden(file)),
  );
}

/** As describeGolden, for golden files of any kind: `declare` gets the file's name. */
export function describeGoldenFile(pattern: string, declare: (file: string) => void): void {
  const files = goldenFiles(pattern);
  if (files.length === 0) {
    describe(`golden ${pattern}`, () => {
      test.skip(`absent: no ${pattern} in ${goldenFolder()}`, () => {});
    });
  }
  for (const file of files) describe(`golden ${file}`, () => declare(file));
}
