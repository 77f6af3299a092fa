import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findDrivers, unpackEmbeddedDriver } from '../../src/gpu/node.ts';

let root: string;
/** A library that can be loaded, to stand for NVIDIA's. */
let library: string;
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'emigm-drivers-'));
  library = join(await unpackEmbeddedDriver(), 'libvk_swiftshader.so');
});
afterAll(() => rmSync(root, { recursive: true }));

/** Folders for one case, with empty files of these names. */
function machine(name: string, files: readonly string[]) {
  const at = (folder: string) => join(root, name, folder);
  for (const folder of ['loader', 'other', 'libraries']) mkdirSync(at(folder), { recursive: true });
  for (const file of files) writeFileSync(at(file), 'no library');
  const folders = { loader: [at('loader')], other: [at('other')], libraries: [at('libraries')], cache: at('cache') };
  return { at, find: () => findDrivers(folders) };
}

describe.runIf(process.platform === 'linux' && process.arch === 'x64')('Vulkan drivers', () => {
  it('finds none, those that the loader knows, and those in other folders', () => {
    expect(machine('bare', []).find()).toEqual({ known: [], others: [] });
    const { at, find } = machine('both', ['loader/lvp_icd.json', 'other/nvidia_icd.json']);
    expect(find()).toEqual({ known: [at('loader/lvp_icd.json')], others: [at('other/nvidia_icd.json')] });
    const twice = machine('twice', ['loader/nvidia_icd.json', 'other/nvidia_icd.json']);
    expect(twice.find()).toEqual({ known: [twice.at('loader/nvidia_icd.json')], others: [] });
  });

  it('describes a library of NVIDIA that no file names, one that can be loaded', () => {
    const { at, find } = machine('library', ['libraries/libGLX_nvidia.so.0']);
    expect(find()).toEqual({ known: [], others: [] }); // it is no library
    copyFileSync(library, at('libraries/libEGL_nvidia.so.0'));
    expect(find()).toEqual({ known: [], others: [at('cache/libEGL_nvidia.json')] });
    const written = JSON.parse(readFileSync(at('cache/libEGL_nvidia.json'), 'utf8'));
    expect(written.ICD.library_path).toBe(at('libraries/libEGL_nvidia.so.0'));
  });

  it('leaves a file that names a library as it is while that can be loaded', () => {
    const { at, find } = machine('described', ['loader/nvidia_icd.json']);
    copyFileSync(library, at('libraries/libGLX_nvidia.so.0'));
    copyFileSync(library, at('libraries/libEGL_nvidia.so.0'));
    expect(find()).toEqual({ known: [at('loader/nvidia_icd.json')], others: [] });
  });
});
