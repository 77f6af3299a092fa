/** The eMIGM network: encoder, decoder, diffusion head. The whole model on a screen or two. */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { type Block, block, blockForRows, loadBlock, loadQueryBlock, type QueryBlock } from '../nn/block.ts';
import { type Head, loadHead } from '../nn/head.ts';
import { WeightLoader, type WeightSource } from '../nn/weights.ts';
import { layernorm, type Norm } from '../ops/layernorm.ts';
import { type Linear, linear } from '../ops/matmul.ts';
import { decoderInput, encoderInput, gatherRows, type Index, replaceMasked } from '../ops/tokens.ts';
import { HEAD_PREFIX, type ModelConfig, parameterShapes, sequenceLength, tokenDim } from './config.ts';

export interface EmigmOptions {
  /** How weights of linear layers are stored. Default: f16 on GPUs that have it, else f32. */
  stored?: 'f32' | 'f16';
  /** Called with the share of parameters loaded, 0 to 1. */
  onProgress?: (done: number) => void;
  /**
   * Called when the network has its memory and before its numbers are there: programs recorded on it now have their
   * kernels compiled meanwhile. Nothing may run on it yet.
   */
  onAllocated?: (network: Emigm) => void;
}

/** One evaluation's sizes: how many sequences, how many visible tokens and asked rows in each. */
export interface TrunkShape {
  batch: number;
  visible: number;
  queries: number;
}

/** Where an evaluation finds its rows; all u32, made by the host. */
export interface TrunkIndices {
  /** Row of `classInputs` for each sequence. */
  classes: Index;
  /** Row of the token state for each visible token of each sequence. */
  tokenRows: Index;
  /** Grid position of each visible token. */
  visible: Index;
  /** Encoder row of each grid position, MASKED where masked. */
  slot: Index;
  /** The same with nothing masked: the single encoder has a row for every position. Unused with MAE. */
  identity: Index;
  /** Row of the decoder sequence for each asked token. */
  queryRows: Index;
  /** Grid position of each asked token. */
  queryPositions: Index;
}

export class Emigm {
  readonly device: Device;
  readonly config: ModelConfig;
  readonly sequenceLength: number;
  readonly tokenDim: number;
  readonly head: Head;
  /** [classes + 1, width]: class embeddings, and in the last row the unconditional input. */
  readonly classInputs: Tensor;
  private readonly loader: WeightLoader;
  private readonly maskToken: Tensor;
  private readonly encoder: { embed: Linear; position: Tensor; embedNorm: Norm; blocks: Block[]; norm: Norm };
  private readonly decoder: { embed: Linear; position: Tensor; blocks: Block[]; last: QueryBlock; norm: Norm };
  private readonly diffusionPosition: Tensor;

  private constructor(
    device: Device,
    config: ModelConfig,
    loader: WeightLoader,
    parts: Pick<Emigm, 'head' | 'classInputs'> & {
      maskToken: Tensor;
      encoder: Emigm['encoder'];
      decoder: Emigm['decoder'];
      diffusionPosition: Tensor;
    },
  ) {
    this.device = device;
    this.config = config;
    this.sequenceLength = sequenceLength(config);
    this.tokenDim = tokenDim(config);
    this.loader = loader;
    this.head = parts.head;
    this.classInputs = parts.classInputs;
    this.maskToken = parts.maskToken;
    this.encoder = parts.encoder;
    this.decoder = parts.decoder;
    this.diffusionPosition = parts.diffusionPosition;
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
    const stored = options.stored ?? (!device.isCpu && device.hasF16 ? 'f16' : 'f32');
    const total = [...parameterShapes(config).values()].reduce(
      (sum, shape) => sum + shape.reduce((a, b) => a * b, 1),
      0,
    );
    let read = 0;
    const loader = new WeightLoader(
      device,
      {
        shape: (name) => source.shape(name),
        read: async (name) => {
          const data = await source.read(name);
          options.onProgress?.(Math.min(1, (read += data.length) / total));
          return data;
        },
      },
      stored,
      { later: true },
    );
    try {
      const { encoderWidth, encoderHeads, decoderWidth, decoderHeads } = config;
      const classInputs = await loader.filled([config.classes + 1, encoderWidth], 'class inputs', async () => {
        const table = await source.read('class_emb.weight');
        const rows = new Float32Array((config.classes + 1) * encoderWidth);
        rows.set(table);
        rows.set(await source.read('fake_latent'), table.length);
        return rows;
      });
      const blocks = async (name: string, depth: number, width: number, heads: number): Promise<Block[]> => {
        const list: Block[] = [];
        for (let i = 0; i < depth; i++) list.push(await loadBlock(loader, `${name}.${i}`, width, heads));
        return list;
      };
      const last = config.decoderDepth - 1;
      const network = new Emigm(device, config, loader, {
        classInputs,
        maskToken: await loader.tensor(config.maskGuidance ? 'fake_latent' : 'mask_token'),
        encoder: {
          embed: await loader.linear('z_proj'),
          position: await loader.tensor('encoder_pos_embed_learned'),
          embedNorm: await loader.norm('z_proj_ln'),
          blocks: await blocks('encoder_blocks', config.encoderDepth, encoderWidth, encoderHeads),
          norm: await loader.norm('encoder_norm'),
        },
        decoder: {
          embed: await loader.linear('decoder_embed'),
          position: await loader.tensor('decoder_pos_embed_learned'),
          blocks: await blocks('decoder_blocks', last, decoderWidth, decoderHeads),
          last: await loadQueryBlock(loader, `decoder_blocks.${last}`, decoderWidth, decoderHeads),
          norm: await loader.norm('decoder_norm'),
        },
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

  /**
   * The encoder over buffer slots and visible tokens (with MAE), or over all tokens with mask tokens in their places.
   * `tokens` is the token state [*, tokenDim]. Returns [batch, buffer + visible, width].
   */
  encode(r: Recorder, tokens: Tensor, at: TrunkIndices, shape: TrunkShape): Tensor {
    const { mae, bufferSize: buffer, encoderWidth: width } = this.config;
    const { batch } = shape;
    const visible = mae ? shape.visible : this.sequenceLength;
    return r.within('encoder', () => {
      const classes = gatherRows(r, this.classInputs, at.classes, batch, width);
      const count = batch * visible;
      const embedded =
        count > 0
          ? linear(r, gatherRows(r, tokens, at.tokenRows, count, this.tokenDim), this.encoder.embed)
          : undefined;
      const input = encoderInput(r, classes, embedded, at.visible, this.encoder.position, {
        batch,
        buffer,
        visible,
        width,
      });
      const x = layernorm(r, input, width, { affine: this.encoder.embedNorm });
      if (!mae) replaceMasked(r, at.slot, this.maskToken, { batch, buffer, grid: visible, width }, x);
      for (const weights of this.encoder.blocks) block(r, x, weights, batch, buffer + visible);
      return layernorm(r, x, width, { affine: this.encoder.norm });
    });
  }

  /**
   * The decoder; its last block, norm and position embedding for the asked tokens alone.
   * Returns their conditions z [batch * queries, decoder width].
   */
  decode(r: Recorder, encoded: Tensor, at: TrunkIndices, shape: TrunkShape): Tensor {
    const { mae, bufferSize: buffer, decoderWidth: width } = this.config;
    const { batch, queries } = shape;
    const grid = this.sequenceLength;
    const from = buffer + (mae ? shape.visible : grid);
    if (queries === 0) throw new EmigmError('shape', 'decode: no token is asked for');
    return r.within('decoder', () => {
      const embedded = linear(r, encoded, this.decoder.embed);
      const slot = mae ? at.slot : at.identity;
      const x = decoderInput(r, embedded, slot, this.maskToken, this.decoder.position, {
        batch,
        buffer,
        grid,
        from,
        width,
      });
      for (const weights of this.decoder.blocks) block(r, x, weights, batch, buffer + grid);
      const y = blockForRows(r, x, this.decoder.last, batch, buffer + grid, at.queryRows, queries);
      const z = layernorm(r, y, width, { affine: this.decoder.norm });
      gatherRows(r, this.diffusionPosition, at.queryPositions, batch * queries, width, { addTo: z });
      return z;
    });
  }

  /** Frees the weights. */
  dispose(): void {
    this.loader.destroy();
  }
}
