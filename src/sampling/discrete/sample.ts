/** Sampling images from a model of codes. */
import { EmigmError } from '../../errors.ts';
import type { DiscreteNetwork } from '../../models/discrete/network.ts';
import { MASKED } from '../../ops/tokens.ts';
import { discreteListEntries, listsTooLong, mostImages } from '../lists.ts';
import {
  type BatchMethod,
  drawBatches,
  emptyStats,
  revealedMasks,
  type SampledImage,
  type SampleRequest,
  type SampleStats,
} from '../sample.ts';
import { resolveSettings, type SampleSettings } from '../settings.ts';
import { DiscreteSampler } from './batch.ts';
import { type DiscreteInput, planDiscrete } from './plan.ts';

export type DiscreteRequest = Omit<SampleRequest, 'kept'>;

/** Records a batch and takes its memory. @throws EmigmError 'memory' naming a batch size to try */
export async function prepareDiscrete(
  model: DiscreteNetwork,
  settings: SampleSettings,
  input: DiscreteInput,
  outputScale?: number,
): Promise<DiscreteSampler> {
  const sampler = new DiscreteSampler(model, input, { ...settings, outputScale });
  try {
    await sampler.prepare();
    return sampler;
  } catch (cause) {
    sampler.dispose();
    if (!(cause instanceof EmigmError) || cause.code !== 'memory' || input.classRows.length === 1) throw cause;
    const smaller = Math.ceil(input.classRows.length / 2);
    throw new EmigmError('memory', `${cause.message}; try --batch ${smaller}`, { cause });
  }
}

/**
 * Samples images batch by batch; latents are the patches of the codes. Each image depends on the seed, its index, its
 * class and the settings alone, not on the batch in which it is made.
 * @throws EmigmError 'input' for bad requests, 'memory', 'aborted'
 */
export async function* sampleDiscreteBatches(
  model: DiscreteNetwork,
  request: DiscreteRequest,
  stats: SampleStats = emptyStats(),
): AsyncGenerator<SampledImage[], SampleStats> {
  const { classes, batch, indices, outputScale, onStep, signal, ...rest } = request;
  const settings = resolveSettings(rest);
  const method: BatchMethod<DiscreteInput, DiscreteSampler> = {
    async check(classes, indices) {
      const one = planDiscrete(model, settings, classes.slice(0, 1), indices.slice(0, 1));
      const entries = discreteListEntries(model.sequenceLength, one);
      const most = mostImages(entries);
      if (classes.length > most)
        throw listsTooLong(classes.length, entries, `try --batch ${2 ** Math.floor(Math.log2(most))}`);
    },
    plan: (classes, indices) => planDiscrete(model, settings, classes, indices),
    prepare: (input) => prepareDiscrete(model, settings, input, outputScale),
    async revealed(sampler, { steps, classRows }, done) {
      const planned = steps.slice(0, done).flatMap(({ positions }) => (positions ? [{ positions }] : []));
      if (planned.length > 0) return revealedMasks(planned, model.sequenceLength);
      const codes = await sampler.codes();
      const { sequenceLength: tokens } = model;
      return classRows.map((_, image) =>
        Uint8Array.from(codes.subarray(image * tokens, (image + 1) * tokens), (code) => (code === MASKED ? 0 : 1)),
      );
    },
  };
  return yield* drawBatches(model, method, { classes, batch, indices, onStep, signal }, stats);
}
