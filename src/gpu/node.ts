/**
 * Opens WebGPU under Node: which Vulkan driver, which loader, which adapter.
 * With src/formats and src/cli the only place that touches `node:` modules.
 */
import { constants } from 'node:os';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
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
const NVIDIA_ICDS = [
  '/usr/share/vulkan/icd.d/nvidia_icd.json',
  '/etc/vulkan/icd.d/nvidia_icd.json',
  '/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json',
];
const LAVAPIPE_ICDS = ['/usr/share/vulkan/icd.d/lvp_icd.json', '/usr/share/vulkan/icd.d/lvp_icd.x86_64.json'];
const SYSTEM_LOADERS = [
  '/usr/lib/x86_64-linux-gnu/libvulkan.so.1',
  '/usr/lib/aarch64-linux-gnu/libvulkan.so.1',
  '/usr/lib64/libvulkan.so.1',
  '/usr/lib/libvulkan.so.1',
  '/lib/x86_64-linux-gnu/libvulkan.so.1',
];

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
 * Unpacks the CPU driver and Vulkan loader that `@sparticuz/chromium` carries, once, into the cache folder.
 * Safe when several processes do it at the same time: unpacked beside, then renamed.
 */
export async function unpackEmbeddedDriver(): Promise<string> {
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

/** Loads a shared library for the whole process, so that Dawn's own dlopen finds it by name. */
function loadGlobally(path: string): void {
  const { RTLD_NOW, RTLD_GLOBAL } = constants.dlopen;
  try {
    process.dlopen({ exports: {} } as NodeModule, path, RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE);
  } catch (error) {
    // Node complains that a plain library is no addon; by then it is loaded, which is all that is wanted.
    if (!/did not self-register/.test(String(error))) throw error;
  }
}

function useDriver(icd: string): void {
  process.env.VK_DRIVER_FILES = icd;
  process.env.VK_ICD_FILENAMES = icd;
}

async function useEmbeddedDriver(): Promise<void> {
  const folder = await unpackEmbeddedDriver();
  useDriver(join(folder, 'vk_swiftshader_icd.json'));
  loadGlobally(join(folder, 'libvulkan.so.1'));
}

// Without robustness SwiftShader runs matmuls 1.3 to 1.45 times as fast; EMIGM_ROBUST=1 (tests) keeps every access checked.
const TOGGLES = ['allow_unsafe_apis', 'vulkan_enable_f16_on_nvidia', 'use_vulkan_memory_model'];
const toggles = () => (process.env.EMIGM_ROBUST === '1' ? TOGGLES : [...TOGGLES, 'disable_robustness']).join(',');

async function createGpu(backend?: string): Promise<GPU> {
  const { create, globals } = await import('webgpu');
  for (const [name, value] of Object.entries(globals)) (globalThis as Record<string, unknown>)[name] ??= value;
  return create([
    `enable-dawn-features=${toggles()}`,
    'disable-dawn-features=timestamp_quantization',
    ...(backend ? [`backend=${backend}`] : []),
  ]);
}

function describe(adapter: GPUAdapter): string {
  const { vendor, architecture, device, description } = adapter.info;
  return [description, device, vendor, architecture].filter(Boolean).join(' ');
}

const hasSystemLoader = () => SYSTEM_LOADERS.some((path) => existsSync(path));
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
    if (!hasSystemLoader()) {
      const nvidia = NVIDIA_ICDS.find((path) => existsSync(path));
      if (nvidia && canEmbed()) {
        loadGlobally(join(await unpackEmbeddedDriver(), 'libvulkan.so.1'));
        process.env.VK_DRIVER_FILES ??= nvidia;
        process.env.VK_ICD_FILENAMES ??= nvidia;
        driver = 'NVIDIA driver, embedded Vulkan loader';
      } else if (canEmbed() && choice === 'auto') {
        await embedded();
      }
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

  const name = describe(adapter);
  const cpu = /llvmpipe|swiftshader/i.test(name);
  const wanted: Record<string, boolean> = {
    auto: true,
    gpu: !cpu,
    lavapipe: /llvmpipe/i.test(name),
    swiftshader: /swiftshader/i.test(name),
  };
  if (!(wanted[choice] ?? name.toLowerCase().includes(choice.toLowerCase()))) {
    throw new EmigmError('adapter', `the adapter found is '${name}', not '${choice}': ${advice()}`);
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
