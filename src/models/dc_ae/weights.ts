/** Weights of a DC-AE in the form that its blocks read: batch norm folded away, large convolutions in parts. */
import { type ConvLoader, loadConv } from '../../nn/conv_blocks.ts';
import type { WeightSource } from '../../nn/weights.ts';
import type { Conv } from '../../ops/conv.ts';
import { createLinear, type Linear } from '../../ops/matmul.ts';

/** PyTorch's default, with which DC-AE was trained. */
const BATCH_NORM_EPS = 1e-5;

/**
 * The source with the batch norm `norm` in eval mode folded into the convolution `conv` without a bias, which so gets
 * one: w' = w g, b' = beta - mean g, with g = gamma / sqrt(var + eps) of each output (Ioffe, Szegedy 2015, algorithm 2).
 */
export function foldBatchNorm(source: WeightSource, conv: string, norm: string): WeightSource {
  const gains = async (): Promise<Float64Array> => {
    const gamma = await source.read(`${norm}.weight`);
    const variance = await source.read(`${norm}.running_var`);
    return Float64Array.from(gamma, (value, i) => value / Math.sqrt(variance[i] + BATCH_NORM_EPS));
  };
  return {
    shape: (name) => (name === `${conv}.bias` ? source.shape(`${norm}.bias`) : source.shape(name)),
    async read(name) {
      if (name === `${conv}.weight`) {
        const [weight, gain] = [await source.read(name), await gains()];
        const size = weight.length / gain.length;
        return weight.map((value, i) => value * gain[Math.floor(i / size)]);
      }
      if (name === `${conv}.bias`) {
        const [beta, mean, gain] = [
          await source.read(`${norm}.bias`),
          await source.read(`${norm}.running_mean`),
          await gains(),
        ];
        return beta.map((value, i) => value - mean[i] * gain[i]);
      }
      return source.read(name);
    },
  };
}

/** A 1 x 1 convolution as a linear layer over the pixels. */
export async function loadPointwise(
  { load, source, stored }: ConvLoader,
  name: string,
  { bias = true }: { bias?: boolean } = {},
): Promise<Linear> {
  const [outputs, inputs] = source.shape(`${name}.weight`);
  const weight = await source.read(`${name}.weight`);
  const added = bias ? await source.read(`${name}.bias`) : undefined;
  const layer = createLinear(load.device, name, [outputs, inputs], weight, added, { stored });
  load.adopt(layer.weight);
  if (layer.bias) load.adopt(layer.bias);
  return layer;
}

/**
 * A convolution with a bias in as few parts as its weights need to fit the adapter's buffers, each a multiple of
 * `unit` outputs that follow each other.
 */
export async function loadConvParts(from: ConvLoader, name: string, unit: number): Promise<Conv[]> {
  const { source, load } = from;
  const [outputs, ...window] = source.shape(`${name}.weight`);
  const row = window.reduce((a, b) => a * b, 1);
  const count = Math.ceil((4 * outputs * row) / load.device.largestBuffer);
  if (count <= 1) return [await loadConv(from, name)];
  const weight = await source.read(`${name}.weight`);
  const bias = await source.read(`${name}.bias`);
  const size = Math.ceil(outputs / unit / count) * unit;
  const parts: Conv[] = [];
  for (let first = 0; first < outputs; first += size) {
    const end = Math.min(first + size, outputs);
    const part: WeightSource = {
      shape: () => [end - first, ...window],
      read: async (key) =>
        key.endsWith('.bias') ? bias.subarray(first, end) : weight.subarray(first * row, end * row),
    };
    parts.push(await loadConv({ ...from, source: part }, name));
  }
  return parts;
}
