/** One micro-batch as a recorded program: forward pass, loss, backward pass. */
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { headLossTable } from '../diffusion/training.ts';
import { gridSize } from '../models/config.ts';
import { Tape } from '../nn/tape.ts';
import { headLoss, type ProcessTable, qSample } from '../ops/loss.ts';
import { patchify } from '../ops/tokens.ts';
import type { MicroBatchInputs } from './inputs.ts';
import type { MicroBatchShape } from './micro_batch.ts';
import type { NetworkOptions, TrainingNetwork } from './network.ts';

/** The diffusion process of training (1000 cosine betas) on the device. */
export function processTable(device: Device): ProcessTable {
  const { rows, halfBin } = headLossTable();
  return { tensor: device.tensor([rows.length / 4, 4], 'f32', 'diffusion process', rows), halfBin };
}

export interface MicroBatchTensors {
  inputs: MicroBatchInputs;
  table: ProcessTable;
  /** Noise that is given, or the key by which it is drawn. */
  noise: { key: Tensor } | { noise: Tensor };
  /** f32 [1]: the weighted loss is added to it. */
  loss: Tensor;
}

/**
 * Records forward and backward pass; gradients are added to those of the parameters. `terms` [rows, 2] is written with
 * the loss of every row where it is given.
 */
export function recordMicroBatch(
  r: Recorder,
  network: TrainingNetwork,
  shape: MicroBatchShape,
  { inputs, table, noise, loss }: MicroBatchTensors,
  options: NetworkOptions & { terms?: Tensor } = {},
): void {
  const { config, tokenDim: channels } = network;
  const rows = shape.rows * shape.repeats;
  const tape = new Tape(r);
  const { lists } = inputs;
  const tokens = r.within('data', () =>
    patchify(r, inputs.images, {
      channels: config.channels,
      side: gridSize(config),
      patch: config.patchSize,
    }),
  );
  const z = network.conditions(tape, tokens, lists, shape, options);
  const batch = { rows, repeats: shape.repeats, channels };
  const noisy = r.within('loss', () => qSample(r, tokens, lists.targets, inputs.timeIndices, table, batch, noise));
  const times = { times: inputs.times, indices: lists.times, uses: lists.timeUses };
  const net = network.headOutput(tape, z, noisy.xT, times, lists.conditionRows, shape, options);
  const { dNet } = r.within('loss', () =>
    headLoss(r, { net, ...noisy, t: inputs.timeIndices, weights: inputs.weights }, table, batch, {
      terms: options.terms,
      total: loss,
      accumulate: true,
    }),
  );
  tape.seed(net, dNet!);
  tape.backward();
}
