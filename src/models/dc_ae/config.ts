/** Sizes of a DC-AE (deep compression autoencoder, efficientvit's code), and the name and shape of every parameter. */

/** Blocks of a stage: residual pairs of convolutions, or linear attention and a GLU mobile convolution (EViT_GLU). */
export type DcAeBlock = 'residual' | 'attention';

export interface DcAeStage {
  /** Channels; 0 for a stage without blocks. */
  width: number;
  /** Blocks. Only the first and the last stage may have none; without it the first does not resample either. */
  depth: number;
  block: DcAeBlock;
  /** Batch norm (in eval mode, with ReLU) or RMS norm over channels (with SiLU), which attention stages always have. */
  norm: 'batch' | 'rms';
}

/** The official constructor's names in brackets. */
export interface DcAeConfig {
  /** From full resolution down, each at half the side of the one before. (width_list, depth_list, block_type, norm) */
  encoder: readonly DcAeStage[];
  /** In the same order; run from the last to the first. */
  decoder: readonly DcAeStage[];
  /** Channels of a latent. (latent_channels) */
  channels: number;
  /** Channels of an image. (in_channels) */
  image: number;
  /** Sides of the depthwise kernels that make further tokens for attention. (scales) */
  scales: readonly number[];
}

/** Channels of an attention head. (dim) */
export const DC_AE_HEAD = 32;

/** The official dc-ae-f32c32-in-1.0: 323 356 460 parameters. */
export const DC_AE_F32C32_CONFIG: DcAeConfig = {
  encoder: stages([0, 4, 8, 2, 2, 2], 'rms'),
  decoder: stages([0, 5, 10, 2, 2, 2], 'batch'),
  channels: 32,
  image: 3,
  scales: [],
};

function stages(depths: readonly number[], norm: 'batch' | 'rms'): DcAeStage[] {
  const widths = [0, 256, 512, 512, 1024, 1024];
  return depths.map((depth, i) => ({
    width: widths[i],
    depth,
    block: i < 3 ? 'residual' : 'attention',
    norm: i < 3 && depth > 0 ? norm : 'rms',
  }));
}

/** Counts in the state dict that nothing reads, and that some converters drop. */
export const isUnread = (name: string): boolean => name.endsWith('.num_batches_tracked');

/** Of `dcAeShapes` what is trained: without the running statistics. */
export function dcAeParameters(config: DcAeConfig): Map<string, readonly number[]> {
  return new Map(
    [...dcAeShapes(config)].filter(([name]) => !/\.(running_mean|running_var)$/.test(name) && !isUnread(name)),
  );
}

/** Pixels of a side that make one latent. */
export const dcAeStride = ({ encoder }: DcAeConfig): number => 2 ** (encoder.length - 1);

/** Whether the image is halved on entering, the first stage having no blocks. */
export const entersHalved = (half: readonly DcAeStage[]): boolean => half[0].depth === 0;

/** Name of the convolution that enters the encoder or leaves the decoder. */
export function borderConv(half: 'encoder' | 'decoder', halved: boolean): string {
  const module = half === 'encoder' ? 'encoder.project_in' : 'decoder.project_out.op_list.2';
  return halved ? `${module}.conv.conv` : `${module}.conv`;
}

/** Name and shape of every entry of the official state dict, in its order; running statistics are among them. */
export function dcAeShapes(config: DcAeConfig): Map<string, readonly number[]> {
  const { encoder, decoder, channels, image, scales } = config;
  const shapes = new Map<string, readonly number[]>();
  const conv = (name: string, inputs: number, outputs: number, side: number, bias = true) => {
    shapes.set(`${name}.weight`, [outputs, inputs, side, side]);
    if (bias) shapes.set(`${name}.bias`, [outputs]);
  };
  const norm = (name: string, size: number, kind: 'batch' | 'rms') => {
    const parts = kind === 'rms' ? ['weight', 'bias'] : ['weight', 'bias', 'running_mean', 'running_var'];
    for (const part of parts) shapes.set(`${name}.${part}`, [size]);
    if (kind === 'batch') shapes.set(`${name}.num_batches_tracked`, []);
  };
  const block = (name: string, { width, block: kind, norm: normKind }: DcAeStage) => {
    if (kind === 'residual') {
      conv(`${name}.main.conv1.conv`, width, width, 3);
      conv(`${name}.main.conv2.conv`, width, width, 3, false);
      norm(`${name}.main.conv2.norm`, width, normKind);
      return;
    }
    const context = `${name}.context_module.main`;
    conv(`${context}.qkv.conv`, width, 3 * width, 1, false);
    scales.forEach((side, i) => {
      conv(`${context}.aggreg.${i}.0`, 1, 3 * width, side, false);
      conv(`${context}.aggreg.${i}.1`, DC_AE_HEAD, 3 * width, 1, false);
    });
    conv(`${context}.proj.conv`, width * (1 + scales.length), width, 1, false);
    norm(`${context}.proj.norm`, width, normKind);
    const local = `${name}.local_module.main`;
    conv(`${local}.inverted_conv.conv`, width, 8 * width, 1);
    conv(`${local}.depth_conv.conv`, 1, 8 * width, 3);
    conv(`${local}.point_conv.conv`, 4 * width, width, 1, false);
    norm(`${local}.point_conv.norm`, width, normKind);
  };

  const first = (half: readonly DcAeStage[]) => (entersHalved(half) ? half[1].width : half[0].width);
  const halved = entersHalved(encoder);
  conv(borderConv('encoder', halved), image, first(encoder) / (halved ? 4 : 1), 3);
  encoder.forEach((stage, s) => {
    for (let i = 0; i < stage.depth; i++) block(`encoder.stages.${s}.op_list.${i}`, stage);
    if (stage.depth > 0 && s + 1 < encoder.length) {
      conv(`encoder.stages.${s}.op_list.${stage.depth}.main.conv.conv`, stage.width, encoder[s + 1].width / 4, 3);
    }
  });
  conv('encoder.project_out.main.op_list.0.conv', encoder.at(-1)!.width, channels, 3);

  conv('decoder.project_in.main.conv', channels, decoder.at(-1)!.width, 3);
  decoder.forEach((stage, s) => {
    const resamples = stage.depth > 0 && s + 1 < decoder.length;
    if (resamples) {
      conv(`decoder.stages.${s}.op_list.0.main.conv.conv`, decoder[s + 1].width, 4 * stage.width, 3);
    }
    for (let i = 0; i < stage.depth; i++) block(`decoder.stages.${s}.op_list.${i + (resamples ? 1 : 0)}`, stage);
  });
  const leaves = entersHalved(decoder);
  norm('decoder.project_out.op_list.0', first(decoder), 'rms');
  conv(borderConv('decoder', leaves), first(decoder), image * (leaves ? 4 : 1), 3);
  return shapes;
}
