/**
 * Opens WebGPU under Node: which Vulkan driver, which loader, which adapter.
 * With adapter_cache.ts, src/formats and src/cli the only place that touches `node:` modules.
 */
import { constants } from 'node:os';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { homedir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { brotliDecompressSync } from 'node:zlib';
import { EmigmError } from '../errors.ts';

/** `auto`, `gpu`, `lavapipe`, `swiftshader`, `null` (compiles, computes nothing) or a part of an adapter's name. */
export type AdapterChoice = string;

export interface OpenedAdapter {
  /** Kept alive as long as the adapter is used, or the process may crash at exit. */
  gpu: GPU;
  adapter: GPUAdapter;
  /** How the driver was found, for people. */
  driver: string;
}

const RTLD_NODELETE = 0x1000;
/** Where the Vulkan loader looks for drivers by itself, and one folder more that machines mount NVIDIA's into. */
const LOADER_FOLDERS = ['/etc', '/usr/local/etc', '/usr/share', '/usr/local/share'].map((at) => `${at}/vulkan/icd.d`);
const OTHER_FOLDERS = ['/usr/local/nvidia/share/vulkan/icd.d'];
const LIBRARY_FOLDERS = [
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib/x86_64-linux-gnu/nvidia/current',
  '/usr/lib64',
  '/usr/lib',
  '/usr/local/nvidia/lib64',
  '/usr/local/nvidia/lib',
];
/** NVIDIA's driver. Its own description names the first, which needs the X libraries; the second does without. */
const NVIDIA_LIBRARIES = ['libGLX_nvidia.so.0', 'libEGL_nvidia.so.0'];
const LAVAPIPE_ICDS = ['/usr/share/vulkan/icd.d/lvp_icd.json', '/usr/share/vulkan/icd.d/lvp_icd.x86_64.json'];
/** Folder for things that can be made again: the unpacked driver, tuning results. */
export function cacheFolder(): string {
  return process.env.EMIGM_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'emigm-wgsl');
}

/** Folder of the package: where kernels/ and weights/ are. */
export function packageFolder(): string {
  return dirname(dirname(dirname(fileURLToPath(import.meta.url))));
}

/** Source of `kernels/<path>.wgsl`, or of a file given by its own path when it ends in `.wgsl`. */
export function readKernelSource(path: string): string {
  const file = path.endsWith('.wgsl') ? path : join(packageFolder(), 'kernels', `${path}.wgsl`);
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    throw new EmigmError('kernel', `kernel file ${file} cannot be read`, { cause });
  }
}

/**
 * Folder of the CPU driver and Vulkan loader: a bundle's, else unpacked from what `@sparticuz/chromium` carries, once,
 * into the cache folder. Safe when several processes do it at the same time: unpacked beside, then renamed.
 */
export async function unpackEmbeddedDriver(): Promise<string> {
  const bundled = join(packageFolder(), 'driver');
  if (existsSync(join(bundled, 'vk_swiftshader_icd.json'))) return bundled;
  const require = createRequire(import.meta.url);
  let archive: string;
  try {
    archive = join(dirname(require.resolve('@sparticuz/chromium')), '..', '..', 'bin', 'swiftshader.tar.br');
    if (!existsSync(archive))
      archive = findUp(dirname(require.resolve('@sparticuz/chromium')), 'bin/swiftshader.tar.br');
  } catch (cause) {
    throw new EmigmError('adapter', 'the embedded CPU driver is missing: run npm ci', { cause });
  }
  const { version } = JSON.parse(readFileSync(join(dirname(dirname(archive)), 'package.json'), 'utf8'));
  const folder = join(cacheFolder(), `swiftshader-${version}`);
  if (existsSync(join(folder, 'vk_swiftshader_icd.json'))) return folder;
  const { extract } = await import('tar-fs');
  const partial = `${folder}.${process.pid}.partial`;
  mkdirSync(partial, { recursive: true });
  await pipeline(Readable.from([brotliDecompressSync(readFileSync(archive))]), extract(partial));
  try {
    renameSync(partial, folder);
  } catch (cause) {
    rmSync(partial, { recursive: true, force: true });
    if (!existsSync(folder)) throw new EmigmError('adapter', `cannot write the CPU driver to ${folder}`, { cause });
  }
  return folder;
}

function findUp(from: string, name: string): string {
  for (let at = from; ; at = dirname(at)) {
    if (existsSync(join(at, name))) return join(at, name);
    if (dirname(at) === at) throw new Error(`${name} not found above ${from}`);
  }
}

/** Loads a shared library and keeps it, so that Dawn's own dlopen finds it by name. */
function loadLibrary(path: string): void {
  const { RTLD_NOW } = constants.dlopen;
  try {
    process.dlopen({ exports: {} } as NodeModule, path, RTLD_NOW | RTLD_NODELETE);
  } catch (error) {
    // Node complains that a plain library is no addon; by then it is loaded, which is all that is wanted.
    if (!/did not self-register/.test(String(error))) throw error;
  }
}

function useDriver(icd: string): void {
  process.env.VK_DRIVER_FILES = icd;
  process.env.VK_ICD_FILENAMES = icd;
}

/** Loads a shared library, if there is one that can be loaded. */
function canLoad(path: string): boolean {
  try {
    loadLibrary(path);
    return true;
  } catch {
    return false;
  }
}

/** Files that describe Vulkan drivers, as the loader reads them, in these folders. */
function driverFiles(folders: readonly string[]): string[] {
  return folders.flatMap((folder) => {
    if (!existsSync(folder)) return [];
    const names = readdirSync(folder).filter((name) => name.endsWith('.json'));
    return names.sort().map((name) => join(folder, name));
  });
}

/** Where `findDrivers` looks. */
export interface DriverFolders {
  loader: readonly string[];
  other: readonly string[];
  libraries: readonly string[];
  cache: string;
}

/**
 * Files of Vulkan drivers that the loader would not find by itself: in folders that it does not know, and where NVIDIA's
 * library is there but no file that names one that can be loaded, as in many containers, one written into the cache
 * folder. `known` are those that it finds.
 */
export function findDrivers(folders: Partial<DriverFolders> = {}): { known: string[]; others: string[] } {
  const { loader = LOADER_FOLDERS, other = OTHER_FOLDERS, libraries = LIBRARY_FOLDERS, cache } = folders;
  const known = driverFiles(loader);
  const others = driverFiles(other).filter((file) => !known.some((one) => basename(one) === basename(file)));
  const listed = process.env.LD_LIBRARY_PATH?.split(':').filter(Boolean) ?? [];
  const paths = (name: string) => [...listed, ...libraries].map((at) => join(at, name)).filter((at) => existsSync(at));
  const library = NVIDIA_LIBRARIES.flatMap(paths).find(canLoad);
  const described = [...known, ...others].some((file) => /nvidia/i.test(basename(file)));
  if (library && !(described && basename(library) === NVIDIA_LIBRARIES[0]))
    others.push(writeDriverFile(cache ?? cacheFolder(), library));
  return { known, others };
}

function writeDriverFile(cache: string, library: string): string {
  const file = join(cache, `${basename(library).split('.')[0]}.json`);
  const content = JSON.stringify({
    file_format_version: '1.0.1',
    ICD: { library_path: library, api_version: '1.3.0' },
  });
  mkdirSync(cache, { recursive: true });
  const partial = `${file}.${process.pid}.partial`;
  writeFileSync(partial, content);
  renameSync(partial, file);
  return file;
}

async function useEmbeddedDriver(): Promise<void> {
  const folder = await unpackEmbeddedDriver();
  useDriver(join(folder, 'vk_swiftshader_icd.json'));
  loadLibrary(join(folder, 'libvulkan.so.1'));
}

// Without robustness SwiftShader runs matmuls 1.3 to 1.45 times as fast; EMIGM_ROBUST=1 (tests) keeps every access checked.
// No kernel reads workgroup memory before it writes it (test/ops/races.test.ts): it need not be cleared first, which costs
// GPUs a pass over it and SwiftShader most of the time that it compiles for.
const TOGGLES = [
  'allow_unsafe_apis',
  'vulkan_enable_f16_on_nvidia',
  'use_vulkan_memory_model',
  'disable_workgroup_init',
];
const toggles = () => (process.env.EMIGM_ROBUST === '1' ? TOGGLES : [...TOGGLES, 'disable_robustness']).join(',');

async function createGpu(backend?: string): Promise<GPU> {
  const { create, globals } = await import('webgpu').catch((cause) => {
    throw new EmigmError('adapter', `Dawn cannot be loaded (on Linux it needs glibc 2.34): ${cause.message}`, {
      cause,
    });
  });
  for (const [name, value] of Object.entries(globals)) (globalThis as Record<string, unknown>)[name] ??= value;
  return create([
    `enable-dawn-features=${toggles()}`,
    'disable-dawn-features=timestamp_quantization',
    ...(backend ? [`backend=${backend}`] : []),
  ]);
}

type AdapterNames = Pick<GPUAdapterInfo, 'vendor' | 'architecture' | 'device' | 'description'>;

/** All that an adapter calls itself. */
const describe = ({ vendor, architecture, device, description }: AdapterNames): string =>
  [description, device, vendor, architecture].filter(Boolean).join(' ');

/** A driver that runs kernels on the CPU. */
export const isCpuDriver = (info: AdapterNames): boolean => /llvmpipe|swiftshader/i.test(describe(info));

/**
 * An adapter's name for people and for result files. Dawn describes the driver and names the hardware apart: of a CPU
 * driver the description says all, of a GPU which one it is comes first: `nvidia-h100-80gb-hbm3 (NVIDIA: 570.133.20)`.
 */
export function adapterName(info: AdapterNames): string {
  const { vendor, architecture, device, description } = info;
  const hardware = device || `${vendor} ${architecture}`.trim();
  if (!description) return hardware;
  return isCpuDriver(info) || !hardware ? description : `${hardware} (${description})`;
}

/** The system has no Vulkan loader: the one that was loaded for the first device is found under its name by the next. */
let hasEmbeddedLoader = false;

const canEmbed = () => process.platform === 'linux' && process.arch === 'x64';

/**
 * Opens the adapter that `choice` names (default: `EMIGM_ADAPTER`, else `auto`).
 * `auto`: a hardware adapter, else a system Vulkan CPU driver, else the embedded CPU driver (Linux x64).
 * @throws EmigmError 'adapter' when there is none, saying what to install.
 */
export async function openAdapter(choice: AdapterChoice = process.env.EMIGM_ADAPTER || 'auto'): Promise<OpenedAdapter> {
  if (choice === 'null') {
    const gpu = await createGpu('null');
    const adapter = await gpu.requestAdapter();
    if (!adapter) throw new EmigmError('adapter', "Dawn's null backend gave no adapter");
    return { gpu, adapter, driver: "Dawn's null backend" };
  }
  let driver = process.platform === 'linux' ? 'system Vulkan driver' : 'system driver';
  const embedded = async (): Promise<void> => {
    await useEmbeddedDriver();
    driver = 'embedded SwiftShader';
  };

  if (choice === 'swiftshader') {
    if (!canEmbed()) throw new EmigmError('adapter', 'the embedded CPU driver exists for Linux x64 only');
    await embedded();
  } else if (process.platform === 'linux') {
    if (choice === 'lavapipe') {
      const icd = LAVAPIPE_ICDS.find((path) => existsSync(path));
      if (icd) useDriver(icd);
    }
    process.env.XDG_RUNTIME_DIR ||= '/tmp'; // Mesa complains without it
    const named = process.env.VK_DRIVER_FILES || process.env.VK_ICD_FILENAMES;
    const { known, others } = named ? { known: [named], others: [] } : findDrivers();
    if (!hasEmbeddedLoader && canLoad('libvulkan.so.1')) {
      if (others.length > 0) useDriver([...known, ...others].join(':'));
    } else if (canEmbed() && known.length + others.length > 0) {
      loadLibrary(join(await unpackEmbeddedDriver(), 'libvulkan.so.1'));
      useDriver([...known, ...others].join(':'));
      hasEmbeddedLoader = true;
      driver = 'system Vulkan driver, embedded Vulkan loader';
    } else if (canEmbed() && choice === 'auto') {
      await embedded();
    }
  }

  let gpu = await createGpu();
  let adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter && choice === 'auto' && canEmbed() && driver !== 'embedded SwiftShader') {
    await embedded();
    gpu = await createGpu();
    adapter = await gpu.requestAdapter();
  }
  if (!adapter) throw new EmigmError('adapter', `no usable adapter for '${choice}': ${advice()}`);

  const name = describe(adapter.info);
  const cpu = isCpuDriver(adapter.info);
  const wanted: Record<string, boolean> = {
    auto: true,
    gpu: !cpu,
    lavapipe: /llvmpipe/i.test(name),
    swiftshader: /swiftshader/i.test(name),
  };
  if (!(wanted[choice] ?? name.toLowerCase().includes(choice.toLowerCase()))) {
    throw new EmigmError(
      'adapter',
      `the adapter found is '${adapterName(adapter.info)}', not '${choice}': ${advice()}`,
    );
  }
  return { gpu, adapter, driver };
}

function advice(): string {
  if (process.platform !== 'linux') return 'update the graphics driver';
  return (
    'install a GPU driver with Vulkan, or Mesa lavapipe 25 or newer (Debian: mesa-vulkan-drivers)' +
    (canEmbed() ? ', or use --adapter swiftshader' : '')
  );
}
