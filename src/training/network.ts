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
import { DIFFUSION_STEPS } from '../diffusion/betas.ts';
import type { MicroBatchShape } from './micro_batch.ts';
import type { Parameters } from './parameters.ts';
import { TapeLayers } from './tape_layers.ts';
import { TrainedTrunk, type TrainedTrunkRows, type TrunkOptions } from './trunk.ts';

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
export interface NetworkIndices extends TrainedTrunkRows {
  tokenRows: Index;
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

export interface NetworkOptions extends TrunkOptions {
  /** Embed all times of the process once and look the rows' up: default where there are more rows than times. */
  timeTable?: boolean;
}

export class TrainingNetwork {
  readonly device: Device;
  readonly config: ModelConfig;
  readonly tokens: number;
  readonly tokenDim: number;
  private readonly layers: TapeLayers;
  private readonly frequency: Tensor;
  private readonly everyTime: Tensor;
  private readonly embed: TapeLinear;
  private readonly trunk: TrainedTrunk;
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
    this.embed = layers.linear('z_proj');
    this.trunk = new TrainedTrunk(parameters, config, layers);
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
    const { r } = tape;
    const { trunk } = this;
    const encoded = r.within('encoder', () => {
      const seen = shape.images * shape.visible;
      const embedded =
        seen > 0
          ? tape.linear(gatherRows(r, tokens, at.tokenRows, seen, this.tokenDim), this.embed, { inputGradient: false })
          : undefined;
      return trunk.encode(tape, embedded, at, shape, options);
    });
    return r.within('decoder', () => {
      const z = trunk.decode(tape, encoded, at, shape, options);
      const rows = { index: at.positions, uses: at.positionUses, count: shape.rows };
      tape.addEmbedding(z, this.diffusionPosition, rows, this.config.decoderWidth);
      return z;
    });
  }

  /** Rows that `NetworkOptions.dropout.keys` has. */
  get dropoutPlaces(): number {
    return this.trunk.dropoutPlaces;
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
