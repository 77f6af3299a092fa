/**
 * Reverse-mode differentiation over recorded ops: each op records its forward pass at once and leaves a note of how to
 * record its backward pass; `backward` records these notes in reverse. Nothing runs until the recording is replayed.
 */
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { type AttentionShape, attention, type Slice } from '../ops/attention.ts';
import { attentionBackward } from '../ops/attention_backward.ts';
import { activation, activationBackward, type Columns, gate, gateBackward } from '../ops/elementwise.ts';
import { layernorm, type Norm } from '../ops/layernorm.ts';
import { layernormBackward } from '../ops/layernorm_backward.ts';
import { linear } from '../ops/matmul.ts';
import { linearBackward, type TrainableLinear } from '../ops/matmul_backward.ts';

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
    this.notes.push(() => this.r.within(part, record));
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

  /** Self-attention over a fused qkv[batch, length, 3 * heads * headDim]. */
  attention(qkv: Tensor, shape: AttentionShape): Tensor {
    const { r } = this;
    const width = shape.heads * shape.headDim;
    const part = (i: number): Slice => ({ tensor: qkv, stride: 3 * width, offset: i * width });
    const slices = [part(0), part(1), part(2)] as const;
    const lse = r.temp([shape.batch, shape.heads, shape.queries], 'f32', 'log-sum-exp');
    const out = attention(r, ...slices, shape, { lse });
    this.note(() => {
      const dOut = this.gradient(out);
      if (!dOut) return;
      const { tensor } = this.target(qkv);
      attentionBackward(r, slices, { out, lse }, dOut, shape, { dQ: tensor, dKv: tensor });
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

  /**
   * Activation checkpointing: keeps x alone, and records `run` a second time when the gradient is wanted.
   * Chen et al. 2016.
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
      const known = this.gradient(x);
      if (known) again.seed(x, known);
      again.backward();
      const dX = again.gradient(x);
      if (dX) this.seed(x, dX);
    });
    return y;
  }
}
