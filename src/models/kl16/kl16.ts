/**
 * KL-16, the autoencoder of the 256 px models: images to latents of a sixteenth of the side, and back. models/vae.py of
 * the official code (latent diffusion's; Rombach et al. 2022). The whole network on a screen or two.
 */
import { EmigmError } from '../../errors.ts';
import type { Device } from '../../gpu/device.ts';
import type { Recorder } from '../../gpu/recorder.ts';
import { describeTensor, type Tensor } from '../../gpu/tensor.ts';
import {
  type ConvLoader,
  loadConv,
  loadMapAttention,
  loadResidualBlock,
  type MapAttention,
  mapAttention,
  paddedChannels,
  type ResidualBlock,
  residualBlock,
} from '../../nn/conv_blocks.ts';
import { defaultStored, WeightLoader, type WeightSource, withProgress } from '../../nn/weights.ts';
import { type Conv, conv } from '../../ops/conv.ts';
import { groupNorm } from '../../ops/group_norm.ts';
import { imageLayout, posterior } from '../../ops/image.ts';
import type { Norm } from '../../ops/layernorm.ts';
import { type Observer, observer, type Seen } from '../observer.ts';
import { type Kl16Config, kl16Shapes, kl16Stride } from './config.ts';

/** Latents are multiplied by it for the models, and divided by it before they are decoded. */
export const KL16_LATENT_SCALE = 0.2325;

export interface Kl16Options {
  /** How weights are stored. Default: f16 on GPUs that have it, else f32; CPU kernels read f32. */
  stored?: 'f32' | 'f16';
  /** Called with the share of parameters loaded, 0 to 1. */
  onProgress?: (done: number) => void;
}

interface Level {
  blocks: ResidualBlock[];
  /** Empty, or one for each block. */
  attention: MapAttention[];
  /** Towards the next level; the last one has none. */
  resample?: Conv;
}

interface Middle {
  block1: ResidualBlock;
  attention: MapAttention;
  block2: ResidualBlock;
}

interface Half {
  convIn: Conv;
  /** In the order of the pass. */
  levels: Level[];
  middle: Middle;
  norm: Norm;
  convOut: Conv;
}

export class Kl16 {
  readonly device: Device;
  readonly config: Kl16Config;
  /** Pixels of a side that make one latent: 16. */
  readonly stride: number;
  private readonly loader: WeightLoader;
  private readonly encoder: Half;
  private readonly decoder: Half;
  private readonly quantConv: Conv;
  private readonly postQuantConv: Conv;

  private constructor(
    device: Device,
    config: Kl16Config,
    loader: WeightLoader,
    parts: { encoder: Half; decoder: Half; quantConv: Conv; postQuantConv: Conv },
  ) {
    this.device = device;
    this.config = config;
    this.stride = kl16Stride(config);
    this.loader = loader;
    this.encoder = parts.encoder;
    this.decoder = parts.decoder;
    this.quantConv = parts.quantConv;
    this.postQuantConv = parts.postQuantConv;
  }

  /**
   * Puts the weights on the device; parameters by their official names.
   * @throws EmigmError 'memory' when they do not fit
   */
  static async load(
    device: Device,
    config: Kl16Config,
    source: WeightSource,
    options: Kl16Options = {},
  ): Promise<Kl16> {
    const stored = options.stored ?? defaultStored(device);
    const counted = withProgress(source, kl16Shapes(config), options.onProgress);
    const loader = new WeightLoader(device, counted, stored);
    const from: ConvLoader = { load: loader, source: counted, stored };
    try {
      return new Kl16(device, config, loader, {
        encoder: await loadHalf(from, config, 'encoder'),
        decoder: await loadHalf(from, config, 'decoder'),
        quantConv: await loadConv(from, 'quant_conv'),
        postQuantConv: await loadConv(from, 'post_quant_conv'),
      });
    } catch (error) {
      loader.destroy();
      throw error;
    }
  }

  /**
   * Records the encoder. `images` [batch, 3, height, width] in [-1, 1], sides multiples of 16. Returns the posterior's
   * moments, channels last, [batch, height / 16, width / 16, 2 * 16]: mean, then log variance (not clamped).
   */
  encode(r: Recorder, images: Tensor, observe?: Observer): Tensor {
    const { image } = this.config;
    const [, planes, height, width] = images.shape;
    if (images.shape.length !== 4 || planes !== image || height % this.stride !== 0 || width % this.stride !== 0) {
      throw new EmigmError(
        'shape',
        `KL-16 encodes [batch, ${image}, height, width] with sides that are multiples of ${this.stride}, ` +
          `not ${describeTensor(images)}`,
      );
    }
    const { convIn, levels, middle, norm, convOut } = this.encoder;
    return r.within('vae encoder', () => {
      const seen = observer(observe, 'encoder');
      let x = imageLayout(r, images, 'planes', 'last', { channels: paddedChannels(image) });
      x = seen('conv_in', conv(r, x, convIn));
      levels.forEach((level, i) => {
        x = runLevel(r, x, level, `down.${i}`, seen);
        if (level.resample) x = seen(`down.${i}.downsample`, conv(r, x, level.resample));
      });
      x = runMiddle(r, x, middle, seen);
      x = seen('norm_out', groupNorm(r, x, norm, { silu: true }));
      x = seen('conv_out', conv(r, x, convOut));
      const moments = conv(r, x, this.quantConv);
      const count = 2 * this.config.channels;
      return moments.shape[3] === count ? moments : imageLayout(r, moments, 'last', 'last', { channels: count });
    });
  }

  /**
   * Records a draw from the posterior: scale (mean + std noise), times `scale` (default 0.2325, as the models want
   * latents). `noise` is standard normal, channels last like the result [batch, height, width, 16]: `normal` of
   * ops/diffusion.ts makes it; without it the mean.
   */
  latents(r: Recorder, moments: Tensor, options: { noise?: Tensor; scale?: number; out?: Tensor } = {}): Tensor {
    return posterior(r, moments, { scale: KL16_LATENT_SCALE, ...options });
  }

  /**
   * Records the decoder. `latents` [batch, height, width, 16], channels last, divided by `scale` (default 0.2325, as
   * the models make them; 1 for latents as the encoder has them). Returns images [batch, 3, 16 height, 16 width].
   */
  decode(
    r: Recorder,
    latents: Tensor,
    { scale = KL16_LATENT_SCALE, out, observe }: { scale?: number; out?: Tensor; observe?: Observer } = {},
  ): Tensor {
    const { image, channels } = this.config;
    if (latents.shape.length !== 4 || latents.shape[3] !== channels) {
      throw new EmigmError(
        'shape',
        `KL-16 decodes [batch, height, width, ${channels}], not ${describeTensor(latents)} (${latents.label})`,
      );
    }
    const { convIn, levels, middle, norm, convOut } = this.decoder;
    return r.within('vae decoder', () => {
      const seen = observer(observe, 'decoder');
      const unscaled = imageLayout(r, latents, 'last', 'last', {
        channels: paddedChannels(channels),
        scale: 1 / scale,
      });
      let x = conv(r, unscaled, this.postQuantConv);
      x = seen('conv_in', conv(r, x, convIn));
      x = runMiddle(r, x, middle, seen);
      levels.forEach((level, i) => {
        const name = `up.${levels.length - 1 - i}`;
        x = runLevel(r, x, level, name, seen);
        if (level.resample) x = seen(`${name}.upsample`, conv(r, x, level.resample));
      });
      x = seen('norm_out', groupNorm(r, x, norm, { silu: true }));
      x = seen('conv_out', conv(r, x, convOut));
      return imageLayout(r, x, 'last', 'planes', { channels: image, out });
    });
  }

  /** Images of this size that fit one pass: their largest activation must fit a buffer. 0: not even one does. */
  largestBatch(height: number, width: number): number {
    const { width: channels, multipliers } = this.config;
    // The decoder's upsampling doubles the side before the width changes.
    const widths = multipliers.map((m, level) => (Math.max(m, multipliers[level + 1] ?? 0) * channels) / 4 ** level);
    return Math.floor(this.device.largestBuffer / (4 * height * width * Math.max(...widths)));
  }

  /** Frees the weights. */
  dispose(): void {
    this.loader.destroy();
  }
}

const ONE_BELOW_AND_RIGHT = { top: 0, left: 0, bottom: 1, right: 1 };

async function loadHalf(from: ConvLoader, config: Kl16Config, half: 'encoder' | 'decoder'): Promise<Half> {
  const isEncoder = half === 'encoder';
  const { multipliers, attention } = config;
  const blocks = config.blocks + (isEncoder ? 0 : 1);
  const last = multipliers.length - 1;
  const levels: Level[] = [];
  for (let i = 0; i <= last; i++) {
    const number = isEncoder ? i : last - i;
    const name = `${half}.${isEncoder ? 'down' : 'up'}.${number}`;
    const level: Level = { blocks: [], attention: [] };
    for (let j = 0; j < blocks; j++) {
      level.blocks.push(await loadResidualBlock(from, `${name}.block.${j}`));
      if (isEncoder && attention.includes(number)) {
        level.attention.push(await loadMapAttention(from, `${name}.attn.${j}`));
      }
    }
    if (isEncoder && number !== last) {
      level.resample = await loadConv(from, `${name}.downsample.conv`, { stride: 2, padding: ONE_BELOW_AND_RIGHT });
    }
    if (!isEncoder && number !== 0) level.resample = await loadConv(from, `${name}.upsample.conv`, { upsample: true });
    levels.push(level);
  }
  return {
    convIn: await loadConv(from, `${half}.conv_in`),
    levels,
    middle: {
      block1: await loadResidualBlock(from, `${half}.mid.block_1`),
      attention: await loadMapAttention(from, `${half}.mid.attn_1`),
      block2: await loadResidualBlock(from, `${half}.mid.block_2`),
    },
    norm: await from.load.norm(`${half}.norm_out`),
    convOut: await loadConv(from, `${half}.conv_out`),
  };
}

function runLevel(r: Recorder, input: Tensor, { blocks, attention }: Level, name: string, seen: Seen): Tensor {
  let x = input;
  blocks.forEach((block, i) => {
    x = seen(`${name}.block.${i}`, residualBlock(r, x, block));
    if (attention[i]) x = seen(`${name}.attn.${i}`, mapAttention(r, x, attention[i]));
  });
  return x;
}

function runMiddle(r: Recorder, input: Tensor, { block1, attention, block2 }: Middle, seen: Seen): Tensor {
  const x = seen('mid.block_1', residualBlock(r, input, block1));
  const y = seen('mid.attn_1', mapAttention(r, x, attention));
  return seen('mid.block_2', residualBlock(r, y, block2));
}
