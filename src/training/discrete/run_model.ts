/** A run that trains a model of codes. */
import { crc32 } from '../../formats/crc32.ts';
import type { Codebook } from '../../formats/codebook.ts';
import { type DiscreteConfig, discreteParameterCount, discreteShapes } from '../../models/discrete/config.ts';
import { saveDiscreteModel } from '../../models/discrete/file.ts';
import { checkCodebook, DiscreteNetwork } from '../../models/discrete/network.ts';
import { sampleDiscreteBatches } from '../../sampling/discrete/sample.ts';
import { initialValues } from '../initialize.ts';
import { ParameterStore } from '../parameters.ts';
import type { RunModel } from '../run_model.ts';
import { Trainer } from '../trainer.ts';
import { discreteParameters, DiscreteObjective } from './objective.ts';

/** @throws EmigmError 'model' when the codebook is not the configuration's */
export function discreteModel(config: DiscreteConfig, codebook: Codebook): RunModel {
  checkCodebook(config, codebook, 'the codebook');
  return {
    config,
    parameterCount: discreteParameterCount(config),
    setUp(device, settings) {
      const parameters = new ParameterStore(device, discreteParameters(config));
      try {
        const objective = new DiscreteObjective(parameters, config, settings);
        return { parameters, trainer: new Trainer(parameters, settings, objective) };
      } catch (error) {
        parameters.dispose();
        throw error;
      }
    },
    initial: (seed) => initialValues(discreteShapes(config), seed),
    save: (path, parameters, info) => {
      const read = (name: string) => parameters.read(name, 'average') as Promise<Float32Array<ArrayBuffer>>;
      return saveDiscreteModel(path, { config, codebook, info: { ...info, weights: 'model_ema' }, read });
    },
    async *draw(device, weights, request) {
      const network = await DiscreteNetwork.load(device, config, codebook, weights);
      try {
        yield* sampleDiscreteBatches(network, request);
      } finally {
        network.dispose();
      }
    },
  };
}

/** A number that tells codebooks apart, for checkpoints. */
export const codebookChecksum = ({ codes }: Codebook): string =>
  crc32(new Uint8Array(codes.buffer, codes.byteOffset, codes.byteLength)).toString(16);
