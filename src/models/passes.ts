/** Passes of a network over any number of items: recorded for what fits the device, replayed sub-batch by sub-batch. */
import { EmigmError } from '../errors.ts';
import { bufferBytes, type Device } from '../gpu/device.ts';
import type { Program, Recorder } from '../gpu/recorder.ts';
import { Session } from '../gpu/session.ts';
import type { Tensor } from '../gpu/tensor.ts';

/** What is done to each item. */
export interface Pass {
  /** Passes of one name and input size are the same. */
  readonly name: string;
  /** What cannot be done when not even one item fits, for the message: `encode pictures of 256 x 256 pixels`. */
  readonly task: string;
  /** Sizes of one item, and of what becomes of it. */
  readonly input: readonly number[];
  readonly output: readonly number[];
  /** Items at once: wanted, and what the network's own limit allows (0: none). */
  readonly batch: number;
  readonly limit: number;
  /** (item's index, position) rows for noise: so many an item; none where nothing is drawn. */
  readonly rows?: number;
  record(r: Recorder, tensors: { input: Tensor; output: Tensor; rows?: Tensor }): void;
}

export interface RunOptions {
  /** Of the items, for `rows`. */
  indices?: readonly number[];
  signal?: AbortSignal;
  /** Told the seconds from submitting to reading of each sub-batch. */
  onSeconds?: (seconds: number) => void;
}

interface Recording {
  readonly batch: number;
  readonly session: Session;
  readonly program: Program;
  readonly input: Tensor;
  readonly output: Tensor;
  readonly rows?: Tensor;
}

/** Recordings that are kept: a full batch and a last one. */
const KEPT = 2;

export class Passes {
  readonly device: Device;
  private readonly recordings = new Map<string, Recording>();
  private readonly fitting = new Set<string>();

  constructor(device: Device) {
    this.device = device;
  }

  /** Whether at least one item at a time fits the device's memory. */
  fits(pass: Pass): boolean {
    const key = keyOf(pass, 1);
    if (this.fitting.has(key)) return true;
    const recording = pass.limit < 1 ? undefined : this.record(pass, 1);
    if (!recording) return false;
    free(recording);
    this.fitting.add(key);
    return true;
  }

  /**
   * Runs a pass over all items; yields what becomes of each, in order.
   * @throws EmigmError 'shape' for a part of an item, 'memory' when not even one item fits, 'aborted'
   */
  async *run(pass: Pass, items: Float32Array, options: RunOptions = {}): AsyncGenerator<Float32Array<ArrayBuffer>> {
    const total = itemCount(items, pass);
    const [inputSize, outputSize] = [sizeOf(pass.input), sizeOf(pass.output)];
    for (let first = 0; first < total; ) {
      if (options.signal?.aborted) throw new EmigmError('aborted', 'stopped');
      const recording = await this.recordingFor(pass, Math.min(total - first, pass.batch));
      if (!recording) {
        throw new EmigmError(
          'memory',
          `cannot ${pass.task}: not even one fits the memory of ${this.device.name}; take smaller ones`,
        );
      }
      const { batch, session, program, input, output, rows } = recording;
      const began = performance.now();
      this.device.write(input, items.subarray(first * inputSize, (first + batch) * inputSize));
      if (rows) this.device.write(rows, noiseRows(options.indices!.slice(first, first + batch), pass.rows!));
      session.run(program);
      const result = await this.device.read(output);
      await session.checkFinite();
      options.onSeconds?.((performance.now() - began) / 1000);
      for (let i = 0; i < batch; i++) yield result.slice(i * outputSize, (i + 1) * outputSize);
      first += batch;
    }
  }

  /** As `run`, everything in one array. */
  async all(pass: Pass, items: Float32Array, options?: RunOptions): Promise<Float32Array<ArrayBuffer>> {
    const size = sizeOf(pass.output);
    const all = new Float32Array(itemCount(items, pass) * size);
    let first = 0;
    for await (const result of this.run(pass, items, options)) {
      all.set(result, first);
      first += size;
    }
    return all;
  }

  /** Frees what the passes took. */
  dispose(): void {
    while (this.recordings.size > 0) this.forget();
  }

  /** A recording for `batch` items, or for half as many, and so on, what fits; undefined when not even one does. */
  private async recordingFor(pass: Pass, batch: number): Promise<Recording | undefined> {
    for (let size = Math.min(batch, pass.limit); size >= 1; size = Math.floor(size / 2)) {
      const key = keyOf(pass, size);
      const known = this.recordings.get(key);
      if (known) return known;
      while (this.recordings.size >= KEPT) this.forget();
      let made = this.record(pass, size);
      if (!made && this.recordings.size > 0) {
        this.dispose();
        made = this.record(pass, size);
      }
      if (!made) continue;
      await made.session.prepare();
      this.recordings.set(key, made);
      return made;
    }
    return undefined;
  }

  /** Records a pass; undefined when its memory, counted before any is taken, does not fit. */
  private record(pass: Pass, batch: number): Recording | undefined {
    const { device } = this;
    const session = new Session(device);
    const tensors: Tensor[] = [];
    const tensor = (...args: Parameters<Device['tensor']>) => {
      const made = device.tensor(...args);
      tensors.push(made);
      return made;
    };
    const discard = () => {
      session.dispose();
      for (const one of tensors) one.destroy();
    };
    try {
      const input = tensor([batch, ...pass.input], 'f32', `${pass.name} input`);
      const output = tensor([batch, ...pass.output], 'f32', `${pass.name} output`);
      const rows = pass.rows === undefined ? undefined : tensor([batch * pass.rows, 2], 'u32', 'noise rows');
      const program = session.record(pass.name, (r) => pass.record(r, { input, output, rows }));
      const buffers = session.plan().map(bufferBytes);
      const needed = buffers.reduce((a, b) => a + b, 0);
      if (Math.max(...buffers) <= device.largestBuffer && device.allocated + needed <= device.memory) {
        return { batch, session, program, input, output, rows };
      }
    } catch (error) {
      if (!(error instanceof EmigmError) || error.code !== 'memory') {
        discard();
        throw error;
      }
    }
    discard();
    return undefined;
  }

  private forget(): void {
    const [key, recording] = this.recordings.entries().next().value!;
    free(recording);
    this.recordings.delete(key);
  }
}

const keyOf = (pass: Pass, batch: number): string => [pass.name, batch, ...pass.input].join();

function free({ session, input, output, rows }: Recording): void {
  session.dispose();
  for (const tensor of [input, output, rows]) tensor?.destroy();
}

const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Number of items. @throws EmigmError 'shape' when the numbers do not fill whole items */
export function itemCount(items: Float32Array, { name, input }: Pick<Pass, 'name' | 'input'>): number {
  const whole = items.length / sizeOf(input);
  if (!Number.isInteger(whole)) {
    throw new EmigmError('shape', `${name}: ${items.length} numbers are no items of [${input.join(', ')}]`);
  }
  return whole;
}

function noiseRows(indices: readonly number[], positions: number): number[] {
  return indices.flatMap((index) => Array.from({ length: positions }, (_, p) => [index, p]).flat());
}
