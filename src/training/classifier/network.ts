/** The classifier in training: its forward pass on a tape. The same network as models/classifier_network.ts. */
import type { Recorder } from '../../gpu/recorder.ts';
import type { Tensor } from '../../gpu/tensor.ts';
import {
  type ClassifierConfig,
  classifierShapes,
  STEM_PATCH,
  stemConvolutions,
  tokenCount,
} from '../../models/classifier.ts';
import { classifierRows } from '../../models/classifier_network.ts';
import type { TableRows, Tape, TapeLinear, TapeNorm, TapeTable } from '../../nn/tape.ts';
import { BLOCK_DROPOUTS, type TrainedBlock, transformerBlock } from '../../nn/tape_block.ts';
import type { WeightSource } from '../../nn/weights.ts';
import { gatherRows, patchify } from '../../ops/tokens.ts';
import { rowUses } from '../../ops/tokens_backward.ts';
import { STREAMS, streamKey } from '../../random.ts';
import { glorotUniform, normalValues } from '../initialize.ts';
import type { ParameterList, ParameterStore } from '../parameters.ts';
import { TapeLayers } from '../tape_layers.ts';

/** AdamW decays matrices, but no biases, norms and positions. */
export const classifierParameters = (config: ClassifierConfig): ParameterList => ({
  shapes: classifierShapes(config),
  decays: (name, shape) => shape.length > 1 && name !== 'pos_embed',
});

/** Positions normal(0, 0.02), linear layers Xavier-uniform with zero bias, norms 1 and 0. */
export function initialClassifier(config: ClassifierConfig, seed: number | bigint): WeightSource {
  const shapes = classifierShapes(config);
  const order = [...shapes.keys()];
  return {
    shape: (name) => shapes.get(name)!,
    async read(name) {
      const [outputs, inputs] = shapes.get(name)!;
      const key = streamKey(seed, STREAMS.initialization, order.indexOf(name));
      if (name === 'pos_embed') return normalValues(key, outputs * inputs, 0.02);
      if (inputs !== undefined) return glorotUniform(key, inputs, outputs);
      return new Float32Array(outputs).fill(name.endsWith('.weight') ? 1 : 0);
    },
  };
}

export class ClassifierTrainingNetwork {
  readonly config: ClassifierConfig;
  private readonly batch: number;
  private readonly layers: TapeLayers;
  private readonly stem: { convolution: TapeLinear; channels: number; norm?: TapeNorm; rows: TableRows }[];
  private readonly position: TapeTable;
  private readonly blocks: TrainedBlock[];
  private readonly norm: TapeNorm;
  private readonly head: TapeLinear;
  private readonly lists: Tensor[] = [];
  private readonly positions: TableRows;

  /** Takes memory for the row numbers of a batch and copies of weights; the parameters stay the caller's. */
  constructor(parameters: ParameterStore, config: ClassifierConfig, batch: number) {
    this.config = config;
    this.batch = batch;
    const layers = new TapeLayers(parameters);
    this.layers = layers;
    this.position = layers.table('pos_embed');
    this.blocks = layers.blocks('blocks', config.depth, config.width, config.heads);
    this.norm = layers.norm('norm');
    this.head = layers.linear('head');
    const list = (rows: Uint32Array, label: string) => {
      const tensor = parameters.device.tensor([rows.length], 'u32', label, rows);
      this.lists.push(tensor);
      return { tensor, offset: 0 };
    };
    const used = (rows: Uint32Array): TableRows => {
      return { index: list(rows, 'rows'), uses: list(rowUses(rows), 'uses'), count: rows.length };
    };
    const { stem, positions } = classifierRows(config, batch);
    this.stem = stemConvolutions(config).map(({ name, inputs, norm }, i) => ({
      convolution: layers.linear(name),
      channels: inputs,
      norm: norm === undefined ? undefined : layers.norm(norm),
      rows: used(stem[i]),
    }));
    this.positions = used(positions);
  }

  /** Rows that the keys of dropout have. */
  get dropoutPlaces(): number {
    return BLOCK_DROPOUTS * this.config.depth;
  }

  /** logits [batch, classes] of images [batch, 3, size, size] in [-1, 1]. */
  logits(tape: Tape, images: Tensor, drop?: { keys: Tensor; probability: number }): Tensor {
    const { imageSize, width } = this.config;
    const { batch } = this;
    const { r } = tape;
    const length = tokenCount(this.config);
    const seen = r.within('stem', () => {
      let x = patchify(r, images, { channels: 3, side: imageSize / STEM_PATCH, patch: STEM_PATCH });
      for (const [i, { convolution, channels, norm, rows }] of this.stem.entries()) {
        const inputGradient = i > 0;
        const near = inputGradient
          ? tape.lookup(x, rows, channels)
          : gatherRows(r, x, rows.index, rows.count, channels);
        x = tape.linear(near, convolution, { inputGradient });
        const { outputs } = convolution.layer;
        if (norm) x = tape.activation('gelu', tape.layernorm(x, outputs, { affine: norm }), outputs);
      }
      return x;
    });
    return r.within('blocks', () => {
      tape.addEmbedding(seen, this.position, this.positions, width);
      const x = this.blocks.reduce((input, block, i) => {
        const dropout = drop && { ...drop, row: BLOCK_DROPOUTS * i, attention: 0, projection: drop.probability };
        return transformerBlock(tape, input, block, batch, length, dropout);
      }, seen);
      const normal = tape.layernorm(x, width, { affine: this.norm });
      return tape.linear(tape.meanTokens(normal, { batch, length, width }), this.head);
    });
  }

  /** Records the renewal of the weights' copies; once after each change of the parameters. */
  refresh(r: Recorder): void {
    this.layers.refresh(r);
  }

  dispose(): void {
    this.layers.dispose();
    for (const list of this.lists) list.destroy();
  }
}
