/**
 * The diffusion head: an MLP that predicts the noise (and the variance channel) of one token, conditioned on the
 * decoder's z and the time by adaptive layer norm. Li et al. 2024 (MAR), section 3.2; Peebles, Xie 2023 (DiT).
 */
import type { Device } from '../gpu/device.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { sinusoid, sinusoidFrequencies } from '../ops/diffusion.ts';
import { activation } from '../ops/activation.ts';
import { layernorm, type Norm } from '../ops/layernorm.ts';
import { inputType, type Linear, linear } from '../ops/matmul.ts';
import type { WeightLoader } from './weights.ts';

/** Width of the sinusoid that enters the time embedding. */
const TIME_DIM = 256;

export interface HeadConfig {
  depth: number;
  width: number;
  tokenDim: number;
}

interface Modulation {
  layer: Linear;
  /** Residual blocks that it serves; the final layer counts as block `depth`. */
  blocks: number[];
}

export interface Head extends HeadConfig {
  frequency: Tensor;
  time: [Linear, Linear];
  condition: Linear;
  input: Linear;
  blocks: { norm: Norm; fc1: Linear; fc2: Linear }[];
  /** adaLN's Linear(SiLU(y)) of all blocks, in as few matmuls as the adapter's largest binding allows. */
  modulations: Modulation[];
  /** [noise | variance], and its first half alone for solvers that do not use the variance. */
  final: Linear;
  finalNoise: Linear;
}

/** Largest number of rows that `headNoise` takes at once: bounds the modulations' memory. */
export function headRowLimit(device: Device, { depth, width }: HeadConfig): number {
  const bytes = Math.min(device.largestBuffer, 256 * 2 ** 20);
  return Math.max(1, Math.floor(bytes / ((3 * depth + 2) * width * 4)));
}

/** Loads the head by its official names under `prefix`. */
export async function loadHead(load: WeightLoader, prefix: string, config: HeadConfig): Promise<Head> {
  const { depth, width, tokenDim } = config;
  const at = (name: string) => `${prefix}${name}`;
  const names = [
    ...Array.from({ length: depth }, (_, i) => at(`res_blocks.${i}.adaLN_modulation.1`)),
    at('final_layer.adaLN_modulation.1'),
  ];
  const limit = load.device.largestBuffer;
  const together = Math.max(1, Math.floor(limit / (3 * width * width * 4)));
  const modulations: Modulation[] = [];
  for (let first = 0; first <= depth; first += together) {
    const blocks = Array.from({ length: Math.min(together, depth + 1 - first) }, (_, i) => first + i);
    modulations.push({ layer: await load.stack(blocks.map((i) => names[i])), blocks });
  }
  const blocks = [];
  for (let i = 0; i < depth; i++) {
    blocks.push({
      norm: await load.norm(at(`res_blocks.${i}.in_ln`)),
      fc1: await load.linear(at(`res_blocks.${i}.mlp.0`)),
      fc2: await load.linear(at(`res_blocks.${i}.mlp.2`)),
    });
  }
  return {
    ...config,
    frequency: load.adopt(load.device.tensor([TIME_DIM / 2], 'f32', 'frequencies', sinusoidFrequencies(TIME_DIM))),
    time: [
      await load.linear(at('time_embed.mlp.0'), { precise: true }),
      await load.linear(at('time_embed.mlp.2'), { precise: true }),
    ],
    condition: await load.linear(at('cond_embed')),
    input: await load.linear(at('input_proj'), { precise: true }),
    blocks,
    modulations,
    final: await load.linear(at('final_layer.linear'), { precise: true }),
    finalNoise: await load.linear(at('final_layer.linear'), { rows: [0, tokenDim], precise: true }),
  };
}

/** Time embeddings [t.size, width]; needed once a run for all the times that a solver visits. */
export function timeEmbedding(r: Recorder, head: Head, t: Tensor, out?: Tensor): Tensor {
  const hidden = linear(r, sinusoid(r, t, head.frequency, TIME_DIM), head.time[0], { activation: 'silu' });
  return linear(r, hidden, head.time[1], { out });
}

/** The condition's embedding [rows, width] of z[rows, *]; needed once a sampling step. */
export function conditionEmbedding(r: Recorder, head: Head, z: Tensor, out?: Tensor): Tensor {
  return linear(r, z, head.condition, { out });
}

export interface HeadTime {
  /** [times, width] */
  embeddings: Tensor;
  index: number;
}

/**
 * One evaluation for all rows: x[rows, tokenDim] at one time, with the condition's embedding[rows, width].
 * Returns [rows, 2 tokenDim] = [noise | variance], or with `noiseOnly` [rows, tokenDim].
 */
export function headNoise(
  r: Recorder,
  head: Head,
  x: Tensor,
  embedding: Tensor,
  time: HeadTime,
  noiseOnly: boolean,
): Tensor {
  const { width, depth } = head;
  // y = t + c for all rows; SiLU of it enters every adaLN.
  const y = activation(r, 'silu', embedding, width, {
    row: { tensor: time.embeddings, index: time.index },
    dtype: inputType(head.modulations[0].layer),
  });
  const of = new Map<number, { tensor: Tensor; stride: number; offset: number }>();
  for (const { layer, blocks } of head.modulations) {
    const tensor = linear(r, y, layer);
    for (const [i, block] of blocks.entries()) of.set(block, { tensor, stride: layer.outputs, offset: 3 * width * i });
  }
  const h = linear(r, x, head.input);
  for (const [i, { norm, fc1, fc2 }] of head.blocks.entries()) {
    const { tensor, stride, offset } = of.get(i)!; // shift, scale, gate
    const normal = layernorm(r, h, width, {
      affine: norm,
      modulation: { tensor, stride, shift: offset, scale: offset + width },
      dtype: inputType(fc1),
    });
    const hidden = linear(r, normal, fc1, { activation: 'silu', dtype: inputType(fc2) });
    linear(r, hidden, fc2, { gate: { tensor, stride, offset: offset + 2 * width }, out: h, accumulate: true });
  }
  const { tensor, stride, offset } = of.get(depth)!; // shift, scale
  const final = noiseOnly ? head.finalNoise : head.final;
  const normal = layernorm(r, h, width, {
    modulation: { tensor, stride, shift: offset, scale: offset + width },
    dtype: inputType(final),
  });
  return linear(r, normal, final);
}
