/** What browsers have and Node has not, for peers written for browsers: `navigator.gpu` on the adapter asked for. */
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { type OpenedAdapter, openAdapter } from '../../src/gpu/node.ts';
import { waitWithPauses } from '../../src/gpu/wait.ts';

/**
 * Installs `navigator.gpu`, whose one adapter is the engine's own, in the same Dawn with the same toggles. Waiting pauses
 * between Dawn's questions as the engine's own does: else one core is lost to asking, which is no matter of kernels.
 */
export async function installBrowser(choice: string | undefined): Promise<string> {
  const opened = await openAdapter(choice);
  patchPrototypes();
  const gpu = {
    wgslLanguageFeatures: opened.gpu.wgslLanguageFeatures,
    getPreferredCanvasFormat: () => 'bgra8unorm',
    requestAdapter: (options?: GPURequestAdapterOptions) => opened.gpu.requestAdapter(options),
  };
  const navigator = {
    gpu,
    userAgent: 'node',
    platform: 'linux',
    hardwareConcurrency: 2,
    maxTouchPoints: 0,
    vendor: '',
  };
  Object.defineProperty(globalThis, 'navigator', { value: navigator, configurable: true, writable: true });
  Object.assign(globalThis, { self: globalThis });
  serveFiles();
  setInterval(() => {}, 1000); // Node blocks on compilers of WebAssembly when it has nothing else to wait for
  kept.push(opened);
  const { description, device, vendor } = opened.adapter.info;
  return description || device || vendor;
}

const kept: OpenedAdapter[] = [];

type Patched = Record<string, (...args: unknown[]) => unknown>;
const prototypeOf = (name: string) => (globalThis as unknown as Record<string, { prototype: Patched }>)[name].prototype;

function patchPrototypes(): void {
  for (const [name, method] of [
    ['GPUBuffer', 'mapAsync'],
    ['GPUQueue', 'onSubmittedWorkDone'],
  ]) {
    const prototype = prototypeOf(name);
    const original = prototype[method];
    prototype[method] = function (...args) {
      return waitWithPauses(original.apply(this, args) as Promise<unknown>);
    };
  }
  // tfjs 4.22 nests a list of features in the list; browsers turn it into a string.
  const adapter = prototypeOf('GPUAdapter');
  const { requestDevice } = adapter;
  adapter.requestDevice = function (descriptor) {
    const { requiredFeatures = [], ...rest } = (descriptor ?? {}) as { requiredFeatures?: unknown[] };
    return requestDevice.call(this, { ...rest, requiredFeatures: requiredFeatures.flat() });
  };
  // Dawn for Node refuses views of shared memory, which the heap of a WebAssembly module with threads is.
  const queue = prototypeOf('GPUQueue');
  const { writeBuffer } = queue;
  queue.writeBuffer = function (buffer, offset, data, dataOffset, size) {
    const view = data as Uint8Array;
    const memory = data instanceof SharedArrayBuffer ? data : view.buffer;
    if (!(memory instanceof SharedArrayBuffer)) {
      const rest = [dataOffset, size].filter((value) => value !== undefined);
      return writeBuffer.call(this, buffer, offset, data, ...rest);
    }
    const unit = view.BYTES_PER_ELEMENT ?? 1;
    const skipped = ((dataOffset as number | undefined) ?? 0) * unit;
    const bytes = size === undefined ? view.byteLength - skipped : (size as number) * unit;
    const copy = new Uint8Array(memory, (view.byteOffset ?? 0) + skipped, bytes).slice();
    return writeBuffer.call(this, buffer, offset, copy);
  };
}

/** `fetch` of a file, as WebAssembly is loaded. */
function serveFiles(): void {
  const original = globalThis.fetch;
  globalThis.fetch = async (request, init) => {
    const url = String(request instanceof Request ? request.url : request);
    if (!url.startsWith('file:')) return original(request, init);
    const type = url.endsWith('.wasm') ? 'application/wasm' : 'application/octet-stream';
    return new Response(readFileSync(new URL(url)), { headers: { 'content-type': type } });
  };
}

/** Iterator helpers of Node 22, of which jax-js uses some. */
export function addIteratorHelpers(): void {
  type Values = Iterable<unknown>;
  const prototype = Object.getPrototypeOf(Object.getPrototypeOf([][Symbol.iterator]())) as Record<string, unknown>;
  for (const name of ['map', 'filter', 'flatMap'] as const) {
    prototype[name] ??= function (this: Values, f: (value: unknown) => unknown) {
      return ([...this][name] as (g: typeof f) => unknown[])(f)[Symbol.iterator]();
    };
  }
  for (const name of ['reduce', 'some', 'every', 'find', 'forEach'] as const) {
    prototype[name] ??= function (this: Values, ...args: unknown[]) {
      return ([...this][name] as (...given: unknown[]) => unknown)(...args);
    };
  }
  prototype.toArray ??= function (this: Values) {
    return [...this];
  };
}

/** CommonJS packages of this folder. */
export const require = createRequire(import.meta.url);
