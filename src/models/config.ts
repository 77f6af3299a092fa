/** The configuration of an eMIGM model, the official sizes, and the name and shape of every parameter. */
import { z } from 'zod';
import { EmigmError } from '../errors.ts';

/** Field names are ours; the official constructor's stand in the comments (and in `configFromArgs`). */
export interface ModelConfig {
  /** Pixels of a side. (img_size) */
  imageSize: number;
  /** Pixels of a side that the tokenizer turns into one latent; 1 for pixel models. (vae_stride) */
  vaeStride: number;
  /** Latents of a side that make one token. (patch_size) */
  patchSize: number;
  /** Numbers a latent: 16 with KL-16, 32 with DC-AE, 3 for pixel models. (vae_embed_dim) */
  channels: number;
  /** (class_num) */
  classes: number;
  /** Slots in front of the tokens that hold the class embedding. (buffer_size) */
  bufferSize: number;
  /** (encoder_embed_dim) */
  encoderWidth: number;
  encoderDepth: number;
  encoderHeads: number;
  /** (decoder_embed_dim) */
  decoderWidth: number;
  decoderDepth: number;
  decoderHeads: number;
  /** Residual blocks of the diffusion head. (diffloss_d) */
  headDepth: number;
  /** Width of the diffusion head. (diffloss_w) */
  headWidth: number;
  /** The encoder sees visible tokens only, the decoder puts mask tokens back. (use_mae) */
  mae: boolean;
  /** CFG with mask: the unconditional input *is* the mask token, one shared parameter. (use_unsup_cfg) */
  maskGuidance: boolean;
  /** Hidden width of a block's MLP, in widths. */
  mlpRatio: number;
}

/** Width of the sinusoidal time embedding that enters the diffusion head. */
export const TIME_EMBEDDING_DIM = 256;

const size = z.int().min(1).max(1e6);
const fields = z.strictObject({
  imageSize: size,
  vaeStride: size,
  patchSize: size,
  channels: size,
  classes: size,
  bufferSize: size,
  encoderWidth: size,
  encoderDepth: size,
  encoderHeads: size,
  decoderWidth: size,
  decoderDepth: size,
  decoderHeads: size,
  headDepth: size,
  headWidth: size,
  mae: z.boolean(),
  maskGuidance: z.boolean(),
  mlpRatio: z.number().positive().default(4),
});

/** Names of the fields of a configuration, for flags and files. */
export const configFields = Object.keys(fields.shape) as (keyof ModelConfig)[];

/** What a field must be, for its error. */
function wanted(field: string): string {
  if (field === 'mae' || field === 'maskGuidance') return 'true or false';
  return field === 'mlpRatio' ? 'a positive number' : 'a positive integer';
}

function refuse(where: string, message: string): never {
  throw new EmigmError('model', `${where}: ${message}`);
}

/**
 * Checks a configuration from a file or from flags. `where` names the source in errors.
 * @throws EmigmError 'model' naming the first field that is missing, unknown or impossible
 */
export function checkConfig(value: unknown, where = 'model configuration'): ModelConfig {
  const parsed = fields.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const field = String(issue.path[0] ?? '');
    if (issue.code === 'unrecognized_keys') refuse(where, `"${issue.keys[0]}" is no field of a model configuration`);
    if (field === '') refuse(where, 'is not an object of fields');
    const given = (value as Record<string, unknown>)[field];
    refuse(
      where,
      given === undefined ? `${field} is missing` : `${field} must be ${wanted(field)}, not ${JSON.stringify(given)}`,
    );
  }
  const config = parsed.data;
  const { imageSize, vaeStride, patchSize, encoderWidth, decoderWidth } = config;
  const { encoderHeads, decoderHeads, mlpRatio } = config;
  if (imageSize % (vaeStride * patchSize) !== 0) {
    refuse(where, `imageSize ${imageSize} is no multiple of vaeStride x patchSize = ${vaeStride * patchSize}`);
  }
  if (encoderWidth % encoderHeads !== 0) {
    refuse(where, `encoderWidth ${encoderWidth} is no multiple of encoderHeads ${encoderHeads}`);
  }
  if (decoderWidth % decoderHeads !== 0) {
    refuse(where, `decoderWidth ${decoderWidth} is no multiple of decoderHeads ${decoderHeads}`);
  }
  for (const width of [encoderWidth, decoderWidth]) {
    if (!Number.isInteger(width * mlpRatio)) refuse(where, `mlpRatio ${mlpRatio} x width ${width} is no whole number`);
  }
  // The mask token stands in the decoder with MAE and in the encoder without.
  if ((config.maskGuidance || !config.mae) && encoderWidth !== decoderWidth) {
    const why = config.maskGuidance ? 'maskGuidance' : 'a single encoder (mae false)';
    refuse(where, `${why} needs encoderWidth (${encoderWidth}) equal to decoderWidth (${decoderWidth})`);
  }
  return config;
}

type Shape = Pick<ModelConfig, 'imageSize' | 'vaeStride' | 'patchSize'>;

/** Latents of a side. */
export const latentSize = (c: Shape): number => c.imageSize / c.vaeStride;
/** Tokens of a side. */
export const gridSize = (c: Shape): number => latentSize(c) / c.patchSize;
/** Tokens of an image, without buffer slots. */
export const sequenceLength = (c: Shape): number => gridSize(c) ** 2;
/** Numbers a token. */
export const tokenDim = (c: Pick<ModelConfig, 'channels' | 'patchSize'>): number => c.channels * c.patchSize ** 2;

/** Trunks of the official sizes: width, heads, blocks of encoder and of decoder (paper, table 6). */
const TRUNKS = {
  xs: { long: 'xsmall', width: 448, heads: 8, depth: 10, heads256: [3, 1024], heads512: [6, 1280] },
  s: { long: 'small', width: 512, heads: 8, depth: 12, heads256: [3, 1024], heads512: [6, 1280] },
  b: { long: 'base', width: 768, heads: 12, depth: 12, heads256: [6, 1024], heads512: [8, 1280] },
  l: { long: 'large', width: 1024, heads: 16, depth: 16, heads256: [8, 1280], heads512: [8, 1280] },
  h: { long: 'huge', width: 1280, heads: 16, depth: 20, heads256: [12, 1536], heads512: undefined },
} as const;

type Trunk = (typeof TRUNKS)[keyof typeof TRUNKS];

function trunkFields({ width, heads, depth }: Trunk) {
  return {
    encoderWidth: width,
    encoderDepth: depth,
    encoderHeads: heads,
    decoderWidth: width,
    decoderDepth: depth,
    decoderHeads: heads,
  };
}

/** The official models at 256 px (on KL-16 latents) and 512 px (on DC-AE latents): `xs-256` ... `l-512`. */
export const presets: Readonly<Record<string, Readonly<ModelConfig>>> = Object.freeze(
  Object.fromEntries(
    ([256, 512] as const).flatMap((imageSize) =>
      Object.entries(TRUNKS).flatMap(([name, trunk]) => {
        const head = imageSize === 256 ? trunk.heads256 : trunk.heads512;
        if (!head) return [];
        const config: ModelConfig = {
          imageSize,
          vaeStride: imageSize === 256 ? 16 : 32,
          patchSize: 1,
          channels: imageSize === 256 ? 16 : 32,
          classes: 1000,
          bufferSize: 64,
          ...trunkFields(trunk),
          headDepth: head[0],
          headWidth: head[1],
          mae: true,
          maskGuidance: true,
          mlpRatio: 4,
        };
        return [[`${name}-${imageSize}`, Object.freeze(config)]];
      }),
    ),
  ),
);

/**
 * The preset of a name in any of its spellings: `b-256`, `emigm-b-256`, `base_256`, `emigm_base-256`.
 * @throws EmigmError 'model' listing the names
 */
export function preset(name: string): ModelConfig {
  const parts = name
    .toLowerCase()
    .replace(/^emigm[-_]/, '')
    .split(/[-_]/);
  const short = Object.entries(TRUNKS).find(([key, { long }]) => parts[0] === key || parts[0] === long)?.[0];
  const config = parts.length === 2 ? presets[`${short}-${parts[1]}`] : undefined;
  if (!config) refuse(`preset "${name}"`, `is unknown; choose one of ${Object.keys(presets).join(', ')}`);
  return { ...config };
}

/** Name of the official model that has exactly this configuration. */
export function presetName(config: ModelConfig): string | undefined {
  return Object.keys(presets).find((name) => configFields.every((field) => presets[name][field] === config[field]));
}

/** Size of the official MAR that has this configuration: `b`, `l` or `h`; eMIGM's at 256 px, without CFG with mask. */
export function marSize(config: ModelConfig): string | undefined {
  const name = config.maskGuidance ? undefined : presetName({ ...config, maskGuidance: true });
  return name && /^([blh])-256$/.exec(name)?.[1];
}

/** Heads of the official model of this width; undefined for any other width. */
export function officialHeads(width: number): number | undefined {
  return Object.values(TRUNKS).find((trunk) => trunk.width === width)?.heads;
}

/** Official argument -> our field. */
const ARGUMENTS: Record<string, keyof ModelConfig> = {
  img_size: 'imageSize',
  vae_stride: 'vaeStride',
  patch_size: 'patchSize',
  vae_embed_dim: 'channels',
  class_num: 'classes',
  buffer_size: 'bufferSize',
  encoder_embed_dim: 'encoderWidth',
  encoder_depth: 'encoderDepth',
  encoder_num_heads: 'encoderHeads',
  decoder_embed_dim: 'decoderWidth',
  decoder_depth: 'decoderDepth',
  decoder_num_heads: 'decoderHeads',
  diffloss_d: 'headDepth',
  diffloss_w: 'headWidth',
  use_mae: 'mae',
  use_unsup_cfg: 'maskGuidance',
  mlp_ratio: 'mlpRatio',
};

/** Defaults of the official constructor. */
const OFFICIAL_DEFAULTS: ModelConfig = {
  ...presets['l-256'],
  headDepth: 3,
  headWidth: 1024,
  maskGuidance: false,
};

/** Whether the arguments are of MAR's code (LTH14/mar), whose models are `mar_base`, `mar_large` and `mar_huge`. */
export const areMarArgs = (args: Readonly<Record<string, unknown>>): boolean => /^mar_/.test(String(args.model));

/**
 * The fields that official arguments give: constructor arguments by name, and the trunk of a model name
 * (`model: 'emigm_base'`, `'mar_base'`). Unknown arguments are passed over.
 */
export function knownFromArgs(args: Readonly<Record<string, unknown>>): Partial<ModelConfig> {
  const long = /^(?:emigm|mar)_(\w+)$/.exec(String(args.model))?.[1];
  const trunk = Object.values(TRUNKS).find((one) => one.long === long);
  const known: Record<string, unknown> = trunk ? trunkFields(trunk) : {};
  for (const [argument, field] of Object.entries(ARGUMENTS)) {
    if (args[argument] !== undefined && args[argument] !== null) known[field] = args[argument];
  }
  if (areMarArgs(args)) {
    Object.assign(known, { mae: true, maskGuidance: false });
    delete known.classes; // MAR's embedding has 1000 rows whatever class_num says
  }
  return known as Partial<ModelConfig>;
}

/**
 * The configuration that official constructor arguments give; missing ones have the official defaults.
 * @throws EmigmError 'model' when they do not fit together
 */
export function configFromArgs(args: Readonly<Record<string, unknown>>, where = 'model arguments'): ModelConfig {
  return checkConfig({ ...OFFICIAL_DEFAULTS, ...knownFromArgs(args) }, where);
}

function linear(name: string, out: number, inputs: number): [string, number[]][] {
  return [
    [`${name}.weight`, [out, inputs]],
    [`${name}.bias`, [out]],
  ];
}

function norm(name: string, width: number): [string, number[]][] {
  return [
    [`${name}.weight`, [width]],
    [`${name}.bias`, [width]],
  ];
}

function blocks(name: string, depth: number, width: number, hidden: number): [string, number[]][] {
  return Array.from({ length: depth }, (_, i) => [
    ...norm(`${name}.${i}.norm1`, width),
    ...linear(`${name}.${i}.attn.qkv`, 3 * width, width),
    ...linear(`${name}.${i}.attn.proj`, width, width),
    ...norm(`${name}.${i}.norm2`, width),
    ...linear(`${name}.${i}.mlp.fc1`, hidden, width),
    ...linear(`${name}.${i}.mlp.fc2`, width, hidden),
  ]).flat();
}

function head(depth: number, width: number, condition: number, token: number): [string, number[]][] {
  return [
    ...linear('time_embed.mlp.0', width, TIME_EMBEDDING_DIM),
    ...linear('time_embed.mlp.2', width, width),
    ...linear('cond_embed', width, condition),
    ...linear('input_proj', width, token),
    ...Array.from({ length: depth }, (_, i) => [
      ...norm(`res_blocks.${i}.in_ln`, width),
      ...linear(`res_blocks.${i}.mlp.0`, width, width),
      ...linear(`res_blocks.${i}.mlp.2`, width, width),
      ...linear(`res_blocks.${i}.adaLN_modulation.1`, 3 * width, width),
    ]).flat(),
    ...linear('final_layer.linear', 2 * token, width),
    ...linear('final_layer.adaLN_modulation.1', 2 * width, width),
  ].map(([name, shape]) => [`${HEAD_PREFIX}net.${name}`, shape as number[]]);
}

/** Parameters of the diffusion head begin so. */
export const HEAD_PREFIX = 'diffloss.';

/**
 * Name and shape of every entry of the official state dict, in its order. With mask guidance `mask_token`
 * and `fake_latent` are one parameter that stands twice.
 */
export function stateDictShapes(config: ModelConfig): Map<string, number[]> {
  const { encoderWidth, decoderWidth, bufferSize, mlpRatio } = config;
  const length = sequenceLength(config);
  return new Map<string, number[]>([
    ['fake_latent', [1, encoderWidth]],
    ['encoder_pos_embed_learned', [1, length + bufferSize, encoderWidth]],
    ['mask_token', config.maskGuidance ? [1, decoderWidth] : [1, 1, decoderWidth]],
    ['decoder_pos_embed_learned', [1, length + bufferSize, decoderWidth]],
    ['diffusion_pos_embed_learned', [1, length, decoderWidth]],
    ['class_emb.weight', [config.classes, encoderWidth]],
    ...linear('z_proj', encoderWidth, tokenDim(config)),
    ...norm('z_proj_ln', encoderWidth),
    ...blocks('encoder_blocks', config.encoderDepth, encoderWidth, encoderWidth * mlpRatio),
    ...norm('encoder_norm', encoderWidth),
    ...linear('decoder_embed', decoderWidth, encoderWidth),
    ...blocks('decoder_blocks', config.decoderDepth, decoderWidth, decoderWidth * mlpRatio),
    ...norm('decoder_norm', decoderWidth),
    ...head(config.headDepth, config.headWidth, decoderWidth, tokenDim(config)),
  ]);
}

/**
 * Name and shape of every trainable parameter, in the order of the official state dict. With mask guidance
 * there is no `mask_token`: it is `fake_latent`.
 */
export function parameterShapes(config: ModelConfig): Map<string, number[]> {
  const shapes = stateDictShapes(config);
  if (config.maskGuidance) shapes.delete('mask_token');
  return shapes;
}

/** Number of parameters: all, of the transformer (everything outside the head) and of the diffusion head. */
export function parameterCounts(config: ModelConfig): { total: number; transformer: number; head: number } {
  const counts = { total: 0, transformer: 0, head: 0 };
  for (const [name, shape] of parameterShapes(config)) {
    const count = shape.reduce((a, b) => a * b, 1);
    counts.total += count;
    counts[name.startsWith(HEAD_PREFIX) ? 'head' : 'transformer'] += count;
  }
  return counts;
}
