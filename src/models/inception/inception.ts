/** Inception-v3 on the ops: images of 8 bits in, the features and logits of FID and its kin out. */
import { EmigmError } from '../../errors.ts';
import type { Device } from '../../gpu/device.ts';
import type { Recorder } from '../../gpu/recorder.ts';
import type { Tensor } from '../../gpu/tensor.ts';
import { type Conv, conv, createConv, destroyConv } from '../../ops/conv.ts';
import { imageLayout } from '../../ops/image.ts';
import { createLinear, destroyLinear, type Linear, linear } from '../../ops/matmul.ts';
import { concatChannels, pool } from '../../ops/pool.ts';
import { resize } from '../../ops/resize.ts';
import { openStateDict } from '../state_dict.ts';
import {
  BATCH_NORM_EPS,
  type Block,
  BLOCKS,
  CLASSES,
  convolutions,
  IMAGE_SIZE,
  LAST_BLOCKS,
  type NamedConv,
  parameterShapes,
  SPATIAL_CHANNELS,
  SPATIAL_LAYER,
  type Step,
  STEM,
  STEM_END,
} from './architecture.ts';

/** Where parameters come from. */
export interface InceptionWeights {
  shape(name: string): readonly number[] | undefined;
  read(name: string): Promise<Float32Array>;
}

/** Features by torch-fidelity's names: channel means after a stage; `logits_unbiased` [1008]; `spatial` [17, 17, 7]. */
export const FEATURES = ['64', '192', '768', '2048', 'logits_unbiased', 'spatial'] as const;
export type InceptionFeature = (typeof FEATURES)[number];
export const FEATURE_SIZES: Readonly<Record<InceptionFeature, number>> = {
  '64': 64,
  '192': 192,
  '768': 768,
  '2048': 2048,
  logits_unbiased: CLASSES,
  spatial: 17 * 17 * SPATIAL_CHANNELS,
};

export class Inception {
  readonly device: Device;
  /** Added to `logits_unbiased` it gives torch-fidelity's `logits`. */
  readonly logitBias: Float32Array;
  private readonly layers: ReadonlyMap<string, Conv>;
  private readonly classifier: Linear;

  private constructor(device: Device, layers: ReadonlyMap<string, Conv>, classifier: Linear, logitBias: Float32Array) {
    this.device = device;
    this.layers = layers;
    this.classifier = classifier;
    this.logitBias = logitBias;
  }

  /**
   * Puts the weights on the device in f32, batch norms folded into the convolutions.
   * @throws EmigmError 'model' naming the first parameter that is missing or of another shape, 'memory'
   */
  static async load(device: Device, weights: InceptionWeights): Promise<Inception> {
    for (const [name, shape] of parameterShapes()) {
      const found = weights.shape(name);
      if (!found || found.join() !== shape.join()) {
        const what = found ? `is [${found.join(', ')}], not [${shape.join(', ')}]` : 'is missing';
        throw new EmigmError('model', `these are no Inception weights of 2015-12-05: ${name} ${what}`);
      }
    }
    const layers = new Map<string, Conv>();
    for (const layer of convolutions()) layers.set(layer.name, await loadConv(device, weights, layer));
    const classifier = createLinear(device, 'fc', [CLASSES, 2048], await weights.read('fc.weight'));
    return new Inception(device, layers, classifier, await weights.read('fc.bias'));
  }

  /**
   * Records the network for `from` = [images, rows, columns] images (words of `imageWords`), as far as it is needed for
   * the features asked for, each written to its tensor [images, size].
   */
  record(
    r: Recorder,
    images: Tensor,
    from: readonly [number, number, number],
    out: Readonly<Partial<Record<InceptionFeature, Tensor>>>,
  ): void {
    const within = (part: string, x: Tensor, steps: readonly Step[]): Tensor =>
      r.within(part, () => this.run(r, x, steps, '', out)[0]);
    const blocks = (x: Tensor, list: readonly Block[]): Tensor =>
      list.reduce((input, block) => r.within(block.name, () => this.block(r, input, block, out)), x);
    const means = (x: Tensor, feature: InceptionFeature) => {
      const [, height, width] = x.shape;
      if (out[feature]) pool(r, x, 'mean', { window: [height, width], out: out[feature] });
    };
    const later = (...features: InceptionFeature[]) => features.some((feature) => out[feature]);

    const scaled = { from, to: [IMAGE_SIZE, IMAGE_SIZE], mean: 128, scale: 1 / 128 } as const;
    let x = within(
      'stem',
      r.within('resize', () => resize(r, images, scaled)),
      STEM,
    );
    means(x, '64');
    if (!later('192', '768', '2048', 'logits_unbiased', 'spatial')) return;
    x = within('stem', x, STEM_END);
    means(x, '192');
    if (!later('768', '2048', 'logits_unbiased', 'spatial')) return;
    x = blocks(x, BLOCKS);
    means(x, '768');
    if (!later('2048', 'logits_unbiased')) return;
    x = blocks(x, LAST_BLOCKS);
    const pooled = out['2048'] ?? r.temp([from[0], 2048], 'f32', 'pool3');
    pool(r, x, 'mean', { window: [8, 8], out: pooled });
    if (out.logits_unbiased) linear(r, pooled, this.classifier, { out: out.logits_unbiased });
  }

  private block(r: Recorder, x: Tensor, { name, branches }: Block, out: Outputs): Tensor {
    return concatChannels(
      r,
      branches.flatMap((branch) => this.run(r, x, branch, `${name}.`, out)),
    );
  }

  /** What comes out of a branch: one tensor, or those of its fork. */
  private run(r: Recorder, input: Tensor, steps: readonly Step[], prefix: string, out: Outputs): Tensor[] {
    let parts = [input];
    for (const step of steps) {
      const [x] = parts;
      if (step.kind === 'fork') parts = step.ends.map(({ name }) => this.convolve(r, x, prefix + name, out));
      else if (step.kind === 'conv') parts = [this.convolve(r, x, prefix + step.name, out)];
      else parts = [pool(r, x, step.kind, { window: [3, 3], stride: step.stride, padding: step.stride === 1 ? 1 : 0 })];
    }
    return parts;
  }

  private convolve(r: Recorder, x: Tensor, name: string, out: Outputs): Tensor {
    const y = conv(r, x, this.layers.get(name)!, { activation: 'relu' });
    if (name === SPATIAL_LAYER && out.spatial) {
      imageLayout(r, y, 'last', 'last', { channels: SPATIAL_CHANNELS, out: out.spatial });
    }
    return y;
  }

  /** Frees the weights. */
  dispose(): void {
    for (const layer of this.layers.values()) destroyConv(layer);
    destroyLinear(this.classifier);
  }
}

type Outputs = Readonly<Partial<Record<InceptionFeature, Tensor>>>;

/** One convolution with its batch norm folded in, in float64: y = (x * w - mean) weight / sqrt(var + eps) + bias. */
async function loadConv(device: Device, weights: InceptionWeights, layer: NamedConv): Promise<Conv> {
  const { name, inputs, outputs, kernel, stride, padded } = layer;
  const [w, scale, shift, mean, variance] = await Promise.all(
    ['conv.weight', 'bn.weight', 'bn.bias', 'bn.running_mean', 'bn.running_var'].map((part) =>
      weights.read(`${name}.${part}`),
    ),
  );
  const factor = Float64Array.from(scale, (value, o) => value / Math.sqrt(variance[o] + BATCH_NORM_EPS));
  const bias = Float32Array.from(shift, (value, o) => value - mean[o] * factor[o]);
  const taps = kernel[0] * kernel[1];
  // Images come with a fourth channel that is zero, so that vector kernels serve the first layer too.
  const padInputs = inputs === 3 ? 4 : inputs;
  const folded = new Float32Array(outputs * padInputs * taps);
  for (let o = 0; o < outputs; o++) {
    const [to, from] = [o * padInputs * taps, o * inputs * taps];
    for (let i = 0; i < inputs * taps; i++) folded[to + i] = w[from + i] * factor[o];
  }
  const [rows, columns] = padded ? kernel.map((size) => (size - 1) / 2) : [0, 0];
  const padding = { top: rows, bottom: rows, left: columns, right: columns };
  return createConv(device, name, { inputs: padInputs, outputs, kernel, stride, padding }, folded, bias);
}

/**
 * Opens the weights as torch-fidelity or pytorch-fid publish them, or the same in safetensors.
 * @throws EmigmError 'file' when it is missing or damaged, 'model' when it holds something else
 */
export async function loadInception(device: Device, path: string): Promise<Inception> {
  const file = await openStateDict(path);
  try {
    return await Inception.load(device, { shape: (name) => file.tensors.get(name)?.shape, read: file.read });
  } catch (error) {
    if (error instanceof EmigmError && error.code === 'model') {
      throw new EmigmError('model', `${path}: ${error.message}`, { cause: error });
    }
    throw error;
  } finally {
    await file.close();
  }
}
