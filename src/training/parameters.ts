/**
 * Trained parameters in flat buffers. Every parameter is a section of a chunk; values, gradients, both moments of Adam
 * and the moving average are chunks of the same layout, so that norm, clipping, AdamW and averaging are a few
 * dispatches over long arrays whatever the number of parameters.
 */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import { type Tensor, VIEW_ALIGNMENT } from '../gpu/tensor.ts';
import { HEAD_PREFIX, type ModelConfig, parameterShapes } from '../models/config.ts';
import type { WeightSource } from '../nn/weights.ts';

/** The arrays that share the layout. */
export const STATES = ['value', 'gradient', 'firstMoment', 'secondMoment', 'average'] as const;
export type State = (typeof STATES)[number];

export interface Parameter {
  name: string;
  shape: readonly number[];
  size: number;
  chunk: number;
  /** First element in its chunk; a multiple of 64, except that class embeddings follow the unconditional input. */
  offset: number;
  decays: boolean;
}

/** A chunk's elements: those with weight decay first. */
export interface Chunk {
  decayed: number;
  size: number;
}

const ALIGNMENT = VIEW_ALIGNMENT / 4;
const aligned = (n: number) => Math.ceil(n / ALIGNMENT) * ALIGNMENT;

/** AdamW decays matrices outside the head: no 1-D tensors, no biases, nothing of the head (official `add_weight_decay`). */
export function hasWeightDecay(name: string, shape: readonly number[]): boolean {
  return shape.length > 1 && !name.endsWith('.bias') && !name.startsWith(HEAD_PREFIX);
}

/** Lays parameters out in chunks of at most `limit` elements. */
export function layOut(config: ModelConfig, limit: number): { parameters: Parameter[]; chunks: Chunk[] } {
  const chunks: (Chunk & { rest: number })[] = [];
  const parameters: Parameter[] = [];
  // The unconditional input and the class embeddings are one table [1 + classes, width].
  const shapes = [...parameterShapes(config)].filter(([name]) => name !== 'class_emb.weight');
  const size = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
  const table: readonly number[] = [config.classes, config.encoderWidth];
  for (const wanted of [true, false]) {
    for (const [name, shape] of shapes) {
      const decays = hasWeightDecay(name, shape);
      if (decays !== wanted) continue;
      const together = size(shape) + (name === 'fake_latent' ? size(table) : 0);
      if (together > limit) {
        throw new EmigmError('memory', `${name} has ${together} numbers; the adapter binds ${limit} at most`);
      }
      let chunk = chunks.findIndex((one) => one.size + aligned(together) <= limit);
      if (chunk < 0) chunk = chunks.push({ decayed: 0, size: 0, rest: 0 }) - 1;
      const place = chunks[chunk];
      parameters.push({ name, shape, size: size(shape), chunk, offset: place.size, decays });
      if (name === 'fake_latent') {
        const offset = place.size + size(shape);
        parameters.push({ name: 'class_emb.weight', shape: table, size: size(table), chunk, offset, decays });
      }
      place.size += aligned(together);
      if (decays) place.decayed = place.size;
    }
  }
  return { parameters, chunks: chunks.map(({ decayed, size: all }) => ({ decayed, size: all })) };
}

export class Parameters {
  readonly device: Device;
  readonly config: ModelConfig;
  readonly chunks: readonly Chunk[];
  /** In the order of the official state dict. */
  readonly list: readonly Parameter[];
  /** For each state its chunks. */
  readonly states: Readonly<Record<State, readonly Tensor[]>>;
  private readonly byName: ReadonlyMap<string, Parameter>;

  /** Takes the memory, filled with zeros. @throws EmigmError 'memory' when it does not fit */
  constructor(device: Device, config: ModelConfig) {
    this.device = device;
    this.config = config;
    const { parameters, chunks } = layOut(config, chunkLimit(device));
    const order = [...parameterShapes(config).keys()];
    this.list = [...parameters].sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
    this.chunks = chunks;
    this.byName = new Map(parameters.map((parameter) => [parameter.name, parameter]));
    this.states = Object.fromEntries(
      STATES.map((state) => [state, chunks.map(({ size }, i) => device.tensor([size], 'f32', `${state} ${i}`))]),
    ) as unknown as Record<State, Tensor[]>;
  }

  find(name: string): Parameter {
    const found = this.byName.get(name);
    if (!found) throw new EmigmError('model', `"${name}" is no parameter of this model`);
    return found;
  }

  /** The parameter's values (or gradients, ...) as a tensor of its own shape. */
  tensor(name: string, state: State = 'value'): Tensor {
    const { chunk, offset, shape } = this.find(name);
    return this.states[state][chunk].view(shape, 4 * offset, state === 'value' ? name : `${state} of ${name}`);
  }

  /** The rows that the encoder's buffer slots take: row 0 the unconditional input, then the classes. */
  classTable(state: State = 'value'): Tensor {
    const { chunk, offset } = this.find('fake_latent');
    const shape = [1 + this.config.classes, this.config.encoderWidth];
    return this.states[state][chunk].view(shape, 4 * offset, `class table ${state}`);
  }

  /** Fills values (and the average) from named parameters. */
  async load(source: WeightSource, states: readonly State[] = ['value', 'average']): Promise<void> {
    for (const { name, chunk, offset, size } of this.list) {
      const data = await source.read(name);
      if (data.length !== size) {
        throw new EmigmError('shape', `${name} has ${data.length} numbers, the model wants ${size}`);
      }
      for (const state of states) this.device.write(this.states[state][chunk], data, offset);
    }
  }

  /** The numbers of one parameter. */
  read(name: string, state: State = 'value'): Promise<Float32Array> {
    const { chunk, offset, size } = this.find(name);
    return this.device.read(this.states[state][chunk], offset, size);
  }

  dispose(): void {
    for (const state of STATES) for (const tensor of this.states[state]) tensor.destroy();
  }
}

function chunkLimit(device: Device): number {
  const { maxStorageBufferBindingSize, maxBufferSize } = device.limits;
  return Math.floor(Math.min(maxStorageBufferBindingSize, maxBufferSize, 2 ** 30) / 4 / ALIGNMENT) * ALIGNMENT;
}

/** Bytes of values, gradients, moments and average together. */
export function parameterBytes(device: Device, config: ModelConfig): number {
  const { chunks } = layOut(config, chunkLimit(device));
  return chunks.reduce((sum, { size }) => sum + 4 * STATES.length * size, 0);
}
