/** The eMIGM network: encoder, decoder, diffusion head. The whole model on a screen or two. */
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { type Head, loadHead } from '../nn/head.ts';
import { defaultStored, WeightLoader, type WeightSource, withProgress } from '../nn/weights.ts';
import { type Linear, linear } from '../ops/matmul.ts';
import type { Stored } from '../ops/matmul_kernels.ts';
import { gatherRows, type Index } from '../ops/tokens.ts';
import { HEAD_PREFIX, type ModelConfig, parameterShapes, sequenceLength, tokenDim } from './config.ts';
import { type CacheRows, type EncoderCache, Trunk, type TrunkRows, type TrunkShape } from './trunk.ts';

export type { EncoderCache, TrunkShape } from './trunk.ts';

export interface EmigmOptions {
  /**
   * How weights of linear layers are stored. Default: f16 on GPUs that have it, else f32. With int8 the layers of all
   * blocks and between them are; those of tokens, of noise and of time stay as by default.
   */
  stored?: Stored;
  /** Called with the share of parameters loaded, 0 to 1. */
  onProgress?: (done: number) => void;
  /**
   * Called when the network has its memory and before its numbers are there: programs recorded on it now have their
   * kernels compiled meanwhile. Nothing may run on it yet.
   */
  onAllocated?: (network: Emigm) => void;
}

/** Where an evaluation finds its rows; all u32, made by the host. */
export interface TrunkIndices extends TrunkRows {
  /** Row of the token state for each visible token of each sequence. */
  tokenRows: Index;
  /** Grid position of each asked token. */
  queryPositions: Index;
  /** Where the encoder keeps what it has computed. */
  cache?: CacheRows;
}

export class Emigm {
  readonly device: Device;
  readonly config: ModelConfig;
  readonly sequenceLength: number;
  readonly tokenDim: number;
  readonly head: Head;
  private readonly loader: WeightLoader;
  private readonly trunk: Trunk;
  private readonly embed: Linear;
  private readonly diffusionPosition: Tensor;

  private constructor(
    device: Device,
    config: ModelConfig,
    loader: WeightLoader,
    parts: { trunk: Trunk; embed: Linear; diffusionPosition: Tensor; head: Head },
  ) {
    this.device = device;
    this.config = config;
    this.sequenceLength = sequenceLength(config);
    this.tokenDim = tokenDim(config);
    this.loader = loader;
    this.trunk = parts.trunk;
    this.embed = parts.embed;
    this.diffusionPosition = parts.diffusionPosition;
    this.head = parts.head;
  }

  /** [classes + 1, width]: class embeddings, and in the last row the unconditional input. */
  get classInputs(): Tensor {
    return this.trunk.classInputs;
  }

  /** How weights of linear layers are stored. */
  get stored(): Stored {
    return this.head.condition.stored;
  }

  /** Number of the row of `classInputs` that holds the unconditional input. */
  get unconditional(): number {
    return this.config.classes;
  }

  /** Puts a model's parameters on the device. @throws EmigmError 'memory' when they do not fit. */
  static async load(
    device: Device,
    config: ModelConfig,
    source: WeightSource,
    options: EmigmOptions = {},
  ): Promise<Emigm> {
    const stored = options.stored ?? defaultStored(device);
    const counted = withProgress(source, parameterShapes(config), options.onProgress);
    const loader = new WeightLoader(device, counted, stored, { later: true });
    try {
      const network = new Emigm(device, config, loader, {
        trunk: await Trunk.load(loader, config, source),
        embed: await loader.linear('z_proj', { precise: true }),
        diffusionPosition: await loader.tensor('diffusion_pos_embed_learned'),
        head: await loadHead(loader, `${HEAD_PREFIX}net.`, {
          depth: config.headDepth,
          width: config.headWidth,
          tokenDim: tokenDim(config),
        }),
      });
      options.onAllocated?.(network);
      await loader.finish();
      return network;
    } catch (error) {
      loader.destroy();
      throw error;
    }
  }

  /** The encoder; see `Trunk.encode`. `tokens` is the token state [*, tokenDim]; `kept` goes with `at.cache`. */
  encode(r: Recorder, tokens: Tensor, at: TrunkIndices, shape: TrunkShape, kept?: EncoderCache): Tensor {
    return r.within('encoder', () => {
      const count = shape.batch * (shape.fresh ?? (this.config.mae ? shape.visible : this.sequenceLength));
      const seen = count > 0 ? gatherRows(r, tokens, at.tokenRows, count, this.tokenDim) : undefined;
      const cache = kept && at.cache && { kept, rows: at.cache };
      return this.trunk.encode(r, seen && linear(r, seen, this.embed), at, shape, { cache });
    });
  }

  /** Memory for `encode` to keep what it computes of `sequences` sequences. */
  encoderCache(sequences: number): EncoderCache {
    return this.trunk.encoderCache(this.device, sequences);
  }

  /**
   * The decoder; its last block, norm and position embedding for the asked tokens alone.
   * Returns their conditions z [batch * queries, decoder width].
   */
  decode(r: Recorder, encoded: Tensor, at: TrunkIndices, shape: TrunkShape): Tensor {
    return r.within('decoder', () => {
      const z = this.trunk.decode(r, encoded, at, shape);
      const rows = shape.batch * shape.queries;
      gatherRows(r, this.diffusionPosition, at.queryPositions, rows, this.config.decoderWidth, { addTo: z });
      return z;
    });
  }

  /** Frees the weights. */
  dispose(): void {
    this.loader.destroy();
  }
}
