/** Threads that read and decode training files, so that neither the main thread nor the GPU waits for them. */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { EmigmError, type ErrorCode } from '../errors.ts';

/** What a thread is asked for. */
export type DecodeJob =
  /** A picture file, centre-cropped: Uint8Array [size, size, 3]. */
  | { readonly kind: 'picture'; readonly path: string; readonly size: number }
  /** One array of a `.npz` file as float32, in the shape that it has. */
  | { readonly kind: 'npz'; readonly path: string; readonly array: string };

export interface Decoded {
  readonly data: Uint8Array<ArrayBuffer> | Float32Array<ArrayBuffer>;
  readonly shape: readonly number[];
}

export interface DecodeRequest {
  readonly id: number;
  readonly job: DecodeJob;
}

export type DecodeReply =
  | ({ readonly id: number; readonly error?: undefined } & Decoded)
  | { readonly id: number; readonly error: { readonly code: ErrorCode; readonly message: string } };

interface Pending {
  readonly request: DecodeRequest;
  readonly resolve: (decoded: Decoded) => void;
  readonly reject: (error: EmigmError) => void;
}

interface Thread {
  readonly worker: Worker;
  readonly running: Map<number, Pending>;
}

/** Jobs a thread holds at once: it decodes one while the file of another is read. */
const JOBS_A_THREAD = 2;

/** Threads used unless told otherwise: all cores but one, which feeds the GPU; eight at most. */
export const defaultDecodeThreads = (): number => Math.max(1, Math.min(8, availableParallelism() - 1));

/** Starts the worker file beside this one: JavaScript when built, TypeScript (through tsx) in the source tree. */
function startWorker(): Worker {
  const here = new URL(import.meta.url);
  if (!here.pathname.endsWith('.ts')) return new Worker(new URL('./decode_worker.js', here));
  // `--import tsx` registers nothing in a thread, so the thread registers it before it loads the file.
  const tsx = import.meta.resolve('tsx/esm/api');
  const file = new URL('./decode_worker.ts', here).href;
  const code = `import(${JSON.stringify(tsx)}).then(({ register }) => (register(), import(${JSON.stringify(file)})))`;
  return new Worker(code, { eval: true });
}

/** Decodes files in threads, in the order asked for; threads start with the first jobs. */
export class DecodePool {
  readonly #threads: Thread[] = [];
  readonly #queue: Pending[] = [];
  readonly #limit: number;
  #nextId = 0;
  #closed = false;

  /** @param threads 1 or more; all cores but one by default */
  constructor(threads: number = defaultDecodeThreads()) {
    if (!Number.isInteger(threads) || threads < 1) {
      throw new EmigmError('input', `${threads} decoding threads; give a whole number from 1`);
    }
    this.#limit = threads;
  }

  /** The decoded file. Throws EmigmError('file') naming it when it cannot be read, 'aborted' after close. */
  decode(job: DecodeJob): Promise<Decoded> {
    if (this.#closed) return Promise.reject(new EmigmError('aborted', 'the decoding threads are closed'));
    return new Promise((resolve, reject) => {
      this.#queue.push({ request: { id: this.#nextId++, job }, resolve, reject });
      this.#dispatch();
    });
  }

  /** Stops the threads; jobs not done are rejected. */
  async close(): Promise<void> {
    this.#closed = true;
    const error = new EmigmError('aborted', 'the decoding threads were closed');
    for (const pending of this.#queue.splice(0)) pending.reject(error);
    await Promise.all(this.#threads.splice(0).map((thread) => this.#end(thread, error)));
  }

  #dispatch(): void {
    while (this.#queue.length > 0) {
      const thread = this.#leastBusy();
      if (!thread) return;
      const pending = this.#queue.shift()!;
      // An idle pool must not keep the process alive, a busy one must.
      if (thread.running.size === 0) thread.worker.ref();
      thread.running.set(pending.request.id, pending);
      thread.worker.postMessage(pending.request);
    }
  }

  #leastBusy(): Thread | undefined {
    const least = this.#threads.reduce<Thread | undefined>(
      (best, thread) => (best && best.running.size <= thread.running.size ? best : thread),
      undefined,
    );
    if (least && least.running.size === 0) return least;
    if (this.#threads.length < this.#limit) return this.#start();
    return least && least.running.size < JOBS_A_THREAD ? least : undefined;
  }

  #start(): Thread {
    const thread: Thread = { worker: startWorker(), running: new Map() };
    this.#threads.push(thread);
    thread.worker.on('message', (reply: DecodeReply) => {
      const pending = thread.running.get(reply.id);
      thread.running.delete(reply.id);
      if (thread.running.size === 0) thread.worker.unref();
      if (reply.error) pending?.reject(new EmigmError(reply.error.code, reply.error.message));
      else pending?.resolve({ data: reply.data, shape: reply.shape });
      this.#dispatch();
    });
    const lost = (cause?: unknown) => {
      const at = this.#threads.indexOf(thread);
      if (at >= 0) this.#threads.splice(at, 1);
      const what = cause instanceof Error ? `: ${cause.message.split('\n')[0]}` : '';
      void this.#end(thread, new EmigmError('file', `a decoding thread ended unexpectedly${what}`, { cause }));
      this.#dispatch();
    };
    thread.worker.on('error', lost);
    thread.worker.on('exit', () => lost());
    return thread;
  }

  async #end(thread: Thread, error: EmigmError): Promise<void> {
    for (const pending of thread.running.values()) pending.reject(error);
    thread.running.clear();
    thread.worker.removeAllListeners();
    thread.worker.on('error', () => {}); // a late error has nobody left to tell
    await thread.worker.terminate();
  }
}
