/** What a trainer trains: a network with its loss. Continuous tokens with the diffusion head here; codes in discrete/. */
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import type { TrunkConfig } from '../models/trunk.ts';
import { diffusionNoiseKey, type ProcessTable } from '../ops/loss.ts';
import type { MicroBatchDraws } from './draws.ts';
import { processTable, recordMicroBatch } from './forward_backward.ts';
import { MicroBatchInputs } from './inputs.ts';
import type { MicroBatch, MicroBatchShape } from './micro_batch.ts';
import { TrainingNetwork } from './network.ts';
import type { Parameters } from './parameters.ts';
import type { TrainingSettings } from './settings.ts';
import type { TrunkOptions } from './trunk.ts';

export interface Objective {
  readonly config: TrunkConfig;
  /** Rows of the loss for each masked token. */
  readonly repeats: number;
  /** Rows of the loss are filled up to a multiple of it: see `MicroBatchInput.rowsMultiple`. */
  readonly rowsMultiple?: number;
  /** Rows that the keys of dropout have. */
  readonly dropoutPlaces: number;
  /** Records forward and backward pass of a micro-batch: gradients, and the weighted loss, are added. */
  record(r: Recorder, shape: MicroBatchShape, loss: Tensor, options: TrunkOptions): void;
  /** Puts micro-batch number `index` of the run on the device, behind what was submitted. */
  load(images: Float32Array, batch: MicroBatch, draws: MicroBatchDraws, index: number): void;
  /** Records the renewal of the weights' copies. */
  refresh(r: Recorder): void;
  /** Frees all but the parameters. */
  dispose(): void;
}

/** Continuous tokens: the diffusion loss of eMIGM and MAR. */
export class DiffusionObjective implements Objective {
  readonly config: TrunkConfig;
  readonly repeats: number;
  private readonly device: Device;
  private readonly seed: number | bigint;
  private readonly network: TrainingNetwork;
  private readonly inputs: MicroBatchInputs;
  private readonly table: ProcessTable;
  private readonly noiseKey: Tensor;

  /** Takes the memory that does not depend on the masks; the parameters stay the caller's. */
  constructor(parameters: Parameters, settings: TrainingSettings) {
    const { device, config } = parameters;
    this.device = device;
    this.config = config;
    this.repeats = settings.diffusionBatchMul;
    this.seed = settings.seed;
    this.network = new TrainingNetwork(parameters);
    this.inputs = new MicroBatchInputs(device, config, settings.microBatch, settings.diffusionBatchMul);
    this.table = processTable(device);
    this.noiseKey = device.tensor([2], 'u32', 'noise key');
  }

  get dropoutPlaces(): number {
    return this.network.dropoutPlaces;
  }

  record(r: Recorder, shape: MicroBatchShape, loss: Tensor, options: TrunkOptions): void {
    const { inputs, table, noiseKey } = this;
    recordMicroBatch(r, this.network, shape, { inputs, table, noise: { key: noiseKey }, loss }, options);
  }

  load(images: Float32Array, batch: MicroBatch, draws: MicroBatchDraws, index: number): void {
    const { rows, repeats } = batch.shape;
    this.inputs.write(images, batch, draws.times(rows * repeats));
    this.device.write(this.noiseKey, diffusionNoiseKey(this.seed, index));
  }

  refresh(r: Recorder): void {
    this.network.refresh(r);
  }

  dispose(): void {
    this.network.dispose();
    this.inputs.dispose();
    this.table.tensor.destroy();
    this.noiseKey.destroy();
  }
}
