/**
 * Reverse-mode differentiation over recorded ops: each op records its forward pass at once and leaves a note of how to
 * record its backward pass; `backward` records these notes in reverse. Nothing runs until the recording is replayed.
 */
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { type AttentionShape, attention, type Slice } from '../ops/attention.ts';
import { attentionBackward } from '../ops/attention_backward.ts';
import { type Dropout, dropout } from '../ops/dropout.ts';
import { activation, activationBackward } from '../ops/activation.ts';
import { type Columns, gate, gateBackward, sumRepeats } from '../ops/elementwise.ts';
import { layernorm, type Norm } from '../ops/layernorm.ts';
import { layernormBackward } from '../ops/layernorm_backward.ts';
import { linear } from '../ops/matmul.ts';
import { linearBackward, type TrainableLinear } from '../ops/matmul_backward.ts';
import { meanTokens, meanTokensBackward, type TokensShape } from '../ops/mean_tokens.ts';
import {
  decoderInput,
  encoderInput,
  gatherRows,
  type Index,
  replaceMasked,
  type SequenceShape,
} from '../ops/tokens.ts';
import { zero } from '../ops/optimizer.ts';
import {
  decoderInputBackward,
  embeddingBackward,
  encoderInputBackward,
  gatherRowsBackward,
  replaceMaskedBackward,
} from '../ops/tokens_backward.ts';

/** A linear layer and where its gradients are added. */
export interface TapeLinear {
  layer: TrainableLinear;
  dWeight: Tensor;
  dBias: Tensor;
}

/** A layer norm's weights and where their gradients are added. */
export interface TapeNorm {
  norm: Norm;
  gradient: Norm;
}

/** A table of rows (embeddings, positions, a token) and where its gradient is added. */
export interface TapeTable {
  table: Tensor;
  gradient: Tensor;
}

/** Rows of a table by number: `index` [count], and `uses` as `rowUses` makes it of them. */
export interface TableRows {
  index: Index;
  uses: Index;
  count: number;
}

/** Columns of a modulation tensor [rows, stride] that several ops read; their gradients share one tensor. */
export interface Modulation {
  tensor: Tensor;
  stride: number;
}

export class Tape {
  readonly r: Recorder;
  private readonly notes: (() => void)[] = [];
  private readonly gradients = new Map<Tensor, Tensor>();

  constructor(recorder: Recorder) {
    this.r = recorder;
  }

  /** Leaves a note; `record` is called in reverse order of notes. */
  note(record: () => void): void {
    const { part } = this.r;
    this.notes.push(() => this.r.within(`${part} backward`, record));
  }

  /** The gradient of `x` so far; undefined: nothing depends on it. */
  gradient(x: Tensor): Tensor | undefined {
    return this.gradients.get(x);
  }

  /** Where an op writes its share of the gradient of `x`, and whether it must add to what is there. */
  target(x: Tensor): { tensor: Tensor; accumulate: boolean } {
    const known = this.gradients.get(x);
    if (known) return { tensor: known, accumulate: true };
    const tensor = this.r.temp(x.shape, 'f32', `d ${x.label}`);
    this.gradients.set(x, tensor);
    return { tensor, accumulate: false };
  }

  /** Gives `x` a gradient that is complete: the start of `backward`, or y's own where y = x + f and f is done. */
  seed(x: Tensor, gradient: Tensor): void {
    this.gradients.set(x, gradient);
  }

  /** Records the backward pass of everything noted. */
  backward(): void {
    for (const record of this.notes.splice(0).reverse()) record();
  }

  /** y = [residual +] activation(x . w^T + b). The residual's gradient takes over y's memory. */
  linear(
    x: Tensor,
    { layer, dWeight, dBias }: TapeLinear,
    options: { activation?: 'gelu' | 'silu'; residual?: Tensor; inputGradient?: boolean } = {},
  ): Tensor {
    const { r } = this;
    const { residual, inputGradient = true } = options;
    const before = linear(r, x, layer, { residual });
    const y = options.activation ? activation(r, options.activation, before, layer.outputs) : before;
    this.note(() => {
      const dY = this.gradient(y);
      if (!dY) return;
      const d = options.activation ? activationBackward(r, options.activation, before, dY, layer.outputs) : dY;
      const target = inputGradient ? this.target(x) : undefined;
      linearBackward(r, d, x, layer, {
        dx: target?.tensor ?? 'none',
        accumulateDx: target?.accumulate,
        dw: dWeight,
        db: dBias,
      });
      if (residual) this.seed(residual, dY);
    });
    return y;
  }

  /** Layer norm of rows of `width`, affine and/or modulated (shift and scale at these columns). */
  layernorm(
    x: Tensor,
    width: number,
    {
      affine,
      modulation,
      shift = 0,
      scale = 0,
    }: { affine?: TapeNorm; modulation?: Modulation; shift?: number; scale?: number },
  ): Tensor {
    const { r } = this;
    const columns = modulation && { ...modulation, shift, scale };
    const y = layernorm(r, x, width, { affine: affine?.norm, modulation: columns });
    this.note(() => {
      const dY = this.gradient(y);
      if (!dY) return;
      const { tensor, accumulate } = this.target(x);
      layernormBackward(r, x, dY, width, {
        affine: affine?.norm,
        dAffine: affine?.gradient,
        modulation: columns,
        // Every op writes its own columns, and together they write all.
        dModulation: modulation && this.target(modulation.tensor).tensor,
        dX: tensor,
        accumulate,
      });
    });
    return y;
  }

  /** Self-attention over a fused qkv[batch, length, 3 * heads * headDim], with dropout of its weights. */
  attention(qkv: Tensor, shape: AttentionShape, dropout?: Dropout): Tensor {
    const { r } = this;
    const width = shape.heads * shape.headDim;
    const part = (i: number): Slice => ({ tensor: qkv, stride: 3 * width, offset: i * width });
    const slices = [part(0), part(1), part(2)] as const;
    const lse = r.temp([shape.batch, shape.heads, shape.queries], 'f32', 'log-sum-exp');
    const out = attention(r, ...slices, shape, { lse, dropout });
    this.note(() => {
      const dOut = this.gradient(out);
      if (!dOut) return;
      const { tensor } = this.target(qkv);
      attentionBackward(r, slices, { out, lse }, dOut, shape, { dQ: tensor, dKv: tensor, dropout });
    });
    return out;
  }

  /** y = residual + gate * x, the gate at `column` of the modulation. The residual's gradient takes over y's memory. */
  gate(x: Tensor, modulation: Modulation, column: number, residual: Tensor, width: number): Tensor {
    const { r } = this;
    const columns: Columns = { tensor: modulation.tensor, stride: modulation.stride, offset: column };
    const y = gate(r, x, columns, residual, width);
    this.note(() => {
      const dY = this.gradient(y);
      if (!dY) return;
      gateBackward(r, x, columns, dY, width, this.target(modulation.tensor).tensor, this.target(x).tensor);
      this.seed(residual, dY);
    });
    return y;
  }

  /** y = [residual +] dropout(x). The residual's gradient takes over y's memory. */
  dropout(x: Tensor, options: Dropout, residual?: Tensor): Tensor {
    const { r } = this;
    const y = dropout(r, x, options, { residual });
    this.note(() => {
      const dY = this.gradient(y);
      if (!dY) return;
      this.seed(x, dropout(r, dY, options));
      if (residual) this.seed(residual, dY);
    });
    return y;
  }

  /** y = activation(x) over rows of `width`. */
  activation(kind: 'gelu' | 'silu', x: Tensor, width: number): Tensor {
    const { r } = this;
    const y = activation(r, kind, x, width);
    this.note(() => {
      const dY = this.gradient(y);
      if (dY) this.seed(x, activationBackward(r, kind, x, dY, width));
    });
    return y;
  }

  /** y[i] = table[index[i]]. */
  embedding({ table, gradient }: TapeTable, rows: TableRows, width: number): Tensor {
    const { r } = this;
    const y = gatherRows(r, table, rows.index, rows.count, width);
    this.note(() => {
      const dY = this.gradient(y);
      if (dY) embeddingBackward(r, dY, rows.uses, rows.count, width, gradient);
    });
    return y;
  }

  /** y[i] = x[index[i]] of computed rows x, any of them any number of times. */
  lookup(x: Tensor, rows: TableRows, width: number): Tensor {
    const { r } = this;
    const y = gatherRows(r, x, rows.index, rows.count, width);
    this.note(() => {
      const dY = this.gradient(y);
      if (!dY) return;
      const { tensor, accumulate } = this.target(x);
      if (!accumulate) zero(r, tensor);
      embeddingBackward(r, dY, rows.uses, rows.count, width, tensor);
    });
    return y;
  }

  /** x[i] += table[index[i]], in place. */
  addEmbedding(x: Tensor, { table, gradient }: TapeTable, rows: TableRows, width: number): void {
    const { r } = this;
    gatherRows(r, table, rows.index, rows.count, width, { addTo: x });
    this.note(() => {
      const dX = this.gradient(x);
      if (dX) embeddingBackward(r, dX, rows.uses, rows.count, width, gradient);
    });
  }

  /** y[i] = x[index[i]] for `count` rows, none of them twice; `inverse` is the place of each of the `rows` of x in y. */
  gather(
    x: Tensor,
    { index, inverse, count, rows }: { index: Index; inverse: Index; count: number; rows: number },
    width: number,
  ): Tensor {
    const { r } = this;
    const y = gatherRows(r, x, index, count, width);
    this.note(() => {
      const dY = this.gradient(y);
      if (!dY) return;
      const { tensor, accumulate } = this.target(x);
      gatherRowsBackward(r, dY, inverse, rows, width, { out: tensor, accumulate });
    });
    return y;
  }

  /** x[repeats, size] += y[size] in place, y found by `index` (row i of x takes row index[i] of y). */
  addRepeated(x: Tensor, y: Tensor, index: Index, repeats: number, width: number): void {
    const { r } = this;
    gatherRows(r, y, index, x.size / width, width, { addTo: x });
    this.note(() => {
      const dX = this.gradient(x);
      if (dX) this.seed(y, sumRepeats(r, dX, repeats));
    });
  }

  /** y[batch, width] = mean over the tokens of x[batch, length, width]. */
  meanTokens(x: Tensor, shape: TokensShape): Tensor {
    const { r } = this;
    const y = meanTokens(r, x, shape);
    this.note(() => {
      const dY = this.gradient(y);
      if (!dY) return;
      const { tensor, accumulate } = this.target(x);
      meanTokensBackward(r, dY, shape, { out: tensor, accumulate });
    });
    return y;
  }

  /** See `encoderInput`; `visible` and `slot` are inverse to each other. */
  encoderInput(
    classes: Tensor,
    tokens: Tensor | undefined,
    { visible, slot }: { visible: Index; slot: Index },
    position: TapeTable,
    shape: SequenceShape & { visible: number; grid: number },
  ): Tensor {
    const { r } = this;
    const y = encoderInput(r, classes, tokens, visible, position.table, shape);
    this.note(() => {
      const dY = this.gradient(y);
      if (!dY) return;
      const { dClasses, dTokens } = encoderInputBackward(r, dY, slot, shape, { dPosition: position.gradient });
      this.seed(classes, dClasses);
      if (tokens && dTokens) this.seed(tokens, dTokens);
    });
    return y;
  }

  /** See `decoderInput`; `visible` and `slot` are inverse to each other. */
  decoderInput(
    x: Tensor,
    { visible, slot }: { visible: Index; slot: Index },
    maskToken: TapeTable,
    position: TapeTable,
    shape: SequenceShape & { grid: number; from: number },
  ): Tensor {
    const { r } = this;
    const y = decoderInput(r, x, slot, maskToken.table, position.table, shape);
    this.note(() => {
      const dY = this.gradient(y);
      if (!dY) return;
      const gradients = { dMaskToken: maskToken.gradient, dPosition: position.gradient };
      this.seed(x, decoderInputBackward(r, dY, { slot, visible }, shape, gradients));
    });
    return y;
  }

  /** See `replaceMasked`: in place. */
  replaceMasked(x: Tensor, slot: Index, maskToken: TapeTable, shape: SequenceShape & { grid: number }): void {
    const { r } = this;
    replaceMasked(r, slot, maskToken.table, shape, x);
    this.note(() => {
      const dX = this.gradient(x);
      if (dX) replaceMaskedBackward(r, slot, shape, dX, maskToken.gradient);
    });
  }

  /**
   * Activation checkpointing: keeps x alone, and records `run` a second time when the gradient is wanted. Nothing else
   * uses x. Chen et al. 2016.
   */
  checkpoint(x: Tensor, run: (tape: Tape) => Tensor): Tensor {
    const { r } = this;
    const y = run(new Tape(r));
    this.note(() => {
      const dY = this.gradient(y);
      if (!dY) return;
      const again = new Tape(r);
      const repeated = run(again);
      again.seed(repeated, dY);
      again.backward();
      const dX = again.gradient(x);
      if (dX) this.seed(x, dX);
    });
    return y;
  }
}
