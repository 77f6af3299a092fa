/** What the adapter can do, measured: FLOP/s of the engine's own matmul, bytes a second of a pass over long vectors. */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import type { Program, Recorder } from '../gpu/recorder.ts';
import { Session } from '../gpu/session.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { gate } from '../ops/elementwise.ts';
import { createLinear, destroyLinear, linear } from '../ops/matmul.ts';
import { numbers } from './random_weights.ts';

export interface Peak {
  /** The largest rate of a matmul [size, size] x [size, size], over sizes and over weights in f32 and f16. */
  flops: { perSecond: number; size: number; stored: 'f32' | 'f16'; kernel: string };
  /** The largest rate of y = r + g x on vectors of `size` numbers: three read, one written. */
  bytes: { perSecond: number; size: number };
}

/** Seconds of a run that are long enough to be trusted: larger problems are not tried. */
export const LONG = 0.05;
const REPEATS = 5;
const LARGEST_MATMUL = 4096;
const LARGEST_VECTOR = 2 ** 26;

/**
 * Measures both, on problems that grow until a run takes 50 ms.
 * @throws EmigmError 'aborted', and as the device does
 */
export async function measurePeak(
  device: Device,
  { signal, onProgress }: { signal?: AbortSignal; onProgress?: (what: string) => void } = {},
): Promise<Peak> {
  let flops: Peak['flops'] | undefined;
  for (const stored of device.hasF16 || device.isCpu ? (['f32', 'f16'] as const) : (['f32'] as const)) {
    for (let size = 256; size <= LARGEST_MATMUL; size *= 2) {
      if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
      onProgress?.(`matmul of ${size} in ${stored}`);
      const source = numbers(1);
      const weight = source.normal(size * size, 1 / Math.sqrt(size));
      const layer = createLinear(device, 'peak', [size, size], weight, undefined, { stored });
      const [x, y] = ['x', 'y'].map((name) => device.tensor([size, size], 'f32', name, source.normal(size * size, 1)));
      let kernel = '';
      const seconds = await best(device, [x, y], (r) => {
        linear(r, x, layer, { out: y });
        kernel = r.dispatches[0].kernel.spec.file;
      });
      destroyLinear(layer);
      const perSecond = (2 * size ** 3) / seconds;
      if (!flops || perSecond > flops.perSecond) flops = { perSecond, size, stored, kernel };
      if (seconds > LONG) break;
    }
  }
  onProgress?.('long vectors');
  return { flops: flops!, bytes: await peakBytes(device, signal) };
}

async function peakBytes(device: Device, signal?: AbortSignal): Promise<Peak['bytes']> {
  let found: Peak['bytes'] | undefined;
  for (let size = 2 ** 20; size <= LARGEST_VECTOR && 4 * size <= device.largestBuffer; size *= 4) {
    if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
    const width = 1024;
    const tensors = ['x', 'g', 'r', 'y'].map((name) => device.tensor([size / width, width], 'f32', name));
    const [x, g, residual, y] = tensors;
    const columns = { tensor: g, stride: width, offset: 0 };
    const seconds = await best(device, tensors, (r) => gate(r, x, columns, residual, width, y));
    const perSecond = (16 * size) / seconds;
    if (!found || perSecond > found.perSecond) found = { perSecond, size };
    if (seconds > LONG) break;
  }
  return found!;
}

/** Seconds of the fastest run, by the device's own clock where it has one. Frees the tensors. */
export async function best(device: Device, tensors: readonly Tensor[], record: (r: Recorder) => void): Promise<number> {
  const session = new Session(device);
  try {
    const program = session.record('peak', record);
    await session.prepare();
    await once(device, session, program); // page faults, lazy clears
    let least = Number.POSITIVE_INFINITY;
    for (let i = 0; i < REPEATS; i++) least = Math.min(least, await once(device, session, program));
    return least;
  } finally {
    session.dispose();
    for (const tensor of tensors) tensor.destroy();
  }
}

/** Seconds of one run of a prepared program, by the device's own clock where it has one. */
export async function once(device: Device, session: Session, program: Program): Promise<number> {
  if (device.hasTimestamps) return (await session.profile(program)).reduce((sum, { seconds }) => sum + seconds, 0);
  const start = performance.now();
  session.run(program);
  await device.done();
  return (performance.now() - start) / 1000;
}
