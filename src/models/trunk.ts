/** What continuous and discrete models have in common: the encoder of what is known, the decoder of what is asked. */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { type Block, block, blockForRows, loadBlock, loadQueryBlock, type QueryBlock } from '../nn/block.ts';
import type { WeightLoader, WeightSource } from '../nn/weights.ts';
import { layernorm, type Norm } from '../ops/layernorm.ts';
import { inputType, type Linear, linear } from '../ops/matmul.ts';
import type { Stored } from '../ops/matmul_kernels.ts';
import { decoderInput, encoderInput, gatherRows, type Index, replaceMasked, scatterRows } from '../ops/tokens.ts';
import { type ModelConfig, sequenceLength } from './config.ts';

/** The fields of a configuration that the trunk is built of. */
export type TrunkConfig = Omit<ModelConfig, 'headDepth' | 'headWidth'>;

/** One evaluation's sizes: how many sequences, how many visible tokens and asked rows in each. */
export interface TrunkShape {
  batch: number;
  visible: number;
  queries: number;
  /** Visible tokens of each that the encoder runs over, with what is kept of the others; undefined: all. */
  fresh?: number;
}

/** Where an evaluation of the trunk finds its rows; all u32. */
export interface TrunkRows {
  /** Row of `classInputs` for each sequence. */
  classes: Index;
  /** Grid position of each visible token. */
  visible: Index;
  /** Encoder row of each grid position, MASKED where masked. */
  slot: Index;
  /** The same with nothing masked: the single encoder has a row for every position. Unused with MAE. */
  identity: Index;
  /** Row of the decoder sequence for each asked token. */
  queryRows: Index;
}

/** What the encoder keeps of an evaluation: rows for each buffer slot and grid position of each sequence. */
export interface EncoderCache {
  /** [rows, 2 width] of each block: keys and values. */
  keysValues: Tensor[];
  /** [rows, width]: the encoder's output. */
  encoded: Tensor;
}

/** Rows of an `EncoderCache` in an evaluation; all u32. */
export interface CacheRows {
  /** Of the buffer slots and all visible tokens of each sequence; of those that the encoder runs over. */
  all: Index;
  own: Index;
  /** Where keys and values lie in the fused qkv of the latter: rows 3 i + 1 and 3 i + 2. */
  keysValues: Index;
}

interface Parts {
  classInputs: Tensor;
  maskToken: Tensor;
  encoder: { position: Tensor; embedNorm: Norm; blocks: Block[]; norm: Norm };
  decoder: { embed: Linear; position: Tensor; blocks: Block[]; last: QueryBlock; norm: Norm };
}

export class Trunk {
  readonly config: TrunkConfig;
  /** [classes + 1, width]: class embeddings, and in the last row the unconditional input. */
  readonly classInputs: Tensor;
  readonly maskToken: Tensor;
  private readonly encoder: Parts['encoder'];
  private readonly decoder: Parts['decoder'];

  /** How weights of linear layers are stored. */
  get stored(): Stored {
    return this.decoder.embed.stored;
  }

  private constructor(config: TrunkConfig, { classInputs, maskToken, encoder, decoder }: Parts) {
    this.config = config;
    this.classInputs = classInputs;
    this.maskToken = maskToken;
    this.encoder = encoder;
    this.decoder = decoder;
  }

  /** The trunk's parameters by their official names; the loader keeps the memory. */
  static async load(loader: WeightLoader, config: TrunkConfig, source: WeightSource): Promise<Trunk> {
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
    return new Trunk(config, {
      classInputs,
      maskToken: await loader.tensor(config.maskGuidance ? 'fake_latent' : 'mask_token'),
      encoder: {
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
    });
  }

  /**
   * The encoder over buffer slots and visible tokens (with MAE), or over all tokens with mask tokens in their places.
   * `embedded` holds the visible tokens as vectors; undefined: there are none. With `masksPlaced` the mask tokens are
   * among them, else they replace masked positions after position embedding and norm, as in the official code.
   * Returns [batch, buffer + visible, width].
   *
   * With `cache` keys, values and results are kept there. With `shape.fresh` the encoder runs over the new visible tokens
   * alone, which `embedded` holds: they attend to themselves and to what is kept, whose own results stay as they were. That
   * is an approximation, as without it the others would attend to the new ones too. `at.visible` then lists rows of the
   * position embedding, buffer slots included.
   */
  encode(
    r: Recorder,
    embedded: Tensor | undefined,
    at: TrunkRows,
    shape: TrunkShape,
    { masksPlaced = false, cache }: { masksPlaced?: boolean; cache?: { kept: EncoderCache; rows: CacheRows } } = {},
  ): Tensor {
    const { mae, bufferSize: buffer, encoderWidth: width } = this.config;
    const { batch, fresh } = shape;
    const visible = mae ? shape.visible : sequenceLength(this.config);
    const all = buffer + visible;
    const own = fresh ?? all;
    const classes = fresh ? this.classInputs : gatherRows(r, this.classInputs, at.classes, batch, width);
    const input = encoderInput(r, classes, embedded, at.visible, this.encoder.position, {
      batch,
      buffer: fresh ? 0 : buffer,
      visible: fresh ?? visible,
      width,
    });
    const x = layernorm(r, input, width, { affine: this.encoder.embedNorm });
    if (!mae && !masksPlaced) {
      replaceMasked(r, at.slot, this.maskToken, { batch, buffer, grid: visible, width }, x);
    }
    for (const [i, weights] of this.encoder.blocks.entries()) {
      const kept = cache && {
        ...cache.rows,
        tensor: cache.kept.keysValues[i],
        attended: fresh ? { rows: cache.rows.all, keys: all } : undefined,
      };
      block(r, x, weights, batch, own, kept);
    }
    const encoded = layernorm(r, x, width, { affine: this.encoder.norm });
    if (!cache) return encoded;
    scatterRows(r, encoded, cache.rows.own, batch * own, width, cache.kept.encoded);
    return fresh ? gatherRows(r, cache.kept.encoded, cache.rows.all, batch * all, width) : encoded;
  }

  /** Memory for what the encoder keeps of `sequences` sequences. */
  encoderCache(device: Device, sequences: number): EncoderCache {
    const { bufferSize, encoderWidth: width } = this.config;
    const rows = sequences * (bufferSize + sequenceLength(this.config));
    return {
      keysValues: this.encoder.blocks.map(({ proj }, i) => {
        return device.tensor([rows, 2 * width], inputType(proj), `kept keys and values ${i}`);
      }),
      encoded: device.tensor([rows, width], 'f32', 'kept encoder output'),
    };
  }

  /** The decoder; its last block and norm for the asked tokens alone. Returns [batch * queries, decoder width]. */
  decode(r: Recorder, encoded: Tensor, at: TrunkRows, shape: TrunkShape): Tensor {
    const { mae, bufferSize: buffer, decoderWidth: width } = this.config;
    const { batch, queries } = shape;
    const grid = sequenceLength(this.config);
    const from = buffer + (mae ? shape.visible : grid);
    if (queries === 0) throw new EmigmError('shape', 'decode: no token is asked for');
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
    return layernorm(r, y, width, { affine: this.decoder.norm });
  }
}
