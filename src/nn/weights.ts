/** Putting named parameters on the device in the form that their ops read. */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import type { Tensor } from '../gpu/tensor.ts';
import type { Norm } from '../ops/layernorm.ts';
import { allocateLinear, destroyLinear, type Linear, writeLinear } from '../ops/matmul.ts';
import type { Stored } from '../ops/matmul_kernels.ts';

/** Where parameters come from: a file, or numbers made for a test. Names are the official state dict's. */
export interface WeightSource {
  shape(name: string): readonly number[];
  read(name: string): Promise<Float32Array>;
}

/** The source, telling the share of the numbers of `shapes` that have been read; what is read again counts once. */
export function withProgress(
  source: WeightSource,
  shapes: ReadonlyMap<string, readonly number[]>,
  onProgress: (done: number) => void = () => {},
): WeightSource {
  const sizes = new Map([...shapes].map(([name, shape]) => [name, shape.reduce((a, b) => a * b, 1)]));
  const total = [...sizes.values()].reduce((a, b) => a + b, 0);
  let done = 0;
  return {
    shape: (name) => source.shape(name),
    read: async (name) => {
      const data = await source.read(name);
      const size = sizes.get(name);
      if (size !== undefined) onProgress((done += size) / total);
      sizes.delete(name);
      return data;
    },
  };
}

/** How weights of linear layers are stored where nothing is said. */
export const defaultStored = ({ isCpu, hasF16 }: Device): 'f32' | 'f16' => (!isCpu && hasF16 ? 'f16' : 'f32');

interface LayerOptions {
  /** Only these outputs, from the first to before the second. */
  rows?: readonly [number, number];
  /** Not in int8: a small layer at the model's begin or end, on which all the rest depends. */
  precise?: boolean;
}

/**
 * Loads parameters and remembers all that it put on the device, to free it. With `later` it takes memory at once, so that
 * programs can be recorded and their kernels compile, and `finish` reads and writes the numbers.
 */
export class WeightLoader {
  readonly device: Device;
  private readonly source: WeightSource;
  private readonly stored: Stored;
  private readonly tensors: Tensor[] = [];
  private readonly linears: Linear[] = [];
  private readonly later: boolean;
  private readonly waiting: (() => Promise<void>)[] = [];

  constructor(device: Device, source: WeightSource, stored: Stored, { later = false } = {}) {
    this.device = device;
    this.source = source;
    this.stored = stored;
    this.later = later;
  }

  /** Does what has been put off, in order. */
  async finish(): Promise<void> {
    for (let next = this.waiting.shift(); next; next = this.waiting.shift()) await next();
  }

  private async put(write: () => Promise<void>): Promise<void> {
    if (this.device.isPlan) return; // it has no place for numbers
    if (this.later) this.waiting.push(write);
    else await write();
  }

  /** A tensor of this shape, f32, with numbers that `read` gives. */
  async filled(shape: readonly number[], label: string, read: () => Promise<Float32Array>): Promise<Tensor> {
    const tensor = this.adopt(this.device.tensor(shape, 'f32', label));
    await this.put(async () => {
      const data = await read();
      if (data.length !== tensor.size)
        throw new EmigmError('shape', `${label} is [${shape.join(', ')}], not ${data.length} numbers`);
      this.device.write(tensor, data);
    });
    return tensor;
  }

  /** A parameter as it is, f32. */
  tensor(name: string): Promise<Tensor> {
    return this.filled(this.source.shape(name), name, () => this.source.read(name));
  }

  /** Takes a tensor made elsewhere among those to free. */
  adopt(tensor: Tensor): Tensor {
    this.tensors.push(tensor);
    return tensor;
  }

  /** `name.weight` and `name.bias` of a layer norm. */
  async norm(name: string): Promise<Norm> {
    return { weight: await this.tensor(`${name}.weight`), bias: await this.tensor(`${name}.bias`) };
  }

  /** `name.weight` [outputs, inputs] and `name.bias` of a linear layer. */
  async linear(name: string, options?: LayerOptions): Promise<Linear> {
    return this.stack([name], options);
  }

  /** Several linear layers of the same input as one, their outputs side by side. */
  async stack(names: readonly string[], { rows, precise = false }: LayerOptions = {}): Promise<Linear> {
    const inputs = this.source.shape(`${names[0]}.weight`)[1];
    const all = names.reduce((sum, name) => sum + this.source.shape(`${name}.weight`)[0], 0);
    const [first, end] = rows ?? [0, all];
    const label = names.length === 1 ? names[0] : `${names[0]} .. ${names.at(-1)}`;
    const stored = precise && this.stored === 'int8' ? defaultStored(this.device) : this.stored;
    const layer = allocateLinear(this.device, label, [end - first, inputs], true, { stored });
    this.linears.push(layer);
    await this.put(async () => {
      const read = async (kind: string) => {
        const parts: Float32Array[] = [];
        for (const name of names) parts.push(await this.source.read(`${name}.${kind}`));
        return concatenate(parts);
      };
      const weight = (await read('weight')).subarray(first * inputs, end * inputs);
      writeLinear(this.device, layer, weight, (await read('bias')).subarray(first, end));
    });
    return layer;
  }

  destroy(): void {
    for (const tensor of this.tensors) tensor.destroy();
    for (const layer of this.linears) destroyLinear(layer);
  }
}

function concatenate(parts: readonly Float32Array[]): Float32Array {
  if (parts.length === 1) return parts[0];
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
