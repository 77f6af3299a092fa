/** What browsers have and Node has not, for peers written for browsers: `navigator.gpu` on the adapter asked for. */
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { create } from 'webgpu';
import { openAdapter } from '../../src/gpu/node.ts';
import { waitWithPauses } from '../../src/gpu/wait.ts';

/**
 * How peers that know nothing of Node are run. `plain`: Dawn as the npm package opens it, which is how users of these peers
 * get it. `shared`: with the engine's own ways around the kernels: Dawn without bounds checks, and pauses between the
 * questions whether the device is done, so that no core is lost to asking. What is left to compare are the kernels.
 */
export type Hosting = 'plain' | 'shared';

/** Installs `navigator.gpu` on the adapter asked for and what else browsers have; returns the adapter's name. */
export async function installBrowser({ adapter: choice, hosting }: { adapter?: string; hosting: Hosting }) {
  const opened = await openAdapter(choice); // names the driver in the environment, which other Dawns then open too
  const source = hosting === 'shared' ? opened.gpu : create(['enable-dawn-features=allow_unsafe_apis']);
  patchPrototypes();
  if (hosting === 'shared') waitAsEngine();
  const gpu = {
    wgslLanguageFeatures: source.wgslLanguageFeatures,
    getPreferredCanvasFormat: () => 'bgra8unorm',
    requestAdapter: (options?: GPURequestAdapterOptions) => source.requestAdapter(options),
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
  kept.push(opened, source);
  const { description, device, vendor } = opened.adapter.info;
  return description || device || vendor;
}

/** What Dawn needs to stay alive. */
const kept: object[] = [];

type Patched = Record<string, (...args: unknown[]) => unknown>;
const prototypeOf = (name: string) => (globalThis as unknown as Record<string, { prototype: Patched }>)[name].prototype;

function waitAsEngine(): void {
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
}

function patchPrototypes(): void {
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
