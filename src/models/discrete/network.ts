/**
 * The network of a model of codes: eMIGM's trunk on embedded codes, and a linear layer to the logits of every code. Mask
 * tokens of a single encoder get position embeddings like all others (as in MaskGIT; eMIGM's code gives them none).
 */
import { EmigmError } from '../../errors.ts';
import { type Codebook, codeWidth } from '../../formats/codebook.ts';
import type { Device } from '../../gpu/device.ts';
import type { Recorder } from '../../gpu/recorder.ts';
import type { Tensor } from '../../gpu/tensor.ts';
import { defaultStored, WeightLoader, type WeightSource, withProgress } from '../../nn/weights.ts';
import { codeRows } from '../../ops/code_lists.ts';
import { type Linear, linear } from '../../ops/matmul.ts';
import type { Stored } from '../../ops/matmul_kernels.ts';
import { gatherRows, type Index, replaceMasked, unpatchify } from '../../ops/tokens.ts';
import { gridSize, sequenceLength, tokenDim } from '../config.ts';
import { Trunk, type TrunkRows, type TrunkShape } from '../trunk.ts';
import { type DiscreteConfig, discreteShapes } from './config.ts';

/** Where an evaluation finds its rows; all u32. */
export interface DiscreteRows extends TrunkRows {
  /** Number in the list of codes of each visible token of each sequence; in a single encoder of every token. */
  tokenRows: Index;
}

export interface DiscreteOptions {
  /**
   * How weights of linear layers are stored. Default: f16 on GPUs that have it, else f32. With int8 the layers of all
   * blocks are; the logits' stay as by default.
   */
  stored?: Stored;
  /** Called with the share of parameters loaded, 0 to 1. */
  onProgress?: (done: number) => void;
}

export class DiscreteNetwork {
  readonly device: Device;
  readonly config: DiscreteConfig;
  readonly codebook: Codebook;
  readonly sequenceLength: number;
  private readonly loader: WeightLoader;
  private readonly trunk: Trunk;
  private readonly tokens: Tensor;
  private readonly output: Linear;
  /** [codes + 1, numbers of a code]: the codebook, and zeros for masked tokens. */
  private readonly patches: Tensor;

  private constructor(
    device: Device,
    config: DiscreteConfig,
    codebook: Codebook,
    loader: WeightLoader,
    parts: { trunk: Trunk; tokens: Tensor; output: Linear; patches: Tensor },
  ) {
    this.device = device;
    this.config = config;
    this.codebook = codebook;
    this.sequenceLength = sequenceLength(config);
    this.loader = loader;
    this.trunk = parts.trunk;
    this.tokens = parts.tokens;
    this.output = parts.output;
    this.patches = parts.patches;
  }

  /** How weights of linear layers are stored. */
  get stored(): Stored {
    return this.trunk.stored;
  }

  /** Number of the class row that holds the unconditional input. */
  get unconditional(): number {
    return this.config.classes;
  }

  /**
   * Puts a model's parameters and its codebook on the device.
   * @throws EmigmError 'memory' when they do not fit, 'model' when the codebook is not the configuration's
   */
  static async load(
    device: Device,
    config: DiscreteConfig,
    codebook: Codebook,
    source: WeightSource,
    options: DiscreteOptions = {},
  ): Promise<DiscreteNetwork> {
    checkCodebook(config, codebook, 'the codebook');
    const stored = options.stored ?? defaultStored(device);
    const counted = withProgress(source, discreteShapes(config), options.onProgress);
    const loader = new WeightLoader(device, counted, stored);
    try {
      const width = codeWidth(codebook);
      const network = new DiscreteNetwork(device, config, codebook, loader, {
        trunk: await Trunk.load(loader, config, counted),
        tokens: await loader.tensor('token_emb.weight'),
        output: await loader.linear('logits', { precise: true }),
        patches: await loader.filled([codebook.size + 1, width], 'codebook', async () => {
          const rows = new Float32Array((codebook.size + 1) * width);
          rows.set(codebook.codes);
          return rows;
        }),
      });
      await loader.finish();
      return network;
    } catch (error) {
      loader.destroy();
      throw error;
    }
  }

  /** Conditions z [batch * queries, decoder width] of the asked tokens, from codes u32 [*], MASKED where masked. */
  conditions(r: Recorder, codes: Tensor, at: DiscreteRows, shape: TrunkShape): Tensor {
    const { mae } = this.config;
    const encoded = r.within('encoder', () => {
      const seen = shape.batch * (mae ? shape.visible : this.sequenceLength);
      const embedded = seen > 0 ? this.embed(r, codes, at, shape.batch, seen) : undefined;
      return this.trunk.encode(r, embedded, at, shape, { masksPlaced: true });
    });
    return r.within('decoder', () => this.trunk.decode(r, encoded, at, shape));
  }

  private embed(r: Recorder, codes: Tensor, at: DiscreteRows, batch: number, count: number): Tensor {
    const { mae, encoderWidth: width } = this.config;
    const rows = codeRows(r, codes, at.tokenRows, count, 0);
    const embedded = gatherRows(r, this.tokens, { tensor: rows, offset: 0 }, count, width);
    const sequence = { batch, buffer: 0, grid: this.sequenceLength, width };
    if (!mae) replaceMasked(r, at.slot, this.trunk.maskToken, sequence, embedded);
    return embedded;
  }

  /** logits [rows, codes] of conditions z [rows, decoder width]. */
  logits(r: Recorder, z: Tensor): Tensor {
    return r.within('head', () => linear(r, z, this.output));
  }

  /** Pictures [batch, channels, side, side] of codes u32 [batch * tokens], times `scale`; 0 where masked. */
  pictures(r: Recorder, codes: Tensor, everyToken: Index, batch: number, scale: number, out: Tensor): void {
    const count = batch * this.sequenceLength;
    const rows = codeRows(r, codes, everyToken, count, this.codebook.size);
    const patches = gatherRows(r, this.patches, { tensor: rows, offset: 0 }, count, tokenDim(this.config));
    const { channels, patchSize: patch } = this.config;
    unpatchify(r, patches, { channels, side: gridSize(this.config), patch, scale }, out);
  }

  /** Frees the weights. */
  dispose(): void {
    this.loader.destroy();
  }
}

/** @throws EmigmError 'model' when the codebook has other sizes than the configuration */
export function checkCodebook(config: DiscreteConfig, codebook: Codebook, where: string): void {
  const wanted = [config.codes, config.channels, config.patchSize];
  const given = [codebook.size, codebook.channels, codebook.patch];
  if (wanted.join() === given.join()) return;
  const [codes, channels, patch] = given;
  throw new EmigmError(
    'model',
    `${where} has ${codes} codes of ${channels} x ${patch} x ${patch}; the model needs ${wanted[0]} of ` +
      `${wanted[1]} x ${wanted[2]} x ${wanted[2]}`,
  );
}
