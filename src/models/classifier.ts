/**
 * A small image classifier that this engine trains: what it consists of, and its files. A stem of 3 x 3 convolutions (the
 * first on pixels in patches of 2 x 2, each further one with stride 2), a few transformer blocks on the tokens that it
 * makes, and a linear layer on the tokens' mean: a compact convolutional transformer, which needs fewer photographs and
 * steps than plain patches do (Hassani et al., arXiv 2104.05704; Xiao et al., arXiv 2106.14881).
 */
import { z } from 'zod';
import { EmigmError } from '../errors.ts';
import { fromFloat32 } from '../formats/dtype.ts';
import { openSafetensors, writeSafetensors } from '../formats/safetensors.ts';
import type { WeightSource } from '../nn/weights.ts';

const count = z.int().min(1);

const configSchema = z
  .strictObject({
    /** Pixels of a side; a multiple of a token's. */
    imageSize: z.int().min(4).max(256),
    classes: count,
    /** Channels behind each of the stem's convolutions but the last, which makes tokens of `width`. */
    stem: z.array(count.multipleOf(4)).min(1).max(5),
    width: count.multipleOf(4),
    depth: count,
    heads: count,
    /** Width of the blocks' hidden layers over `width`. */
    mlpRatio: count,
  })
  .refine(({ width, heads }) => width % heads === 0, 'width is no multiple of heads')
  .refine(
    ({ imageSize, stem }) => imageSize % tokenPixels(stem) === 0,
    'imageSize is no multiple of the pixels of a token',
  );

export type ClassifierConfig = z.output<typeof configSchema>;

const infoSchema = z.strictObject({
  classNames: z.array(z.string()),
  /** How it was trained, in a sentence. */
  training: z.string().optional(),
  /** Share of photographs that it did not see in training on which it is right, and their number. */
  accuracy: z.strictObject({ value: z.number(), images: z.int() }).optional(),
});

export type ClassifierInfo = z.output<typeof infoSchema>;

/** Pixels of a side of the stem's first patches. */
export const STEM_PATCH = 2;
/** What the stem's convolutions see: 3 x 3. */
export const KERNEL_AREA = 9;

/** Pixels of a side of a token. */
const tokenPixels = (stem: readonly number[]) => STEM_PATCH * 2 ** stem.length;

/** Tokens of an image. */
export const tokenCount = ({ imageSize, stem }: ClassifierConfig) => (imageSize / tokenPixels(stem)) ** 2;

/** One of the stem's convolutions: maps of `side` x `side` in, every `stride`th row and column out. */
export interface StemConvolution {
  name: string;
  side: number;
  stride: 1 | 2;
  inputs: number;
  outputs: number;
  /** Of the layer norm behind it, with a GELU; the last has none. */
  norm?: string;
}

/** The stem's convolutions in order. */
export function stemConvolutions({ imageSize, stem, width }: ClassifierConfig): StemConvolution[] {
  const widths = [3 * STEM_PATCH ** 2, ...stem, width];
  return widths.slice(1).map((outputs, i) => ({
    name: `stem.${i}.conv`,
    side: imageSize / STEM_PATCH / (i > 0 ? 2 ** (i - 1) : 1),
    stride: i > 0 ? 2 : 1,
    inputs: widths[i],
    outputs,
    norm: i < stem.length ? `stem.${i}.norm` : undefined,
  }));
}

/** @throws EmigmError 'model' naming the field that is missing, unknown or impossible; `where` names the source */
export function checkClassifierConfig(value: unknown, where: string): ClassifierConfig {
  return parse(configSchema, value, `${where}: the classifier's configuration`);
}

function parse<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const name = issue.path.join('.');
  throw new EmigmError('model', `${where}: ${name ? `${name}: ` : ''}${issue.message}`);
}

/** Names and shapes of all parameters, in the order of the file; blocks by timm's names. */
export function classifierShapes(config: ClassifierConfig): Map<string, readonly number[]> {
  const { width, depth, mlpRatio, classes } = config;
  const shapes = new Map<string, readonly number[]>();
  const linear = (name: string, outputs: number, inputs: number) => {
    shapes.set(`${name}.weight`, [outputs, inputs]);
    shapes.set(`${name}.bias`, [outputs]);
  };
  const norm = (name: string, size: number) => {
    shapes.set(`${name}.weight`, [size]);
    shapes.set(`${name}.bias`, [size]);
  };
  for (const convolution of stemConvolutions(config)) {
    linear(convolution.name, convolution.outputs, KERNEL_AREA * convolution.inputs);
    if (convolution.norm) norm(convolution.norm, convolution.outputs);
  }
  shapes.set('pos_embed', [tokenCount(config), width]);
  for (let i = 0; i < depth; i++) {
    norm(`blocks.${i}.norm1`, width);
    linear(`blocks.${i}.attn.qkv`, 3 * width, width);
    linear(`blocks.${i}.attn.proj`, width, width);
    norm(`blocks.${i}.norm2`, width);
    linear(`blocks.${i}.mlp.fc1`, mlpRatio * width, width);
    linear(`blocks.${i}.mlp.fc2`, width, mlpRatio * width);
  }
  norm('norm', width);
  linear('head', classes, width);
  return shapes;
}

/**
 * The rows that a 3 x 3 convolution of padding 1 reads of maps [batch, side * side, channels]: nine for each output,
 * line by line; beyond an edge the edge's own. With them a convolution is a gather and a linear layer.
 */
export function convolutionRows(batch: number, side: number, stride: number): Uint32Array<ArrayBuffer> {
  const out = Math.ceil(side / stride);
  const rows = new Uint32Array(batch * out * out * KERNEL_AREA);
  const inside = (i: number) => Math.min(side - 1, Math.max(0, i));
  let at = 0;
  for (let b = 0; b < batch; b++) {
    for (let y = 0; y < out; y++) {
      for (let x = 0; x < out; x++) {
        for (let i = -1; i <= 1; i++) {
          for (let j = -1; j <= 1; j++) {
            rows[at++] = (b * side + inside(y * stride + i)) * side + inside(x * stride + j);
          }
        }
      }
    }
  }
  return rows;
}

/** `format` of the metadata, and the version of `config` and `info`. */
const FORMAT = 'emigm-wgsl classifier';
const VERSION = 1;

/** An open classifier file. Close it when no more parameters are to be read. */
export interface ClassifierFile extends WeightSource {
  readonly path: string;
  readonly config: ClassifierConfig;
  readonly info: ClassifierInfo;
  close(): Promise<void>;
}

/**
 * Opens a classifier file and checks every tensor.
 * @throws EmigmError 'file' for a damaged file, 'model' for one that is no classifier or does not fit its configuration
 */
export async function openClassifier(path: string): Promise<ClassifierFile> {
  const file = await openSafetensors(path);
  try {
    const { metadata, tensors } = file;
    if (metadata.format !== FORMAT || metadata.version !== String(VERSION)) {
      throw new EmigmError(
        'model',
        `${path} is no classifier of version ${VERSION}; emigm train-classifier makes one of a folder of class folders`,
      );
    }
    const json = (key: string): unknown => {
      try {
        return JSON.parse(metadata[key] ?? 'null');
      } catch (cause) {
        throw new EmigmError('model', `${path}: metadata "${key}" is no JSON`, { cause });
      }
    };
    const config = checkClassifierConfig(json('config'), path);
    const info = checkInfo(json('info'), config, path);
    for (const [name, shape] of classifierShapes(config)) {
      const found = tensors.get(name)?.shape;
      if (found?.join() !== shape.join()) {
        const is = found ? `has shape [${found}]` : 'is missing';
        throw new EmigmError('model', `${path}: tensor ${name} ${is}, the configuration needs [${shape}]`);
      }
    }
    return {
      path,
      config,
      info,
      shape: (name) => tensors.get(name)!.shape,
      read: (name) => file.readFloat32(name),
      close: file.close,
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

function checkInfo(value: unknown, { classes }: ClassifierConfig, path: string): ClassifierInfo {
  const info = parse(infoSchema, value, `${path}: what is said of the classifier`);
  if (info.classNames.length !== classes) {
    throw new EmigmError('model', `${path}: ${info.classNames.length} class names for ${classes} classes`);
  }
  return info;
}

/** Writes a classifier file, under a temporary name first. @throws EmigmError 'model', or 'file' when the disk refuses */
export async function saveClassifier(
  path: string,
  config: ClassifierConfig,
  info: ClassifierInfo,
  read: (name: string) => Promise<Float32Array>,
  dtype: 'F32' | 'F16' = 'F16',
): Promise<void> {
  checkInfo(info, checkClassifierConfig(config, path), path);
  const tensors = [...classifierShapes(config)].map(([name, shape]) => ({
    name,
    dtype,
    shape,
    data: async () => fromFloat32(dtype, (await read(name)) as Float32Array<ArrayBuffer>),
  }));
  await writeSafetensors(path, tensors, {
    format: FORMAT,
    version: String(VERSION),
    config: JSON.stringify(config),
    info: JSON.stringify(info),
  });
}
