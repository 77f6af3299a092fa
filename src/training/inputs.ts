/** What changes from micro-batch to micro-batch, in device tensors that recorded programs read. */
import type { Device } from '../gpu/device.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { latentSize, type ModelConfig, sequenceLength } from '../models/config.ts';
import type { Index } from '../ops/tokens.ts';
import { rowUses } from '../ops/tokens_backward.ts';
import type { MicroBatch, MicroBatchShape } from './micro_batch.ts';

type List =
  | 'classRows'
  | 'classUses'
  | 'tokenRows'
  | 'visible'
  | 'slot'
  | 'place'
  | 'decoderRows'
  | 'rowOfDecoder'
  | 'positions'
  | 'positionUses'
  | 'conditionRows'
  | 'targets'
  | 'times'
  | 'timeUses';

export type IndexLists = Record<List, Index>;

/** Named lists of u32 in one tensor, each at a place that does not depend on how long the others are. */
export class NamedLists<Name extends string> {
  readonly at: Readonly<Record<Name, Index>>;
  private readonly device: Device;
  private readonly tensor: Tensor;
  private readonly host: Uint32Array<ArrayBuffer>;

  /** Takes memory for lists of these lengths at the most. */
  constructor(device: Device, sizes: Readonly<Record<Name, number>>) {
    this.device = device;
    const names = Object.keys(sizes) as Name[];
    const total = names.reduce((sum, name) => sum + sizes[name], 0);
    this.tensor = device.tensor([total], 'u32', 'row numbers');
    this.host = new Uint32Array(total);
    let offset = 0;
    const at = {} as Record<Name, Index>;
    for (const name of names) {
      at[name] = { tensor: this.tensor, offset };
      offset += sizes[name];
    }
    this.at = at;
  }

  /** Puts all lists on the device, in the queue behind what was submitted before. */
  write(lists: Readonly<Record<Name, Uint32Array>>): void {
    for (const name of Object.keys(this.at) as Name[]) this.host.set(lists[name], this.at[name].offset);
    this.device.write(this.tensor, this.host);
  }

  dispose(): void {
    this.tensor.destroy();
  }
}

export class MicroBatchInputs {
  readonly device: Device;
  /** [images, channels, height, width] as the network sees them. */
  readonly images: Tensor;
  /** All lists of row numbers, each at a place that does not depend on how many tokens are masked. */
  readonly lists: IndexLists;
  /** [repeats * rows] weights of the loss, diffusion times as numbers and as indices. */
  readonly weights: Tensor;
  readonly times: Tensor;
  readonly timeIndices: Tensor;
  private readonly named: NamedLists<List>;

  /** Takes memory for the largest micro-batch: `images` images, `repeats` rows of the head for every token. */
  constructor(device: Device, config: ModelConfig, images: number, repeats: number) {
    this.device = device;
    const tokens = images * sequenceLength(config);
    const side = latentSize(config);
    const sizes: Record<List, number> = {
      classRows: images,
      classUses: 2 * images,
      tokenRows: tokens,
      visible: tokens,
      slot: tokens,
      place: tokens,
      decoderRows: tokens,
      rowOfDecoder: tokens + images * config.bufferSize,
      positions: tokens,
      positionUses: 2 * tokens,
      conditionRows: repeats * tokens,
      targets: repeats * tokens,
      times: repeats * tokens,
      timeUses: 2 * repeats * tokens,
    };
    this.named = new NamedLists(device, sizes);
    this.lists = this.named.at;
    this.images = device.tensor([images, config.channels, side, side], 'f32', 'images');
    this.weights = device.tensor([repeats * tokens], 'f32', 'loss weights');
    this.times = device.tensor([repeats * tokens], 'f32', 'diffusion times');
    this.timeIndices = device.tensor([repeats * tokens], 'u32', 'diffusion time indices');
  }

  /** Puts a micro-batch on the device, in the queue behind what was submitted before. */
  write(images: Float32Array, batch: MicroBatch, times: Uint32Array): void {
    const { rows, repeats } = batch.shape;
    const repeated = (values: ArrayLike<number>) =>
      Uint32Array.from({ length: repeats * rows }, (_, i) => values[i % rows]);
    this.named.write({
      ...batch,
      classUses: rowUses(batch.classRows),
      positionUses: rowUses(batch.positions),
      conditionRows: repeated(Uint32Array.from({ length: rows }, (_, i) => i)),
      targets: repeated(batch.targets),
      times,
      timeUses: rowUses(times),
    });
    this.device.write(this.images, images);
    this.device.write(this.weights, batch.weights);
    this.device.write(this.timeIndices, times);
    this.device.write(this.times, Float32Array.from(times));
  }

  dispose(): void {
    this.named.dispose();
    for (const tensor of [this.images, this.weights, this.times, this.timeIndices]) tensor.destroy();
  }
}

/** `24x64`: programs are recorded once for each. */
export const shapeKey = ({ images, visible, rows, repeats }: MicroBatchShape): string =>
  `${images} images, ${visible} visible, ${rows} x ${repeats} rows`;
