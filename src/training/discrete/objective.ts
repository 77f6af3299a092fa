/**
 * Codes as tokens in training: the network's forward pass on a tape, softmax cross-entropy with label smoothing of the
 * masked tokens. The same network as models/discrete/network.ts. "Images" of the batch are maps of codes, numbers in f32.
 */
import type { Device } from '../../gpu/device.ts';
import type { Recorder } from '../../gpu/recorder.ts';
import type { Tensor } from '../../gpu/tensor.ts';
import { sequenceLength } from '../../models/config.ts';
import { type DiscreteConfig, discreteShapes } from '../../models/discrete/config.ts';
import { Tape, type TapeLinear, type TapeTable } from '../../nn/tape.ts';
import { crossEntropy, crossEntropyBackward } from '../../ops/cross_entropy.ts';
import { MASKED } from '../../ops/tokens.ts';
import { rowUses } from '../../ops/tokens_backward.ts';
import { NamedLists } from '../inputs.ts';
import type { MicroBatch, MicroBatchShape } from '../micro_batch.ts';
import type { Objective } from '../objective.ts';
import { hasWeightDecay, type ParameterList, type ParameterStore } from '../parameters.ts';
import type { TrainingSettings } from '../settings.ts';
import { TapeLayers } from '../tape_layers.ts';
import { TrainedTrunk, type TrunkOptions } from '../trunk.ts';

/** The parameters of a model of codes; AdamW decays matrices and tables as in eMIGM's trunk. */
export const discreteParameters = (config: DiscreteConfig): ParameterList => ({
  shapes: discreteShapes(config),
  decays: hasWeightDecay,
  followers: new Map([['fake_latent', 'class_emb.weight']]),
});

type List =
  | 'classRows'
  | 'classUses'
  | 'codeRows'
  | 'codeUses'
  | 'visible'
  | 'slot'
  | 'place'
  | 'decoderRows'
  | 'rowOfDecoder';

/** Numbers of rows of the loss that a micro-batch can have: programs are recorded for each. */
const SHAPES = 32;

export class DiscreteObjective implements Objective {
  readonly config: DiscreteConfig;
  readonly repeats = 1;
  readonly rowsMultiple: number;
  private readonly device: Device;
  private readonly smoothing: number;
  private readonly layers: TapeLayers;
  private readonly trunk: TrainedTrunk;
  private readonly tokens: TapeTable;
  private readonly output: TapeLinear;
  private readonly lists: NamedLists<List>;
  /** [images * tokens] code and weight of each row of the loss. */
  private readonly labels: Tensor;
  private readonly weights: Tensor;

  /** Takes the memory that does not depend on the masks; the parameters stay the caller's. */
  constructor(
    parameters: ParameterStore,
    config: DiscreteConfig,
    settings: Pick<TrainingSettings, 'microBatch' | 'labelSmoothing'>,
  ) {
    const { device } = parameters;
    const { microBatch: images, labelSmoothing = 0 } = settings;
    this.config = config;
    this.device = device;
    this.smoothing = labelSmoothing;
    this.layers = new TapeLayers(parameters);
    this.trunk = new TrainedTrunk(parameters, config, this.layers);
    this.tokens = this.layers.table('token_emb.weight');
    this.output = this.layers.linear('logits');
    const tokens = images * sequenceLength(config);
    this.rowsMultiple = Math.ceil(tokens / SHAPES);
    this.lists = new NamedLists(device, {
      classRows: images,
      classUses: 2 * images,
      codeRows: tokens,
      codeUses: 2 * tokens,
      visible: tokens,
      slot: tokens,
      place: tokens,
      decoderRows: tokens,
      rowOfDecoder: tokens + images * config.bufferSize,
    });
    this.labels = device.tensor([tokens], 'u32', 'labels');
    this.weights = device.tensor([tokens], 'f32', 'loss weights');
  }

  get dropoutPlaces(): number {
    return this.trunk.dropoutPlaces;
  }

  /** Logits [rows, codes] of the micro-batch's masked tokens. */
  logits(tape: Tape, shape: MicroBatchShape, options: TrunkOptions = {}): Tensor {
    const { mae, encoderWidth: width } = this.config;
    const { images: batch, visible } = shape;
    const { at } = this.lists;
    const { r } = tape;
    const encoded = r.within('encoder', () => {
      const rows = { index: at.codeRows, uses: at.codeUses, count: batch * visible };
      const embedded = rows.count > 0 ? tape.embedding(this.tokens, rows, width) : undefined;
      const grid = sequenceLength(this.config);
      if (!mae && embedded) {
        tape.replaceMasked(embedded, at.slot, this.trunk.maskToken, { batch, buffer: 0, grid, width });
      }
      return this.trunk.encode(tape, embedded, at, shape, { ...options, masksPlaced: true });
    });
    const z = r.within('decoder', () => this.trunk.decode(tape, encoded, at, shape, options));
    return r.within('head', () => tape.linear(z, this.output));
  }

  record(r: Recorder, shape: MicroBatchShape, loss: Tensor, options: TrunkOptions): void {
    const tape = new Tape(r);
    const logits = this.logits(tape, shape, options);
    const { labels, weights, smoothing } = this;
    const { codes } = this.config;
    const dLogits = r.within('loss', () => {
      const inputs = { logits, labels, weights };
      const forward = crossEntropy(r, inputs, codes, { smoothing, total: loss, accumulate: true });
      return crossEntropyBackward(r, inputs, codes, forward);
    });
    tape.seed(logits, dLogits);
    tape.backward();
  }

  load(images: Float32Array, batch: MicroBatch): void {
    // Masked tokens of a single encoder have places too; their codes are not looked at.
    const seen = batch.tokenRows.map((token) => (batch.slot[token] === MASKED ? MASKED : images[token]));
    this.lists.write({
      ...batch,
      classUses: rowUses(batch.classRows),
      codeRows: seen.map((code) => (code === MASKED ? 0 : code)),
      codeUses: rowUses(seen),
    });
    this.device.write(
      this.labels,
      batch.targets.map((token) => images[token]),
    );
    this.device.write(this.weights, batch.weights);
  }

  refresh(r: Recorder): void {
    this.layers.refresh(r);
  }

  dispose(): void {
    this.layers.dispose();
    this.lists.dispose();
    this.labels.destroy();
    this.weights.destroy();
  }
}
