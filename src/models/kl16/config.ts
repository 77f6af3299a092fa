/** Sizes of a KL autoencoder (latent diffusion's, as eMIGM uses it), and the name and shape of every parameter. */
import { EmigmError } from '../../errors.ts';
import { checkShapes } from '../shapes.ts';

/** The official constructor's names in brackets. */
export interface Kl16Config {
  /** Channels of the first level. (ch) */
  width: number;
  /** Channels of each level, in widths. (ch_mult) */
  multipliers: readonly number[];
  /** Residual blocks of an encoder level; the decoder has one more. (num_res_blocks) */
  blocks: number;
  /** Levels of the encoder with an attention block after each residual block: the one of 16 x 16. (attn_resolutions) */
  attention: readonly number[];
  /** Channels inside encoder and decoder at the smallest map. (z_channels) */
  latent: number;
  /** Channels of a latent. (embed_dim) */
  channels: number;
  /** Channels of an image. (in_channels, out_ch) */
  image: number;
}

/** The official KL-16: 66 456 019 parameters. */
export const KL16_CONFIG: Kl16Config = {
  width: 128,
  multipliers: [1, 1, 2, 2, 4],
  blocks: 2,
  attention: [4],
  latent: 16,
  channels: 16,
  image: 3,
};

/** Pixels of a side that make one latent. */
export const kl16Stride = ({ multipliers }: Kl16Config): number => 2 ** (multipliers.length - 1);

/** Name and shape of every parameter, in the order of the official state dict. */
export function kl16Shapes(config: Kl16Config): Map<string, readonly number[]> {
  const { width, multipliers, blocks, attention, latent, channels, image } = config;
  const shapes = new Map<string, readonly number[]>();
  const conv = (name: string, inputs: number, outputs: number, side = 3) => {
    shapes.set(`${name}.weight`, [outputs, inputs, side, side]);
    shapes.set(`${name}.bias`, [outputs]);
  };
  const norm = (name: string, size: number) => {
    shapes.set(`${name}.weight`, [size]);
    shapes.set(`${name}.bias`, [size]);
  };
  const residual = (name: string, inputs: number, outputs: number) => {
    norm(`${name}.norm1`, inputs);
    conv(`${name}.conv1`, inputs, outputs);
    norm(`${name}.norm2`, outputs);
    conv(`${name}.conv2`, outputs, outputs);
    if (inputs !== outputs) conv(`${name}.nin_shortcut`, inputs, outputs, 1);
  };
  const attend = (name: string, size: number) => {
    norm(`${name}.norm`, size);
    for (const part of ['q', 'k', 'v', 'proj_out']) conv(`${name}.${part}`, size, size, 1);
  };
  const middle = (name: string, size: number) => {
    residual(`${name}.block_1`, size, size);
    attend(`${name}.attn_1`, size);
    residual(`${name}.block_2`, size, size);
  };
  const widths = multipliers.map((multiplier) => multiplier * width);
  const last = widths.length - 1;

  conv('encoder.conv_in', image, width);
  widths.forEach((size, level) => {
    const name = `encoder.down.${level}`;
    const before = level === 0 ? width : widths[level - 1];
    for (let i = 0; i < blocks; i++) residual(`${name}.block.${i}`, i === 0 ? before : size, size);
    if (attention.includes(level)) for (let i = 0; i < blocks; i++) attend(`${name}.attn.${i}`, size);
    if (level !== last) conv(`${name}.downsample.conv`, size, size);
  });
  middle('encoder.mid', widths[last]);
  norm('encoder.norm_out', widths[last]);
  conv('encoder.conv_out', widths[last], 2 * latent);

  conv('decoder.conv_in', latent, widths[last]);
  middle('decoder.mid', widths[last]);
  widths.forEach((size, level) => {
    const name = `decoder.up.${level}`;
    const before = level === last ? size : widths[level + 1];
    for (let i = 0; i <= blocks; i++) residual(`${name}.block.${i}`, i === 0 ? before : size, size);
    if (level !== 0) conv(`${name}.upsample.conv`, size, size);
  });
  norm('decoder.norm_out', widths[0]);
  conv('decoder.conv_out', widths[0], image);

  conv('quant_conv', 2 * latent, 2 * channels, 1);
  conv('post_quant_conv', channels, latent, 1);
  return shapes;
}

/**
 * The configuration that a state dict's shapes tell.
 * @throws EmigmError 'model' when a tensor is missing, has another shape than the rest asks for, or does not belong
 */
export function inferKl16(shapes: ReadonlyMap<string, readonly number[]>, file: string): Kl16Config {
  const size = (name: string, dim: number): number => {
    const value = shapes.get(name)?.[dim];
    if (value === undefined) throw new EmigmError('model', `${file}: no KL-16 autoencoder: tensor ${name} is missing`);
    return value;
  };
  const count = (name: (i: number) => string): number => {
    let n = 0;
    while (shapes.has(name(n))) n++;
    return n;
  };
  const width = size('encoder.conv_in.weight', 0);
  const levels = count((i) => `encoder.down.${i}.block.0.conv1.weight`);
  const every = Array.from({ length: levels }, (_, level) => level);
  const config: Kl16Config = {
    width,
    multipliers: every.map((level) => size(`encoder.down.${level}.block.0.conv1.weight`, 0) / width),
    blocks: count((i) => `encoder.down.0.block.${i}.conv1.weight`),
    attention: every.filter((level) => shapes.has(`encoder.down.${level}.attn.0.q.weight`)),
    latent: size('decoder.conv_in.weight', 1),
    channels: size('post_quant_conv.weight', 1),
    image: size('encoder.conv_in.weight', 1),
  };
  checkShapes(kl16Shapes(config), shapes, { file, network: 'KL-16' });
  if (every.some((level) => (config.multipliers[level] * width) % 32 !== 0) || levels === 0) {
    throw new EmigmError(
      'model',
      `${file}: no KL-16 autoencoder: widths must be multiples of the 32 groups of its norms`,
    );
  }
  return config;
}
