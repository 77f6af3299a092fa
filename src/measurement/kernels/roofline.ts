/** The adapter's own roofline: what arithmetic alone and a copy alone reach. */
import { EmigmError } from '../../errors.ts';
import type { Device } from '../../gpu/device.ts';
import { grid1d } from '../../ops/op.ts';
import { best, LONG, measurePeak } from '../peak.ts';
import type { Roofline, Row } from './schema.ts';

const STEPS = 128;
/** FLOP of an invocation of `fma.wgsl` in a round of its loop: eight steps of three vectors of four, two each. */
const FLOP = 8 * 24;
const LARGEST_COPY = 2 ** 26;

/**
 * Measures the roofs, on problems that grow until a run takes 50 ms: multiply-adds in f32 and where there is f16 in that;
 * bytes a second of a copy; where matrices are multiplied by units of their own, the best matmul, for want of a plainer one.
 * @throws EmigmError 'aborted', and as the device does
 */
export async function measureRoofline(device: Device, signal?: AbortSignal): Promise<Roofline> {
  const f32 = await arithmetic(device, 'f32', signal);
  const f16 = device.hasF16 ? await arithmetic(device, 'f16', signal) : undefined;
  const bytes = await copy(device, signal);
  const { flops } = device.subgroupMatrix.length > 0 ? await measurePeak(device, { signal }) : {};
  const matrix = flops?.kernel === 'matmul/subgroup_matrix' ? flops.perSecond : undefined;
  return { f32, ...(f16 && { f16 }), ...(matrix && { matrix }), bytes };
}

async function arithmetic(device: Device, dtype: 'f32' | 'f16', signal?: AbortSignal): Promise<number> {
  let most = 0;
  for (let groups = 64; groups <= 2 ** 15; groups *= 4) {
    if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
    const y = device.tensor([groups * 64, 4], dtype, 'y');
    const consts = { STEPS, ...(dtype === 'f16' && { Elem4: 'vec4<f16>' }) };
    const seconds = await best(device, [y], (r) =>
      r.call({
        op: 'roofline',
        kernel: { file: 'roofline/fma', consts },
        operands: { y },
        params: { scale: 0.5, shift: 1 },
        grid: [groups],
      }),
    );
    most = Math.max(most, (FLOP * STEPS * 64 * groups) / seconds);
    if (seconds > LONG) break;
  }
  return most;
}

async function copy(device: Device, signal?: AbortSignal): Promise<number> {
  let most = 0;
  for (let size = 2 ** 20; size <= LARGEST_COPY && 4 * size <= device.largestBuffer; size *= 4) {
    if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
    const [x, y] = ['x', 'y'].map((name) => device.tensor([size], 'f32', name));
    const seconds = await best(device, [x, y], (r) =>
      r.call({
        op: 'roofline',
        kernel: { file: 'roofline/copy' },
        operands: { x, y },
        params: { size: size / 4 },
        grid: grid1d(size / 4),
      }),
    );
    most = Math.max(most, (8 * size) / seconds);
    if (seconds > LONG) break;
  }
  return most;
}

/** FLOP/s that the roofline allows a kernel of this intensity: of matrix units where it uses them. */
export function attainable(
  roofline: Roofline,
  { flops, bytes }: { flops: number; bytes: number },
  variant: string,
): number {
  const { f32, f16 = 0, matrix = 0, bytes: slope } = roofline;
  const roof = /matrix/.test(variant) ? Math.max(f32, f16, matrix) : f32;
  return Math.min(roof, (flops / bytes) * slope);
}

/** Share of what the roofline allows; of the copy's bytes a second where nothing is computed. Above 1 from a cache. */
export function shareOfRoofline(
  roofline: Roofline,
  { seconds, flops, bytes, variant }: Pick<Row, 'seconds' | 'flops' | 'bytes' | 'variant'>,
): number | undefined {
  if (!seconds || bytes === 0) return undefined;
  if (flops === 0) return bytes / seconds.median / roofline.bytes;
  return flops / seconds.median / attainable(roofline, { flops, bytes }, variant);
}
