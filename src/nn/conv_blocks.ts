/** Building blocks of convolutional autoencoders, channels last: residual block, attention over a map, loading. */
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { type Conv, type ConvShape, conv, createConv } from '../ops/conv.ts';
import { groupNorm } from '../ops/group_norm.ts';
import type { Norm } from '../ops/layernorm.ts';
import { type Linear, linear } from '../ops/matmul.ts';
import { wideAttention } from '../ops/wide_attention.ts';
import type { WeightLoader, WeightSource } from './weights.ts';

/** Where convolutions come from, and how they are stored; `load` frees them with the rest. */
export interface ConvLoader {
  load: WeightLoader;
  source: WeightSource;
  stored: 'f32' | 'f16';
}

/** Channels of an image as convolutions read them: rounded up to a multiple of four, the rest zero. */
export const paddedChannels = (channels: number): number => Math.ceil(channels / 4) * 4;

/**
 * `name.weight` [outputs, inputs / groups, rows, columns] and `name.bias`, where there is one. Without groups, inputs
 * and outputs are padded to multiples of four with zeros, so that the vectorised kernels serve images of three
 * channels too. Padding is "same" unless given.
 */
export async function loadConv(
  { load, source, stored }: ConvLoader,
  name: string,
  options: Omit<ConvShape, 'inputs' | 'outputs' | 'kernel'> & { bias?: boolean } = {},
): Promise<Conv> {
  const { bias: hasBias = true, ...rest } = options;
  const [outputs, groupInputs, rows, columns] = source.shape(`${name}.weight`);
  const { groups = 1 } = rest;
  const pad = groups === 1 ? paddedChannels : (count: number) => count;
  const [toOutputs, toInputs] = [pad(outputs), pad(groupInputs * groups)];
  const taps = rows * columns;
  let weight = await source.read(`${name}.weight`);
  let bias = hasBias ? await source.read(`${name}.bias`) : undefined;
  if (toOutputs !== outputs || toInputs !== groupInputs * groups) {
    const padded = new Float32Array(toOutputs * toInputs * taps);
    for (let o = 0; o < outputs; o++) {
      padded.set(weight.subarray(o * groupInputs * taps, (o + 1) * groupInputs * taps), o * toInputs * taps);
    }
    weight = padded;
    if (bias) {
      const longer = new Float32Array(toOutputs);
      longer.set(bias);
      bias = longer;
    }
  }
  const shape: ConvShape = {
    padding: { top: (rows - 1) >> 1, left: (columns - 1) >> 1, bottom: rows >> 1, right: columns >> 1 },
    ...rest,
    inputs: toInputs,
    outputs: toOutputs,
    kernel: [rows, columns],
  };
  const layer = createConv(load.device, name, shape, weight, bias, { stored });
  load.adopt(layer.weight);
  if (layer.bias) load.adopt(layer.bias);
  return layer;
}

/** x + conv2(silu(norm2(conv1(silu(norm1 x))))), x through a 1 x 1 convolution where the width changes. */
export interface ResidualBlock {
  norm1: Norm;
  conv1: Conv;
  norm2: Norm;
  conv2: Conv;
  shortcut?: Conv;
}

/** A residual block by the names of latent diffusion's autoencoders under `name`. */
export async function loadResidualBlock(from: ConvLoader, name: string): Promise<ResidualBlock> {
  const block: ResidualBlock = {
    norm1: await from.load.norm(`${name}.norm1`),
    conv1: await loadConv(from, `${name}.conv1`),
    norm2: await from.load.norm(`${name}.norm2`),
    conv2: await loadConv(from, `${name}.conv2`),
  };
  const { inputs, outputs } = block.conv1.shape;
  if (inputs !== outputs) block.shortcut = await loadConv(from, `${name}.nin_shortcut`);
  return block;
}

/** The residual block's output for x[batch, height, width, inputs]: [batch, height, width, outputs]. */
export function residualBlock(r: Recorder, x: Tensor, { norm1, conv1, norm2, conv2, shortcut }: ResidualBlock): Tensor {
  const hidden = conv(r, groupNorm(r, x, norm1, { silu: true }), conv1);
  const normal = groupNorm(r, hidden, norm2, { silu: true });
  const residual = shortcut ? conv(r, x, shortcut) : x;
  return conv(r, normal, conv2, { residual });
}

/** x + proj(attention(norm x)) with one head as wide as x, over all pixels of each image. */
export interface MapAttention {
  norm: Norm;
  qkv: Linear;
  proj: Linear;
}

/** An attention block by the names of latent diffusion's autoencoders under `name`; 1 x 1 convolutions as layers. */
export async function loadMapAttention({ load }: ConvLoader, name: string): Promise<MapAttention> {
  return {
    norm: await load.norm(`${name}.norm`),
    qkv: await load.stack([`${name}.q`, `${name}.k`, `${name}.v`]),
    proj: await load.linear(`${name}.proj_out`),
  };
}

/** The attention block's output for x[batch, height, width, channels], of the same shape. */
export function mapAttention(r: Recorder, x: Tensor, { norm, qkv, proj }: MapAttention): Tensor {
  const [batch, height, width, channels] = x.shape;
  const tensor = linear(r, groupNorm(r, x, norm), qkv);
  const part = (offset: number) => ({ tensor, stride: 3 * channels, offset });
  const mixed = wideAttention(r, part(0), part(channels), part(2 * channels), {
    batch,
    headDim: channels,
    queries: height * width,
    keys: height * width,
  });
  return linear(r, mixed, proj, { residual: x, out: r.temp(x.shape, 'f32', 'map attention out') });
}
