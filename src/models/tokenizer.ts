/**
 * Tokenizers: autoencoders between images and the latents that models draw. One interface for all kinds, on arrays in
 * host memory; batches are split into what fits the adapter, and what does not fit at all goes through in tiles.
 */
import { EmigmError } from '../errors.ts';
import type { Device, DeviceOptions } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { normal } from '../ops/diffusion.ts';
import { imageLayout, posterior } from '../ops/image.ts';
import { STREAMS } from '../random.ts';
import type { ModelConfig } from './config.ts';
import { DC_AE_LATENT_SCALE, DcAe } from './dc_ae/dc_ae.ts';
import { dcAeParameters, dcAeStride } from './dc_ae/config.ts';
import { openDcAe } from './dc_ae/file.ts';
import { kl16Shapes, kl16Stride } from './kl16/config.ts';
import { openKl16 } from './kl16/file.ts';
import { KL16_LATENT_SCALE, Kl16 } from './kl16/kl16.ts';
import { loadOn, type OnDevice } from './on_device.ts';
import { itemCount, type Pass, Passes } from './passes.ts';
import { countOf } from './shapes.ts';
import { openStateDict } from './state_dict.ts';
import { cutTile, TileBlend, tileStarts } from './tiles.ts';

/** What the autoencoders have in common: each records its passes, channels last. */
interface Autoencoder {
  readonly stride: number;
  readonly config: { readonly channels: number };
  /** [batch, 3, height, width] in [-1, 1] to moments [.., 2 channels], or latents where there is no posterior. */
  encode(r: Recorder, images: Tensor): Tensor;
  /** [batch, height, width, channels] to images [batch, 3, ...]. */
  decode(r: Recorder, latents: Tensor, options: { scale: number; out: Tensor }): Tensor;
  /** Images of this size that fit one pass. */
  largestBatch(height: number, width: number): number;
  dispose(): void;
}

interface Kind {
  readonly name: string;
  /** Latents are multiplied by it for the models. */
  readonly scale: number;
  /** Whether the encoder gives mean and log-variance instead of the latent itself. */
  readonly hasPosterior: boolean;
  /** A parameter that only this kind has. */
  readonly mark: string;
  describe(path: string): Promise<Pick<TokenizerFacts, 'stride' | 'channels' | 'parameters'>>;
  load(device: Device, path: string, options: WeightOptions): Promise<Autoencoder>;
}

/** What a tokenizer's file holds. */
export interface TokenizerFacts {
  /** `KL-16`, `DC-AE`. */
  readonly kind: string;
  /** Pixels of a side that make one latent. */
  readonly stride: number;
  /** Numbers a latent. */
  readonly channels: number;
  /** Latents are multiplied by it for the models. */
  readonly scale: number;
  readonly hasPosterior: boolean;
  readonly parameters: number;
}

interface WeightOptions {
  stored?: 'f32' | 'f16';
  onProgress?: (done: number) => void;
}

const KINDS: readonly Kind[] = [
  {
    name: 'KL-16',
    scale: KL16_LATENT_SCALE,
    hasPosterior: true,
    mark: 'post_quant_conv.weight',
    async describe(path) {
      const { config, close } = await openKl16(path);
      await close();
      return { stride: kl16Stride(config), channels: config.channels, parameters: countOf(kl16Shapes(config)) };
    },
    async load(device, path, options) {
      const file = await openKl16(path);
      try {
        return await Kl16.load(device, file.config, file, options);
      } finally {
        await file.close();
      }
    },
  },
  {
    name: 'DC-AE',
    scale: DC_AE_LATENT_SCALE,
    hasPosterior: false,
    mark: 'encoder.project_out.main.op_list.0.conv.weight',
    async describe(path) {
      const { config, close } = await openDcAe(path);
      await close();
      return { stride: dcAeStride(config), channels: config.channels, parameters: countOf(dcAeParameters(config)) };
    },
    async load(device, path, options) {
      const file = await openDcAe(path);
      try {
        return await DcAe.load(device, file.config, file, options);
      } finally {
        await file.close();
      }
    },
  },
];

export interface LoadTokenizerOptions extends WeightOptions {
  /** Which adapter; or a device that is open already (it stays open at dispose). */
  device?: DeviceOptions | Device;
  /** Images at once at most. Default: as many as make eight of 256 x 256 pixels on a GPU, one on a CPU driver. */
  batch?: number;
}

/** Height and width: of images in pixels, of latents in latents. */
export interface MapSize {
  readonly height: number;
  readonly width: number;
}

/**
 * Opens a tokenizer and puts its weights on a device; the kind is told by the file's parameters.
 * @throws EmigmError 'file' for a damaged file, 'model' for one of another kind, 'adapter', 'memory'
 */
export async function loadTokenizer(path: string, options: LoadTokenizerOptions = {}): Promise<Tokenizer> {
  const { device: wanted, batch, ...weights } = options;
  const kind = await kindOf(path);
  if (!kind) {
    const known = KINDS.map(({ name }) => name).join(' or ');
    throw new EmigmError('model', `${path}: no tokenizer that is known (${known})`);
  }
  return new Tokenizer(kind, await loadOn(wanted, (device) => kind.load(device, path, weights)), batch);
}

/**
 * What a tokenizer's file holds, by its parameters' names and shapes; undefined for files of something else.
 * @throws EmigmError 'file' for a damaged file, 'model' for a tokenizer with other parameters than its kind has
 */
export async function describeTokenizer(path: string): Promise<TokenizerFacts | undefined> {
  const kind = await kindOf(path);
  if (!kind) return undefined;
  const { name, scale, hasPosterior } = kind;
  return { kind: name, scale, hasPosterior, ...(await kind.describe(path)) };
}

async function kindOf(path: string): Promise<Kind | undefined> {
  const { tensors, close } = await openStateDict(path);
  await close();
  return KINDS.find(({ mark }) => tensors.has(mark));
}

/** @throws EmigmError 'input' when the tokenizer's latents are not those that the model draws */
export function checkTokenizer(
  model: Pick<ModelConfig, 'channels' | 'vaeStride'>,
  tokenizer: Pick<TokenizerFacts, 'channels' | 'stride' | 'kind'>,
  file: string,
): void {
  const { channels, stride, kind } = tokenizer;
  if (model.channels === channels && model.vaeStride === stride) return;
  const needs =
    model.vaeStride === 1
      ? 'draws pixels and needs no tokenizer'
      : `needs latents of ${model.channels} channels for ${model.vaeStride} x ${model.vaeStride} pixels`;
  throw new EmigmError(
    'input',
    `${file}: ${kind} has latents of ${channels} channels for ${stride} x ${stride} pixels; the model ${needs}`,
  );
}

const GPU_PIXELS = 8 * 256 * 256;
const CPU_PIXELS = 256 * 256;
/** Smallest tile, in latents of a side. */
const LEAST_TILE = 8;

export class Tokenizer {
  readonly device: Device;
  /** `KL-16`, `DC-AE`. */
  readonly kind: string;
  /** Pixels of a side that make one latent. */
  readonly stride: number;
  /** Numbers a latent. */
  readonly channels: number;
  /** Latents are multiplied by it for the models. */
  readonly scale: number;
  /** Whether `encode` gives mean and log-variance, [2 channels, ...], instead of the latent itself. */
  readonly hasPosterior: boolean;
  /** Time spent so far, from submitting to reading; without compiling. */
  readonly seconds = { encode: 0, decode: 0 };
  private readonly loaded: OnDevice<Autoencoder>;
  private readonly network: Autoencoder;
  private readonly batch: number | undefined;
  private readonly passes: Passes;

  /** @internal use `loadTokenizer` */
  constructor(kind: Kind, loaded: OnDevice<Autoencoder>, batch: number | undefined) {
    const { device, network } = loaded;
    this.device = device;
    this.passes = new Passes(device);
    this.kind = kind.name;
    this.scale = kind.scale;
    this.hasPosterior = kind.hasPosterior;
    this.loaded = loaded;
    this.network = network;
    this.stride = network.stride;
    this.channels = network.config.channels;
    this.batch = batch;
  }

  /** Images of this size at once: what was asked for, within what one pass can hold. 0: only in tiles. */
  largestBatch({ height, width }: MapSize): number {
    const asked =
      this.batch ?? Math.max(1, Math.floor((this.device.isCpu ? CPU_PIXELS : GPU_PIXELS) / (height * width)));
    return Math.min(asked, this.network.largestBatch(height, width));
  }

  /** Size of the latents of images of this size. @throws EmigmError 'input' when a side is no multiple of the stride */
  latentSize({ height, width }: MapSize): MapSize {
    const { stride } = this;
    if (!(height > 0 && width > 0) || height % stride !== 0 || width % stride !== 0) {
      throw new EmigmError(
        'input',
        `${this.kind} takes images whose sides are multiples of ${stride}, not ${width} x ${height}`,
      );
    }
    return { height: height / stride, width: width / stride };
  }

  /**
   * Encodes images [n, 3, height, width] in [-1, 1] as they are cached: moments [n, 2 channels, h, w] (mean, then
   * log-variance), or latents [n, channels, h, w] of a kind without a posterior; not scaled.
   * @throws EmigmError 'input' for sides that do not fit, 'memory' when not even a tile fits, 'aborted'
   */
  async encode(images: Float32Array, size: MapSize, signal?: AbortSignal): Promise<Float32Array<ArrayBuffer>> {
    const latents = this.latentSize(size);
    const whole = this.encodePass(latents);
    if (this.passes.fits(whole)) return this.passes.all(whole, images, { signal, onSeconds: this.count('encode') });
    const each = whole.output.reduce((a, b) => a * b, 1);
    const all = new Float32Array(itemCount(images, whole) * each);
    for (const [i, image] of itemsOf(images, whole).entries()) {
      all.set(await this.inTiles('encode', image, latents, whole, signal), i * each);
    }
    return all;
  }

  private encodePass({ height, width }: MapSize): Pass {
    const { stride, network } = this;
    const pixels = { height: stride * height, width: stride * width };
    return {
      name: 'encode',
      task: encodeTask(pixels),
      input: [3, pixels.height, pixels.width],
      output: [(this.hasPosterior ? 2 : 1) * this.channels, height, width],
      ...this.limits(pixels),
      record: (r, { input, output }) => {
        imageLayout(r, network.encode(r, input), 'last', 'planes', { out: output });
      },
    };
  }

  /**
   * Images as the latents [n, channels, h, w] that models work on, times `scale`: the posterior's mean, or with `draw`
   * a sample, by the seed and each image's index.
   * @throws EmigmError as `encode`
   */
  async latents(
    images: Float32Array,
    size: MapSize,
    options: {
      draw?: { seed: number | bigint; indices: readonly number[] };
      scale?: number;
      signal?: AbortSignal;
    } = {},
  ): Promise<Float32Array<ArrayBuffer>> {
    const { height, width } = this.latentSize(size);
    const { scale = this.scale, signal } = options;
    const draw = this.hasPosterior ? options.draw : undefined;
    const onSeconds = this.count('encode');
    const pass = (isWhole: boolean): Pass => ({
      name: `${isWhole ? '' : 'encoded '}latents ${scale} ${draw?.seed}`,
      task: encodeTask(size),
      input: isWhole ? [3, size.height, size.width] : this.encodePass({ height, width }).output,
      output: [this.channels, height, width],
      ...(isWhole ? this.limits(size) : { batch: 1, limit: 1 }),
      rows: draw && height * width,
      record: (r, { input, output, rows }) => {
        const encoded = isWhole ? this.network.encode(r, input) : imageLayout(r, input, 'planes', 'last');
        if (!this.hasPosterior) return void imageLayout(r, encoded, 'last', 'planes', { scale, out: output });
        let noise: Tensor | undefined;
        if (draw && rows) {
          noise = r.temp([output.size / this.channels, this.channels], 'f32', 'posterior noise');
          const key = { seed: draw.seed, stream: STREAMS.posterior, step: 0, headStep: 0 };
          normal(r, rows, 0, output.size / this.channels, this.channels, key, noise);
        }
        imageLayout(r, posterior(r, encoded, { noise, scale }), 'last', 'planes', { out: output });
      },
    });
    const isWhole = this.passes.fits(pass(true));
    const input = isWhole ? images : await this.encode(images, size, signal);
    return this.passes.all(pass(isWhole), input, { signal, indices: draw?.indices, onSeconds });
  }

  /**
   * Decodes latents [n, channels, height, width], which are divided by `scale` first (default: the kind's; 1 for
   * latents as they are cached). Yields the images [3, stride height, stride width] one by one; those of a sub-batch
   * are decoded together.
   * @throws EmigmError 'memory' when not even a tile fits, 'aborted'
   */
  async *decode(
    latents: Float32Array,
    size: MapSize,
    { scale = this.scale, signal }: { scale?: number; signal?: AbortSignal } = {},
  ): AsyncGenerator<Float32Array<ArrayBuffer>> {
    const pass = this.decodePass(size, scale);
    if (this.passes.fits(pass)) {
      yield* this.passes.run(pass, latents, { signal, onSeconds: this.count('decode') });
      return;
    }
    for (const latent of itemsOf(latents, pass)) yield await this.inTiles('decode', latent, size, pass, signal, scale);
  }

  private decodePass({ height, width }: MapSize, scale: number): Pass {
    const { channels, stride, network } = this;
    const pixels = { height: stride * height, width: stride * width };
    return {
      name: `decode ${scale}`,
      task: `decode maps of ${width} x ${height} latents`,
      input: [channels, height, width],
      output: [3, pixels.height, pixels.width],
      ...this.limits(pixels),
      record: (r, { input, output }) => {
        network.decode(r, imageLayout(r, input, 'planes', 'last'), { scale, out: output });
      },
    };
  }

  /**
   * Tiles of half, a quarter ... of the side of the `whole`, with a quarter of a tile in common; norms see a tile at a
   * time. `size`: of the latents.
   */
  private async inTiles(
    kind: 'encode' | 'decode',
    map: Float32Array,
    size: MapSize,
    whole: Pass,
    signal?: AbortSignal,
    scale = 1,
  ): Promise<Float32Array<ArrayBuffer>> {
    // Numbers of a side that a latent is, of what is cut and of what is blended.
    const [from, to] = kind === 'encode' ? [this.stride, 1] : [1, this.stride];
    const source = { height: from * size.height, width: from * size.width };
    const [channels, height, width] = whole.output;
    for (let side = 2 ** Math.ceil(Math.log2(Math.max(size.height, size.width)) - 1); side >= LEAST_TILE; side /= 2) {
      const tile = { height: Math.min(side, size.height), width: Math.min(side, size.width) };
      const pass = kind === 'encode' ? this.encodePass(tile) : this.decodePass(tile, scale);
      if (!this.passes.fits(pass)) continue;
      const overlap = side / 4;
      const blend = new TileBlend({ channels, height, width }, to * overlap);
      for (const top of tileStarts(size.height, tile.height, overlap)) {
        for (const left of tileStarts(size.width, tile.width, overlap)) {
          const at = (by: number) => {
            return { top: by * top, left: by * left, rows: by * tile.height, columns: by * tile.width };
          };
          const part = cutTile(map, source, at(from));
          blend.add(await this.passes.all(pass, part, { signal, onSeconds: this.count(kind) }), at(to));
        }
      }
      return blend.result();
    }
    throw new EmigmError(
      'memory',
      `${this.kind} cannot ${kind} tiles of ${LEAST_TILE} latents of a side in the memory that is left`,
    );
  }

  private limits(size: MapSize): { batch: number; limit: number } {
    return { batch: this.largestBatch(size), limit: this.network.largestBatch(size.height, size.width) };
  }

  private count(kind: 'encode' | 'decode') {
    return (seconds: number): void => {
      this.seconds[kind] += seconds;
    };
  }

  /** Frees the weights and all that passes took, and the device unless it was given. */
  dispose(): void {
    this.passes.dispose();
    this.loaded.dispose();
  }
}

const encodeTask = ({ height, width }: MapSize): string => `encode pictures of ${width} x ${height} pixels`;

/** Each item of those that a pass takes. */
function itemsOf(items: Float32Array, pass: Pass): Float32Array[] {
  const count = itemCount(items, pass);
  const size = items.length / count;
  return Array.from({ length: count }, (_, i) => items.subarray(i * size, (i + 1) * size));
}
