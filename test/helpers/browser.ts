/** The headless Chromium of @sparticuz/chromium, spoken to over a pipe by the DevTools protocol. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { pathToFileURL } from 'node:url';
import { brotliDecompressSync } from 'node:zlib';
import { cacheFolder } from '../../src/gpu/node.ts';

/** The package's entry; a development bundle does not carry it. */
function entry(): string | undefined {
  try {
    return createRequire(import.meta.url).resolve('@sparticuz/chromium');
  } catch {
    return undefined;
  }
}

/** Whether this machine can run it: the package carries a binary for Linux x64. */
export const hasBrowser = process.platform === 'linux' && process.arch === 'x64' && entry() !== undefined;

/** The binary, unpacked once into the cache folder. */
function unpack(): string {
  const packed = dirname(dirname(dirname(entry()!)));
  const { version } = JSON.parse(readFileSync(join(packed, 'package.json'), 'utf8'));
  const path = join(cacheFolder(), `chromium-${version}`, 'chromium');
  if (existsSync(path)) return path;
  mkdirSync(dirname(path), { recursive: true });
  const partial = `${path}.${process.pid}.partial`;
  writeFileSync(partial, brotliDecompressSync(readFileSync(join(packed, 'bin', 'chromium.br'))), { mode: 0o755 });
  renameSync(partial, path);
  return path;
}

type Message = { id?: number; method?: string; params?: Record<string, unknown>; result?: unknown; error?: unknown };

export interface Tab {
  /** Sends a command of the DevTools protocol. */
  send<T = Record<string, unknown>>(method: string, params?: Record<string, unknown>): Promise<T>;
  /** The value of an expression in the page. */
  evaluate<T>(expression: string): Promise<T>;
  /** Width and height of the window in CSS pixels. */
  resize(width: number, height: number): Promise<void>;
  /** PNG of the whole page. */
  screenshot(): Promise<Buffer>;
  /** What the page has logged or thrown, and addresses that it asked for. */
  readonly problems: string[];
  readonly requests: string[];
}

/** Opens a file in a browser that has no network, and closes the browser after `use`. */
export async function withPage<T>(file: string, use: (tab: Tab) => Promise<T>): Promise<T> {
  const profile = mkdtempSync(join(tmpdir(), 'emigm-browser-'));
  const flags = ['--headless', '--no-sandbox', '--no-zygote', '--disable-gpu', '--remote-debugging-pipe'];
  const offline = ['--host-resolver-rules=MAP * ~NOTFOUND', '--disable-background-networking'];
  const child = spawn(unpack(), [...flags, ...offline, `--user-data-dir=${profile}`], {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
  });
  try {
    return await use(await openTab(child, file));
  } finally {
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

async function openTab(child: ChildProcess, file: string): Promise<Tab> {
  const [input, output] = [child.stdio[3] as Writable, child.stdio[4] as Readable];
  const waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  const listeners = new Map<string, (params: Record<string, unknown>) => void>();
  let next = 1;
  let rest = '';
  output.setEncoding('utf8').on('data', (chunk: string) => {
    const texts = (rest + chunk).split('\0');
    rest = texts.pop()!;
    for (const text of texts) {
      const { id, method, params, result, error }: Message = JSON.parse(text);
      if (method) listeners.get(method)?.(params!);
      if (id === undefined) continue;
      const call = waiting.get(id)!;
      waiting.delete(id);
      if (error) call.reject(new Error(JSON.stringify(error)));
      else call.resolve(result);
    }
  });
  child.once('exit', (code) => {
    for (const { reject } of waiting.values()) reject(new Error(`the browser ended with ${code}`));
  });
  const call = <T>(method: string, params: Record<string, unknown> = {}, sessionId?: string): Promise<T> => {
    const id = next++;
    input.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((resolve, reject) => waiting.set(id, { resolve: resolve as (value: unknown) => void, reject }));
  };
  const { targetId } = await call<{ targetId: string }>('Target.createTarget', { url: 'about:blank' });
  const { sessionId } = await call<{ sessionId: string }>('Target.attachToTarget', { targetId, flatten: true });
  const send: Tab['send'] = (method, params) => call(method, params, sessionId);
  const [problems, requests]: string[][] = [[], []];
  listeners.set('Runtime.consoleAPICalled', ({ args }) => problems.push(JSON.stringify(args)));
  listeners.set('Runtime.exceptionThrown', (params) => problems.push(JSON.stringify(params)));
  listeners.set('Log.entryAdded', ({ entry }) => problems.push(JSON.stringify(entry)));
  listeners.set('Network.requestWillBeSent', ({ request }) => requests.push((request as { url: string }).url));
  for (const domain of ['Page', 'Runtime', 'Log', 'Network']) await send(`${domain}.enable`);
  const loaded = new Promise<void>((resolve) => listeners.set('Page.loadEventFired', () => resolve()));
  await send('Page.navigate', { url: pathToFileURL(file).href });
  await loaded;
  return {
    send,
    problems,
    requests,
    async evaluate<T>(expression: string) {
      const { result } = await send<{ result: { value: T } }>('Runtime.evaluate', { expression, returnByValue: true });
      return result.value;
    },
    async resize(width, height) {
      const metrics = { width, height, deviceScaleFactor: 1, mobile: width < 600 };
      await send('Emulation.setDeviceMetricsOverride', metrics);
    },
    async screenshot() {
      const { data } = await send<{ data: string }>('Page.captureScreenshot', { captureBeyondViewport: true });
      return Buffer.from(data, 'base64');
    },
  };
}
