/** Putting named parameters on the device in the form that their ops read. */
import type { Device } from '../gpu/device.ts';
import type { Tensor } from '../gpu/tensor.ts';
import type { Norm } from '../ops/layernorm.ts';
import { createLinear, destroyLinear, type Linear } from '../ops/matmul.ts';

/** Where parameters come from: a file, or numbers made for a test. Names are the official state dict's. */
export interface WeightSource {
  shape(name: string): readonly number[];
  read(name: string): Promise<Float32Array>;
}

/** Loads parameters and remembers all that it put on the device, to free it. */
export class WeightLoader {
  readonly device: Device;
  private readonly source: WeightSource;
  private readonly stored: 'f32' | 'f16';
  private readonly tensors: Tensor[] = [];
  private readonly linears: Linear[] = [];

  constructor(device: Device, source: WeightSource, stored: 'f32' | 'f16') {
    this.device = device;
    this.source = source;
    this.stored = stored;
  }

  /** A parameter as it is, f32. */
  async tensor(name: string): Promise<Tensor> {
    const tensor = this.device.tensor(this.source.shape(name), 'f32', name, await this.source.read(name));
    this.tensors.push(tensor);
    return tensor;
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

  /** `name.weight` [outputs, inputs] and `name.bias` of a linear layer; with `rows` only these outputs of it. */
  async linear(name: string, rows?: readonly [number, number]): Promise<Linear> {
    return this.stack([name], rows);
  }

  /** Several linear layers of the same input as one, their outputs side by side. */
  async stack(names: readonly string[], rows?: readonly [number, number]): Promise<Linear> {
    const inputs = this.source.shape(`${names[0]}.weight`)[1];
    const parts = await Promise.all(
      names.map(async (name) => ({
        weight: await this.source.read(`${name}.weight`),
        bias: await this.source.read(`${name}.bias`),
      })),
    );
    let weight = concatenate(parts.map((part) => part.weight));
    let bias = concatenate(parts.map((part) => part.bias));
    if (rows) {
      weight = weight.subarray(rows[0] * inputs, rows[1] * inputs);
      bias = bias.subarray(rows[0], rows[1]);
    }
    const label = names.length === 1 ? names[0] : `${names[0]} .. ${names.at(-1)}`;
    const layer = createLinear(this.device, label, [bias.length, inputs], weight, bias, { stored: this.stored });
    this.linears.push(layer);
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
