/** Sampling from a model of either kind. */
import { DiscreteNetwork } from '../models/discrete/network.ts';
import type { Emigm } from '../models/emigm.ts';
import { type DiscreteRequest, sampleDiscreteBatches } from './discrete/sample.ts';
import { type SampledImage, type SampleStats, sampleBatches } from './sample.ts';

/** Continuous tokens by the diffusion head, or codes. @throws EmigmError as sampling of either kind does */
export function sampleAny(
  network: Emigm | DiscreteNetwork,
  request: DiscreteRequest,
  stats?: SampleStats,
): AsyncGenerator<SampledImage[], SampleStats> {
  return network instanceof DiscreteNetwork
    ? sampleDiscreteBatches(network, request, stats)
    : sampleBatches(network, request, stats);
}
