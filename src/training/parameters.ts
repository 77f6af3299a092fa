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
  /** First element in its chunk; a multiple of 64, but of a parameter that follows another. */
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

/** What a network trains. */
export interface ParameterList {
  /** In the order of files. */
  shapes: ReadonlyMap<string, readonly number[]>;
  decays(name: string, shape: readonly number[]): boolean;
  /** Parameters that follow another without a gap, by the name of that: both are read as one table. */
  followers?: ReadonlyMap<string, string>;
}

/** Lays parameters out in chunks of at most `limit` elements. */
export function layOut(list: ParameterList, limit: number): { parameters: Parameter[]; chunks: Chunk[] } {
  const { shapes, followers = new Map<string, string>() } = list;
  const chunks: Chunk[] = [];
  const parameters: Parameter[] = [];
  const following = new Set(followers.values());
  const size = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
  for (const wanted of [true, false]) {
    for (const [name, shape] of shapes) {
      const decays = list.decays(name, shape);
      if (decays !== wanted || following.has(name)) continue;
      const follower = followers.get(name);
      const table = follower === undefined ? [] : shapes.get(follower)!;
      const together = size(shape) + (follower === undefined ? 0 : size(table));
      if (together > limit) {
        throw new EmigmError('memory', `${name} has ${together} numbers; the adapter binds ${limit} at most`);
      }
      let chunk = chunks.findIndex((one) => one.size + aligned(together) <= limit);
      if (chunk < 0) chunk = chunks.push({ decayed: 0, size: 0 }) - 1;
      const place = chunks[chunk];
      parameters.push({ name, shape, size: size(shape), chunk, offset: place.size, decays });
      if (follower !== undefined) {
        const offset = place.size + size(shape);
        parameters.push({ name: follower, shape: table, size: size(table), chunk, offset, decays });
      }
      place.size += aligned(together);
      if (decays) place.decayed = place.size;
    }
  }
  return { parameters, chunks };
}

/** Trained parameters of any network. */
export class ParameterStore {
  readonly device: Device;
  readonly chunks: readonly Chunk[];
  /** In the order of files. */
  readonly list: readonly Parameter[];
  /** For each state its chunks. */
  readonly states: Readonly<Record<State, readonly Tensor[]>>;
  private readonly byName: ReadonlyMap<string, Parameter>;

  /** Takes the memory, filled with zeros. @throws EmigmError 'memory' when it does not fit */
  constructor(device: Device, list: ParameterList) {
    this.device = device;
    const { parameters, chunks } = layOut(list, chunkLimit(device));
    const order = [...list.shapes.keys()];
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

/** AdamW decays matrices outside the head: no 1-D tensors, no biases, nothing of the head (official `add_weight_decay`). */
export function hasWeightDecay(name: string, shape: readonly number[]): boolean {
  return shape.length > 1 && !name.endsWith('.bias') && !name.startsWith(HEAD_PREFIX);
}

/** eMIGM's parameters; the unconditional input and the class embeddings are one table [1 + classes, width]. */
const parameterList = (config: ModelConfig): ParameterList => ({
  shapes: parameterShapes(config),
  decays: hasWeightDecay,
  followers: new Map([['fake_latent', 'class_emb.weight']]),
});

/** Trained parameters of eMIGM, in the order of the official state dict. */
export class Parameters extends ParameterStore {
  readonly config: ModelConfig;

  /** Takes the memory, filled with zeros. @throws EmigmError 'memory' when it does not fit */
  constructor(device: Device, config: ModelConfig) {
    super(device, parameterList(config));
    this.config = config;
  }
}

/** The rows that the encoder's buffer slots take: row 0 the unconditional input, then the classes. */
export function classTable(
  parameters: ParameterStore,
  { classes, encoderWidth }: Pick<ModelConfig, 'classes' | 'encoderWidth'>,
  state: State = 'value',
): Tensor {
  const { chunk, offset } = parameters.find('fake_latent');
  return parameters.states[state][chunk].view([1 + classes, encoderWidth], 4 * offset, `class table ${state}`);
}

/** Bytes of values, gradients, moments and average together. */
export function parameterBytes({ chunks }: Pick<ParameterStore, 'chunks'>): number {
  return chunks.reduce((sum, { size }) => sum + 4 * STATES.length * size, 0);
}
