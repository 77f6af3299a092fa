/** Encoder and decoder in training, what continuous and discrete models have in common. The same network as models/trunk.ts. */
import type { Tensor } from '../gpu/tensor.ts';
import { sequenceLength } from '../models/config.ts';
import type { TrunkConfig } from '../models/trunk.ts';
import type { Tape, TapeLinear, TapeNorm, TapeTable } from '../nn/tape.ts';
import { BLOCK_DROPOUTS, type TrainedBlock, transformerBlock } from '../nn/tape_block.ts';
import type { Index } from '../ops/tokens.ts';
import type { MicroBatchShape } from './micro_batch.ts';
import { classTable, type ParameterStore } from './parameters.ts';
import type { TapeLayers } from './tape_layers.ts';

/** Where a micro-batch finds the trunk's rows; see `MicroBatch`. */
export interface TrainedTrunkRows {
  classRows: Index;
  classUses: Index;
  visible: Index;
  slot: Index;
  place: Index;
  decoderRows: Index;
  rowOfDecoder: Index;
}

export interface TrunkOptions {
  /** Keep only the inputs of blocks and compute the rest again in the backward pass. */
  checkpointing?: boolean;
  /** Dropout in the blocks: keys u32 [`dropoutPlaces`, 2] and probabilities. */
  dropout?: { keys: Tensor; attention: number; projection: number };
}

export class TrainedTrunk {
  readonly config: TrunkConfig;
  readonly maskToken: TapeTable;
  private readonly classes: TapeTable;
  private readonly encoder: { position: TapeTable; embedNorm: TapeNorm; norm: TapeNorm };
  private readonly encoderBlocks: TrainedBlock[];
  private readonly decoder: { embed: TapeLinear; position: TapeTable; norm: TapeNorm };
  private readonly decoderBlocks: TrainedBlock[];

  constructor(parameters: ParameterStore, config: TrunkConfig, layers: TapeLayers) {
    this.config = config;
    this.classes = { table: classTable(parameters, config), gradient: classTable(parameters, config, 'gradient') };
    this.maskToken = layers.table(config.maskGuidance ? 'fake_latent' : 'mask_token');
    this.encoder = {
      position: layers.table('encoder_pos_embed_learned'),
      embedNorm: layers.norm('z_proj_ln'),
      norm: layers.norm('encoder_norm'),
    };
    const { encoderWidth, encoderHeads, decoderWidth, decoderHeads } = config;
    this.encoderBlocks = layers.blocks('encoder_blocks', config.encoderDepth, encoderWidth, encoderHeads);
    this.decoder = {
      embed: layers.linear('decoder_embed'),
      position: layers.table('decoder_pos_embed_learned'),
      norm: layers.norm('decoder_norm'),
    };
    this.decoderBlocks = layers.blocks('decoder_blocks', config.decoderDepth, decoderWidth, decoderHeads);
  }

  /** The encoder's output; `embedded` and `masksPlaced` as in `Trunk.encode`. */
  encode(
    tape: Tape,
    embedded: Tensor | undefined,
    at: TrainedTrunkRows,
    { images: batch, visible }: MicroBatchShape,
    options: TrunkOptions & { masksPlaced?: boolean } = {},
  ): Tensor {
    const { mae, bufferSize: buffer, encoderWidth: width } = this.config;
    const grid = sequenceLength(this.config);
    const classes = tape.embedding(this.classes, { index: at.classRows, uses: at.classUses, count: batch }, width);
    const sequence = { batch, buffer, visible, grid, width };
    const places = { visible: at.visible, slot: at.place };
    const input = tape.encoderInput(classes, embedded, places, this.encoder.position, sequence);
    let x = tape.layernorm(input, width, { affine: this.encoder.embedNorm });
    if (!mae && !options.masksPlaced) {
      tape.replaceMasked(x, at.slot, this.maskToken, { batch, buffer, grid, width });
    }
    for (const i of this.encoderBlocks.keys()) x = this.block(tape, x, i, batch, buffer + visible, options);
    return tape.layernorm(x, width, { affine: this.encoder.norm });
  }

  /** The decoder's output for the asked tokens [rows, decoder width]. */
  decode(
    tape: Tape,
    encoded: Tensor,
    at: TrainedTrunkRows,
    { images: batch, visible, rows }: MicroBatchShape,
    options: TrunkOptions = {},
  ): Tensor {
    const { bufferSize: buffer, decoderWidth: width } = this.config;
    const grid = sequenceLength(this.config);
    const embedded = tape.linear(encoded, this.decoder.embed);
    const from = buffer + visible;
    const places = { visible: at.visible, slot: at.place };
    const sequence = { batch, buffer, grid, from, width };
    let x = tape.decoderInput(embedded, places, this.maskToken, this.decoder.position, sequence);
    const first = this.encoderBlocks.length;
    for (const i of this.decoderBlocks.keys()) x = this.block(tape, x, first + i, batch, buffer + grid, options);
    const asked = tape.gather(
      x,
      { index: at.decoderRows, inverse: at.rowOfDecoder, count: rows, rows: batch * (buffer + grid) },
      width,
    );
    return tape.layernorm(asked, width, { affine: this.decoder.norm });
  }

  /** Block number `i`, those of the decoder after those of the encoder. */
  private block(tape: Tape, x: Tensor, i: number, batch: number, length: number, options: TrunkOptions): Tensor {
    const block = [...this.encoderBlocks, ...this.decoderBlocks][i];
    const drop = options.dropout && { ...options.dropout, row: BLOCK_DROPOUTS * i };
    const run = (on: Tape) => transformerBlock(on, x, block, batch, length, drop);
    return options.checkpointing ? tape.checkpoint(x, run) : run(tape);
  }

  /** Rows that `TrunkOptions.dropout.keys` has. */
  get dropoutPlaces(): number {
    return BLOCK_DROPOUTS * (this.encoderBlocks.length + this.decoderBlocks.length);
  }
}
