/** The classifier on the device, for inference; see classifier.ts. */
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { type Block, block, loadBlock } from '../nn/block.ts';
import { WeightLoader, type WeightSource } from '../nn/weights.ts';
import { activation } from '../ops/activation.ts';
import { layernorm, type Norm } from '../ops/layernorm.ts';
import { type Linear, linear } from '../ops/matmul.ts';
import { meanTokens } from '../ops/mean_tokens.ts';
import { gatherRows, type Index, patchify } from '../ops/tokens.ts';
import {
  type ClassifierConfig,
  classifierShapes,
  convolutionRows,
  openClassifier,
  STEM_PATCH,
  stemConvolutions,
  tokenCount,
} from './classifier.ts';
import { countOf } from './shapes.ts';

/** Row numbers of a batch, as both the network in use and the one in training read them. */
export interface ClassifierRows<List> {
  /** Of each of the stem's convolutions, in its input. */
  stem: List[];
  /** Of every token, in the table of positions. */
  positions: List;
}

export function classifierRows(config: ClassifierConfig, batch: number): ClassifierRows<Uint32Array<ArrayBuffer>> {
  const tokens = tokenCount(config);
  return {
    stem: stemConvolutions(config).map(({ side, stride }) => convolutionRows(batch, side, stride)),
    positions: Uint32Array.from({ length: batch * tokens }, (_, i) => i % tokens),
  };
}

/** Row numbers on the device, for `Classifier.record`. */
export interface DeviceRows extends ClassifierRows<Index> {
  destroy(): void;
}

interface StemLayer {
  convolution: Linear;
  channels: number;
  norm?: Norm;
}

export class Classifier {
  readonly device: Device;
  readonly config: ClassifierConfig;
  /** A power of two that no feature exceeds in magnitude. */
  readonly featureRange: number;
  private readonly weights: Weights;
  private readonly loader: WeightLoader;

  private constructor(
    device: Device,
    config: ClassifierConfig,
    loader: WeightLoader,
    weights: Weights,
    featureRange: number,
  ) {
    this.device = device;
    this.config = config;
    this.loader = loader;
    this.weights = weights;
    this.featureRange = featureRange;
  }

  /** Puts the parameters on the device, f32. @throws EmigmError 'memory' when they do not fit */
  static async load(device: Device, config: ClassifierConfig, source: WeightSource): Promise<Classifier> {
    const load = new WeightLoader(device, source, 'f32');
    try {
      const blocks: Block[] = [];
      for (let i = 0; i < config.depth; i++) {
        blocks.push(await loadBlock(load, `blocks.${i}`, config.width, config.heads));
      }
      const stem: StemLayer[] = [];
      for (const { name, inputs, norm } of stemConvolutions(config)) {
        const convolution = await load.linear(name);
        stem.push({ convolution, channels: inputs, norm: norm === undefined ? undefined : await load.norm(norm) });
      }
      const weights = {
        stem,
        position: await load.tensor('pos_embed'),
        blocks,
        norm: await load.norm('norm'),
        head: await load.linear('head'),
      };
      return new Classifier(device, config, load, weights, await featureRange(source, config));
    } catch (error) {
      load.destroy();
      throw error;
    }
  }

  /** Opens a file and puts its parameters on the device. @throws EmigmError as `openClassifier` and `load` do */
  static async open(device: Device, path: string) {
    const file = await openClassifier(path);
    try {
      return { classifier: await Classifier.load(device, file.config, file), info: file.info };
    } finally {
      await file.close();
    }
  }

  /** Row numbers of a batch on the device; to be destroyed by the caller. */
  rows(batch: number): DeviceRows {
    const { stem, positions } = classifierRows(this.config, batch);
    const tensors = [...stem, positions].map((list) => this.device.tensor([list.length], 'u32', 'row numbers', list));
    const lists = tensors.map((tensor) => ({ tensor, offset: 0 }));
    const destroy = () => {
      for (const tensor of tensors) tensor.destroy();
    };
    return { stem: lists.slice(0, -1), positions: lists.at(-1)!, destroy };
  }

  /**
   * Records the network on images [batch, 3, size, size] in [-1, 1]: `features` [batch, width], the mean of the last
   * tokens, and `logits` [batch, classes].
   */
  record(
    r: Recorder,
    images: Tensor,
    batch: number,
    rows: ClassifierRows<Index>,
    out: { features: Tensor; logits: Tensor },
  ): void {
    const { imageSize, width } = this.config;
    const { stem, position, blocks, norm, head } = this.weights;
    const length = tokenCount(this.config);
    r.within('classifier', () => {
      let x = patchify(r, images, { channels: 3, side: imageSize / STEM_PATCH, patch: STEM_PATCH });
      for (const [i, layer] of stem.entries()) {
        const index = rows.stem[i];
        x = linear(r, gatherRows(r, x, index, index.tensor.size, layer.channels), layer.convolution);
        const { outputs } = layer.convolution;
        if (layer.norm) x = activation(r, 'gelu', layernorm(r, x, outputs, { affine: layer.norm }), outputs);
      }
      gatherRows(r, position, rows.positions, batch * length, width, { addTo: x });
      for (const weights of blocks) block(r, x, weights, batch, length);
      meanTokens(r, layernorm(r, x, width, { affine: norm }), { batch, length, width }, { out: out.features });
      linear(r, out.features, head, { out: out.logits });
    });
  }

  dispose(): void {
    this.loader.destroy();
  }
}

interface Weights {
  stem: StemLayer[];
  position: Tensor;
  blocks: Block[];
  norm: Norm;
  head: Linear;
}

/** A normalised row of `width` numbers has none above sqrt(width); the norm's weight and bias come on top. */
async function featureRange(source: WeightSource, { width }: ClassifierConfig): Promise<number> {
  const [weight, bias] = [await source.read('norm.weight'), await source.read('norm.bias')];
  const most = weight.reduce((max, w, i) => Math.max(max, Math.abs(w) * Math.sqrt(width) + Math.abs(bias[i])), 1);
  return 2 ** Math.ceil(Math.log2(most));
}

/** Number of the classifier's parameters. */
export function classifierSize(config: ClassifierConfig): number {
  return countOf(classifierShapes(config));
}
