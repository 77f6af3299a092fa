/** The kind of model that a run trains: continuous tokens here, codes in discrete/. */
import type { Device } from '../gpu/device.ts';
import { type ModelConfig, parameterCounts } from '../models/config.ts';
import { Emigm } from '../models/emigm.ts';
import type { ModelInfo } from '../models/info.ts';
import type { TrunkConfig } from '../models/trunk.ts';
import type { WeightSource } from '../nn/weights.ts';
import { type SampledImage, type SampleRequest, sampleBatches } from '../sampling/sample.ts';
import { exportAverage, exportStateDict } from './checkpoint.ts';
import { initialParameters } from './initialize.ts';
import { Parameters, type ParameterStore } from './parameters.ts';
import type { TrainingSettings } from './settings.ts';
import { Trainer } from './trainer.ts';

/** What a run has on the device. */
export interface RunState {
  parameters: ParameterStore;
  trainer: Trainer;
}

export interface RunModel {
  /** Goes into checkpoints; a continuation has the same. */
  readonly config: TrunkConfig;
  readonly parameterCount: number;
  /** Takes the memory of parameters and trainer. */
  setUp(device: Device, settings: TrainingSettings): RunState;
  initial(seed: number | bigint): WeightSource;
  /** Writes the averaged weights as a model file. */
  save(path: string, parameters: ParameterStore, info: ModelInfo): Promise<void>;
  /** Writes the averaged weights as a state dict with the official names, where there are such. */
  saveOfficial?(path: string, parameters: ParameterStore): Promise<void>;
  /** Draws images from weights in use. */
  draw(device: Device, weights: WeightSource, request: SampleRequest): AsyncGenerator<SampledImage[]>;
}

/** A model of continuous tokens. */
export function continuousModel(config: ModelConfig): RunModel {
  return {
    config,
    parameterCount: parameterCounts(config).total,
    setUp(device, settings) {
      const parameters = new Parameters(device, config);
      try {
        return { parameters, trainer: Trainer.of(parameters, settings) };
      } catch (error) {
        parameters.dispose();
        throw error;
      }
    },
    initial: (seed) => initialParameters(config, seed),
    save: (path, parameters, info) => exportAverage(path, parameters, config, info),
    saveOfficial: (path, parameters) => exportStateDict(path, parameters, config, 'average'),
    async *draw(device, weights, request) {
      const network = await Emigm.load(device, config, weights);
      try {
        yield* sampleBatches(network, request);
      } finally {
        network.dispose();
      }
    },
  };
}
