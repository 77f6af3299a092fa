/**
 * DC-AE, the autoencoder of the 512 px models: images to latents of a 32nd of the side, and back; deterministic. As
 * efficientvit's code has it (Chen et al. 2024, Deep Compression Autoencoder). The whole network on a screen or two.
 */
import { EmigmError } from '../../errors.ts';
import type { Device } from '../../gpu/device.ts';
import type { Recorder } from '../../gpu/recorder.ts';
import { describeTensor, type Tensor } from '../../gpu/tensor.ts';
import { type ConvLoader, loadConv, paddedChannels } from '../../nn/conv_blocks.ts';
import { defaultStored, WeightLoader, type WeightSource, withProgress } from '../../nn/weights.ts';
import { type Conv, conv } from '../../ops/conv.ts';
import { imageLayout } from '../../ops/image.ts';
import type { Norm } from '../../ops/layernorm.ts';
import { pixelShuffle, pixelUnshuffle } from '../../ops/pixel_shuffle.ts';
import { rmsNorm } from '../../ops/rms_norm.ts';
import { type Observer, observer, type Seen } from '../observer.ts';
import {
  type DcAeLayer,
  type Downsample,
  downsample,
  loadBlock,
  loadDownsample,
  loadUpsample,
  runBlock,
  type Upsample,
  upsample,
} from './blocks.ts';
import { borderConv, type DcAeConfig, dcAeShapes, dcAeStride, entersHalved, isUnread } from './config.ts';

/** Latents of dc-ae-f32c32-in-1.0 are multiplied by it for the models, and divided by it before they are decoded. */
export const DC_AE_LATENT_SCALE = 0.3189;

export interface DcAeOptions {
  /** How weights are stored. Default: f16 on GPUs that have it, else f32; CPU kernels' convolutions read f32. */
  stored?: 'f32' | 'f16';
  /** Called with the share of parameters loaded, 0 to 1. */
  onProgress?: (done: number) => void;
}

interface Stage<Resample> {
  blocks: DcAeLayer[];
  resample?: Resample;
}

interface Encoder {
  projectIn: Conv;
  stages: Stage<Downsample>[];
  projectOut: Conv;
}

interface Decoder {
  projectIn: Conv;
  stages: Stage<Upsample>[];
  norm: Norm;
  projectOut: Conv;
}

export class DcAe {
  readonly device: Device;
  readonly config: DcAeConfig;
  /** Pixels of a side that make one latent: 32. */
  readonly stride: number;
  private readonly loader: WeightLoader;
  private readonly encoder: Encoder;
  private readonly decoder: Decoder;

  private constructor(
    device: Device,
    config: DcAeConfig,
    loader: WeightLoader,
    halves: { encoder: Encoder; decoder: Decoder },
  ) {
    this.device = device;
    this.config = config;
    this.stride = dcAeStride(config);
    this.loader = loader;
    this.encoder = halves.encoder;
    this.decoder = halves.decoder;
  }

  /**
   * Puts the weights on the device; parameters by their official names. Batch norms are folded into the convolutions
   * before them.
   * @throws EmigmError 'memory' when they do not fit
   */
  static async load(
    device: Device,
    config: DcAeConfig,
    source: WeightSource,
    options: DcAeOptions = {},
  ): Promise<DcAe> {
    const stored = options.stored ?? defaultStored(device);
    const read = [...dcAeShapes(config)].filter(([name]) => !isUnread(name));
    const counted = withProgress(source, new Map(read), options.onProgress);
    const loader = new WeightLoader(device, counted, stored);
    const from: ConvLoader = { load: loader, source: counted, stored };
    try {
      return new DcAe(device, config, loader, {
        encoder: await loadEncoder(from, config),
        decoder: await loadDecoder(from, config),
      });
    } catch (error) {
      loader.destroy();
      throw error;
    }
  }

  /**
   * Records the encoder. `images` [batch, 3, height, width] in [-1, 1], sides multiples of 32. Returns latents,
   * channels last, [batch, height / 32, width / 32, 32], times `scale` (default 1: as they are cached; the models want
   * `DC_AE_LATENT_SCALE`).
   */
  encode(
    r: Recorder,
    images: Tensor,
    { scale = 1, out, observe }: { scale?: number; out?: Tensor; observe?: Observer } = {},
  ): Tensor {
    const { image, channels, encoder: stages } = this.config;
    const [, planes, height, width] = images.shape;
    if (images.shape.length !== 4 || planes !== image || height % this.stride !== 0 || width % this.stride !== 0) {
      throw new EmigmError(
        'shape',
        `DC-AE encodes [batch, ${image}, height, width] with sides that are multiples of ${this.stride}, ` +
          `not ${describeTensor(images)}`,
      );
    }
    const { projectIn, projectOut } = this.encoder;
    return r.within('vae encoder', () => {
      const seen = observer(observe, 'encoder');
      let x = imageLayout(r, images, 'planes', 'last', { channels: paddedChannels(image) });
      x = conv(r, x, projectIn);
      if (entersHalved(stages)) x = pixelUnshuffle(r, x, stages[1].width);
      x = seen('project_in', x);
      this.encoder.stages.forEach(({ blocks, resample }, s) => {
        if (blocks.length === 0) return;
        const name = `stages.${s}`;
        x = runBlocks(r, x, blocks, name, 0, seen);
        if (resample) x = seen(`${name}.op_list.${blocks.length}`, downsample(r, x, resample));
        x = seen(name, x);
      });
      return seen(
        'project_out',
        pixelUnshuffle(r, conv(r, x, projectOut), channels, { factor: 1, shortcut: x, scale, out }),
      );
    });
  }

  /**
   * Records the decoder. `latents` [batch, height, width, 32], channels last, divided by `scale` (default 0.3189, as
   * the models make them; 1 for latents as the encoder has them). Returns images [batch, 3, 32 height, 32 width].
   */
  decode(
    r: Recorder,
    latents: Tensor,
    { scale = DC_AE_LATENT_SCALE, out, observe }: { scale?: number; out?: Tensor; observe?: Observer } = {},
  ): Tensor {
    const { image, channels, decoder: stages } = this.config;
    if (latents.shape.length !== 4 || latents.shape[3] !== channels) {
      throw new EmigmError(
        'shape',
        `DC-AE decodes [batch, height, width, ${channels}], not ${describeTensor(latents)} (${latents.label})`,
      );
    }
    const { projectIn, norm, projectOut } = this.decoder;
    return r.within('vae decoder', () => {
      const seen = observer(observe, 'decoder');
      const unscaled = imageLayout(r, latents, 'last', 'last', { scale: 1 / scale });
      const entered = conv(r, unscaled, projectIn);
      let x = seen('project_in', pixelShuffle(r, entered, entered.shape[3], { factor: 1, shortcut: unscaled }));
      for (let s = stages.length - 1; s >= 0; s--) {
        const { blocks, resample } = this.decoder.stages[s];
        if (blocks.length === 0) continue;
        const name = `stages.${s}`;
        if (resample) x = seen(`${name}.op_list.0`, upsample(r, x, resample));
        x = seen(name, runBlocks(r, x, blocks, name, resample ? 1 : 0, seen));
      }
      x = conv(r, rmsNorm(r, x, norm, { relu: true }), projectOut);
      if (entersHalved(stages)) x = pixelShuffle(r, x, image);
      return imageLayout(r, x, 'last', 'planes', { channels: image, out });
    });
  }

  /** Images of this size that fit one pass: their largest activation must fit a buffer. 0: not even one does. */
  largestBatch(height: number, width: number): number {
    const pixels = height * width;
    return Math.floor(this.device.largestBuffer / (4 * Math.max(...activationSizes(this.config, pixels))));
  }

  /** Frees the weights. */
  dispose(): void {
    this.loader.destroy();
  }
}

/** Numbers of the largest activations of each stage, for an image of so many pixels. */
function activationSizes({ encoder, decoder, image, scales }: DcAeConfig, pixels: number): number[] {
  const stages = [encoder, decoder].flatMap((half) =>
    half.map(({ width, depth, block }, s) => {
      // Attention stages: the mobile convolution's hidden channels, or all that attention gives.
      const widest = block === 'attention' && depth > 0 ? Math.max(8, 1 + scales.length) : 1;
      return (width * widest * pixels) / 4 ** s;
    }),
  );
  return [...stages, paddedChannels(image) * pixels];
}

async function loadEncoder(from: ConvLoader, { encoder, scales }: DcAeConfig): Promise<Encoder> {
  const stages: Stage<Downsample>[] = [];
  const projectIn = await loadConv(from, borderConv('encoder', entersHalved(encoder)));
  for (const [s, stage] of encoder.entries()) {
    const name = `encoder.stages.${s}.op_list`;
    const blocks = await loadBlocks(from, name, 0, stage, scales.length);
    const next = stage.depth > 0 ? encoder[s + 1] : undefined;
    const resample = next && (await loadDownsample(from, `${name}.${stage.depth}`, next.width));
    stages.push({ blocks, resample });
  }
  return { projectIn, stages, projectOut: await loadConv(from, 'encoder.project_out.main.op_list.0.conv') };
}

async function loadDecoder(from: ConvLoader, { decoder, scales }: DcAeConfig): Promise<Decoder> {
  const stages: Stage<Upsample>[] = [];
  const projectIn = await loadConv(from, 'decoder.project_in.main.conv');
  for (const [s, stage] of decoder.entries()) {
    const name = `decoder.stages.${s}.op_list`;
    const resamples = stage.depth > 0 && s + 1 < decoder.length;
    const resample = resamples ? await loadUpsample(from, `${name}.0`, stage.width) : undefined;
    stages.push({ blocks: await loadBlocks(from, name, resamples ? 1 : 0, stage, scales.length), resample });
  }
  return {
    projectIn,
    stages,
    norm: await from.load.norm('decoder.project_out.op_list.0'),
    projectOut: await loadConv(from, borderConv('decoder', entersHalved(decoder))),
  };
}

async function loadBlocks(
  from: ConvLoader,
  name: string,
  first: number,
  stage: DcAeConfig['encoder'][number],
  scales: number,
): Promise<DcAeLayer[]> {
  const blocks: DcAeLayer[] = [];
  for (let i = 0; i < stage.depth; i++) blocks.push(await loadBlock(from, `${name}.${first + i}`, stage, scales));
  return blocks;
}

function runBlocks(
  r: Recorder,
  input: Tensor,
  blocks: readonly DcAeLayer[],
  stage: string,
  first: number,
  seen: Seen,
): Tensor {
  let x = input;
  blocks.forEach((block, i) => {
    const name = `${stage}.op_list.${first + i}`;
    x = seen(name, runBlock(r, x, block, name, seen));
  });
  return x;
}
