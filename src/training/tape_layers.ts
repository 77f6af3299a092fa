/** Layers on trained parameters, by name: where a tape reads the weights and adds the gradients. */
import type { Recorder } from '../gpu/recorder.ts';
import type { TapeLinear, TapeNorm, TapeTable } from '../nn/tape.ts';
import type { TrainedBlock } from '../nn/tape_block.ts';
import { createTrainableLinear, destroyTrainableLinear, refreshLinear } from '../ops/matmul_backward.ts';
import type { ParameterStore } from './parameters.ts';

/** Makes layers, and keeps the copies of weights that CPU kernels read; the parameters stay the caller's. */
export class TapeLayers {
  private readonly parameters: ParameterStore;
  private readonly linears: TapeLinear[] = [];

  constructor(parameters: ParameterStore) {
    this.parameters = parameters;
  }

  /** `name.weight` [outputs, inputs] and `name.bias`. */
  linear(name: string): TapeLinear {
    const { parameters } = this;
    const [weight, bias] = [`${name}.weight`, `${name}.bias`];
    const layer = createTrainableLinear(parameters.device, parameters.tensor(weight), parameters.tensor(bias));
    const dWeight = parameters.tensor(weight, 'gradient');
    const made = { layer, dWeight, dBias: parameters.tensor(bias, 'gradient') };
    this.linears.push(made);
    return made;
  }

  /** `name.weight` and `name.bias` of a layer norm. */
  norm(name: string): TapeNorm {
    const of = (state: 'value' | 'gradient') => ({
      weight: this.parameters.tensor(`${name}.weight`, state),
      bias: this.parameters.tensor(`${name}.bias`, state),
    });
    return { norm: of('value'), gradient: of('gradient') };
  }

  table(name: string): TapeTable {
    return { table: this.parameters.tensor(name), gradient: this.parameters.tensor(name, 'gradient') };
  }

  /** Transformer blocks `name.0`, `name.1`, ... by timm's names. */
  blocks(name: string, depth: number, width: number, heads: number): TrainedBlock[] {
    return Array.from({ length: depth }, (_, i) => ({
      width,
      heads,
      norm1: this.norm(`${name}.${i}.norm1`),
      qkv: this.linear(`${name}.${i}.attn.qkv`),
      proj: this.linear(`${name}.${i}.attn.proj`),
      norm2: this.norm(`${name}.${i}.norm2`),
      fc1: this.linear(`${name}.${i}.mlp.fc1`),
      fc2: this.linear(`${name}.${i}.mlp.fc2`),
    }));
  }

  /** Records the renewal of the weights' copies; once after each change of the parameters. */
  refresh(r: Recorder): void {
    r.within('optimizer', () => {
      for (const { layer } of this.linears) refreshLinear(r, layer);
    });
  }

  /** Frees the weights' copies. */
  dispose(): void {
    for (const { layer } of this.linears) destroyTrainableLinear(layer);
  }
}
