/**
 * The eMIGM network in training: forward pass and the head's loss on a tape, whose backward pass adds to the gradients
 * of the parameters. Only masked tokens enter the loss, so only their rows go through the head (the official code
 * computes all and multiplies by the mask: the same sum).
 */
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { HEAD_PREFIX, type ModelConfig, sequenceLength, TIME_EMBEDDING_DIM, tokenDim } from '../models/config.ts';
import type { Modulation, Tape, TapeLinear, TapeNorm, TapeTable } from '../nn/tape.ts';
import { sinusoid, sinusoidFrequencies } from '../ops/diffusion.ts';
import { gatherRows, type Index } from '../ops/tokens.ts';
import { BLOCK_DROPOUTS, type TrainedBlock, transformerBlock } from '../nn/tape_block.ts';
import { DIFFUSION_STEPS } from '../diffusion/betas.ts';
import type { MicroBatchShape } from './micro_batch.ts';
import type { Parameters } from './parameters.ts';
import { TapeLayers } from './tape_layers.ts';

interface TrainedHead {
  width: number;
  time: [TapeLinear, TapeLinear];
  condition: TapeLinear;
  input: TapeLinear;
  blocks: { norm: TapeNorm; fc1: TapeLinear; fc2: TapeLinear; modulation: TapeLinear }[];
  modulation: TapeLinear;
  final: TapeLinear;
}

/** Where a micro-batch finds its rows; see `MicroBatch`. */
export interface NetworkIndices {
  classRows: Index;
  classUses: Index;
  tokenRows: Index;
  visible: Index;
  slot: Index;
  place: Index;
  decoderRows: Index;
  rowOfDecoder: Index;
  positions: Index;
  positionUses: Index;
  /** [repeats * rows] row of the condition: 0, 1, ..., rows - 1, 0, 1, ... */
  conditionRows: Index;
}

/** Diffusion times of the head's rows, as numbers (f32) and as indices with their uses (`rowUses`). */
export interface HeadTimes {
  times: Tensor;
  indices: Index;
  uses: Index;
}

export interface NetworkOptions {
  /** Keep only the inputs of blocks and compute the rest again in the backward pass. */
  checkpointing?: boolean;
  /** Embed all times of the process once and look the rows' up: default where there are more rows than times. */
  timeTable?: boolean;
  /** Dropout in the blocks: keys u32 [`dropoutPlaces`, 2] and probabilities. */
  dropout?: { keys: Tensor; attention: number; projection: number };
}

export class TrainingNetwork {
  readonly device: Device;
  readonly config: ModelConfig;
  readonly tokens: number;
  readonly tokenDim: number;
  private readonly layers: TapeLayers;
  private readonly frequency: Tensor;
  private readonly everyTime: Tensor;
  private readonly classes: TapeTable;
  private readonly maskToken: TapeTable;
  private readonly encoder: { embed: TapeLinear; position: TapeTable; embedNorm: TapeNorm; norm: TapeNorm };
  private readonly encoderBlocks: TrainedBlock[];
  private readonly decoder: { embed: TapeLinear; position: TapeTable; norm: TapeNorm };
  private readonly decoderBlocks: TrainedBlock[];
  private readonly diffusionPosition: TapeTable;
  private readonly head: TrainedHead;

  /** Takes memory for copies of the weights that CPU kernels read; the parameters stay the caller's. */
  constructor(parameters: Parameters) {
    const { device, config } = parameters;
    this.device = device;
    this.config = config;
    const layers = new TapeLayers(parameters);
    this.layers = layers;
    this.tokens = sequenceLength(config);
    this.tokenDim = tokenDim(config);
    this.frequency = device.tensor(
      [TIME_EMBEDDING_DIM / 2],
      'f32',
      'frequencies',
      sinusoidFrequencies(TIME_EMBEDDING_DIM),
    );
    const every = Float32Array.from({ length: DIFFUSION_STEPS }, (_, t) => t);
    this.everyTime = device.tensor([DIFFUSION_STEPS], 'f32', 'every diffusion time', every);
    this.classes = { table: parameters.classTable(), gradient: parameters.classTable('gradient') };
    this.maskToken = layers.table(config.maskGuidance ? 'fake_latent' : 'mask_token');
    this.encoder = {
      embed: layers.linear('z_proj'),
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
    this.diffusionPosition = layers.table('diffusion_pos_embed_learned');
    this.head = this.loadHead(`${HEAD_PREFIX}net.`);
  }

  private loadHead(prefix: string): TrainedHead {
    const { headDepth, headWidth } = this.config;
    const { layers } = this;
    const at = (name: string) => layers.linear(`${prefix}${name}`);
    return {
      width: headWidth,
      time: [at('time_embed.mlp.0'), at('time_embed.mlp.2')],
      condition: at('cond_embed'),
      input: at('input_proj'),
      blocks: Array.from({ length: headDepth }, (_, i) => ({
        norm: layers.norm(`${prefix}res_blocks.${i}.in_ln`),
        fc1: at(`res_blocks.${i}.mlp.0`),
        fc2: at(`res_blocks.${i}.mlp.2`),
        modulation: at(`res_blocks.${i}.adaLN_modulation.1`),
      })),
      modulation: at('final_layer.adaLN_modulation.1'),
      final: at('final_layer.linear'),
    };
  }

  /** Records the renewal of the weights' copies; once after each change of the parameters. */
  refresh(r: Recorder): void {
    this.layers.refresh(r);
  }

  /** Conditions z [rows, decoder width] of the asked tokens, from tokens [images * grid, tokenDim]. */
  conditions(
    tape: Tape,
    tokens: Tensor,
    at: NetworkIndices,
    shape: MicroBatchShape,
    options: NetworkOptions = {},
  ): Tensor {
    const { mae, bufferSize: buffer, encoderWidth, decoderWidth } = this.config;
    const { images: batch, visible, rows } = shape;
    const { r } = tape;
    const grid = this.tokens;
    const encoded = r.within('encoder', () => {
      const width = encoderWidth;
      const classes = tape.embedding(this.classes, { index: at.classRows, uses: at.classUses, count: batch }, width);
      const seen = batch * visible;
      const embedded =
        visible > 0
          ? tape.linear(gatherRows(r, tokens, at.tokenRows, seen, this.tokenDim), this.encoder.embed, {
              inputGradient: false,
            })
          : undefined;
      const sequence = { batch, buffer, visible, grid, width };
      const places = { visible: at.visible, slot: at.place };
      const input = tape.encoderInput(classes, embedded, places, this.encoder.position, sequence);
      let x = tape.layernorm(input, width, { affine: this.encoder.embedNorm });
      if (!mae) tape.replaceMasked(x, at.slot, this.maskToken, { batch, buffer, grid, width });
      for (const i of this.encoderBlocks.keys()) x = this.block(tape, x, i, batch, buffer + visible, options);
      return tape.layernorm(x, width, { affine: this.encoder.norm });
    });
    return r.within('decoder', () => {
      const width = decoderWidth;
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
      const z = tape.layernorm(asked, width, { affine: this.decoder.norm });
      tape.addEmbedding(z, this.diffusionPosition, { index: at.positions, uses: at.positionUses, count: rows }, width);
      return z;
    });
  }

  /** Block number `i`, those of the decoder after those of the encoder. */
  private block(tape: Tape, x: Tensor, i: number, batch: number, length: number, options: NetworkOptions): Tensor {
    const block = [...this.encoderBlocks, ...this.decoderBlocks][i];
    const drop = options.dropout && { ...options.dropout, row: BLOCK_DROPOUTS * i };
    const run = (on: Tape) => transformerBlock(on, x, block, batch, length, drop);
    return options.checkpointing ? tape.checkpoint(x, run) : run(tape);
  }

  /** Rows that `NetworkOptions.dropout.keys` has. */
  get dropoutPlaces(): number {
    return BLOCK_DROPOUTS * (this.encoderBlocks.length + this.decoderBlocks.length);
  }

  /** Embeddings [repeats * rows, head width] of the rows' times; each of the process's times is embedded once at most. */
  private timeEmbedding(tape: Tape, at: HeadTimes, all: number, table = all > DIFFUSION_STEPS): Tensor {
    const { time, width } = this.head;
    const { r } = tape;
    const t = table ? this.everyTime : at.times.view([all], 0, 'diffusion times');
    const wave = sinusoid(r, t, this.frequency, TIME_EMBEDDING_DIM);
    const hidden = tape.linear(wave, time[0], { activation: 'silu', inputGradient: false });
    const embedded = tape.linear(hidden, time[1]);
    return table ? tape.lookup(embedded, { index: at.indices, uses: at.uses, count: all }, width) : embedded;
  }

  /**
   * The head at noisy tokens x[repeats * rows, tokenDim] and their times, conditioned on z[rows]:
   * [repeats * rows, 2 tokenDim] = [noise | variance].
   */
  headOutput(
    tape: Tape,
    z: Tensor,
    x: Tensor,
    times: HeadTimes,
    conditionRows: Index,
    { rows, repeats }: MicroBatchShape,
    options: NetworkOptions = {},
  ): Tensor {
    const { head } = this;
    const { width } = head;
    const { r } = tape;
    return r.within('head', () => {
      const y = this.timeEmbedding(tape, times, rows * repeats, options.timeTable);
      tape.addRepeated(y, tape.linear(z, head.condition), conditionRows, repeats, width);
      const condition = tape.activation('silu', y, width);
      let h = tape.linear(x, head.input, { inputGradient: false });
      for (const block of head.blocks) {
        const modulation: Modulation = { tensor: tape.linear(condition, block.modulation), stride: 3 * width };
        const normal = tape.layernorm(h, width, { affine: block.norm, modulation, shift: 0, scale: width });
        const inner = tape.linear(normal, block.fc1, { activation: 'silu' });
        h = tape.gate(tape.linear(inner, block.fc2), modulation, 2 * width, h, width);
      }
      const modulation: Modulation = { tensor: tape.linear(condition, head.modulation), stride: 2 * width };
      const normal = tape.layernorm(h, width, { modulation, shift: 0, scale: width });
      return tape.linear(normal, head.final);
    });
  }

  /** Frees the weights' copies. */
  dispose(): void {
    this.layers.dispose();
    this.frequency.destroy();
    this.everyTime.destroy();
  }
}
