/** Tensors for one problem of an op: what its tests and its benchmarks run on. */
import type { Device } from '../gpu/device.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { float32ToHalf, halfToFloat32 } from '../float16.ts';
import type { Arrays, Input, Op, Problem } from './op.ts';

/** Where random inputs come from. */
export interface InputSource {
  /** A number in [0, 1). */
  next(): number;
  /** Normal numbers with this standard deviation. */
  normal(count: number, deviation: number): Float32Array;
}

/** The numbers of every input, as the op will see them: rounded to how they are stored. */
export function inputArrays(op: Op, problem: Problem, source: InputSource): Arrays {
  const arrays: Arrays = {};
  for (const [name, input] of Object.entries(op.inputs(problem))) arrays[name] = values(input, source);
  return arrays;
}

function values({ shape, dtype, round, fill }: Input, source: InputSource): Float64Array {
  const size = shape.reduce((a, b) => a * b, 1);
  if (fill && 'index' in fill) {
    const order = Array.from({ length: fill.index }, (_, i) => i).sort(() => source.next() - 0.5);
    return Float64Array.from({ length: size }, (_, i) => order[i % order.length]);
  }
  const given = fill && 'values' in fill ? fill.values(size) : source.normal(size, fill?.scale ?? 1);
  if (dtype === 'u32') return Float64Array.from(given);
  const single = Float32Array.from(given);
  if (round) return Float64Array.from(round(single));
  return Float64Array.from(dtype === 'f16' ? halfToFloat32(float32ToHalf(single)) : single);
}

/** Inputs and outputs on the device, by name; outputs hold NaN until they are written. */
export function createTensors(
  device: Device,
  op: Op,
  problem: Problem,
  variant: string,
  arrays: Arrays,
): Record<string, Tensor> {
  const tensors: Record<string, Tensor> = {};
  for (const [name, { shape, dtype = 'f32', upload }] of Object.entries(op.inputs(problem))) {
    const data = arrays[name];
    tensors[name] = upload?.(device, Float32Array.from(data), variant) ?? device.tensor(shape, dtype, name, data);
  }
  for (const [name, shape] of Object.entries(op.outputs(problem))) {
    if (tensors[name]) continue; // updated in place
    const poison = new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(Number.NaN);
    tensors[name] = device.tensor(shape, op.outputType?.(problem) ?? 'f32', name, poison);
  }
  return tensors;
}

/** Does the problem need f16 storage that the device lacks? (Packed weights need none.) */
export function lacksF16(device: Device, op: Op, problem: Problem): boolean {
  if (device.hasF16) return false;
  const inputs = Object.values(op.inputs(problem)).filter(({ upload }) => !upload);
  return inputs.some(({ dtype }) => dtype === 'f16') || op.outputType?.(problem) === 'f16';
}
