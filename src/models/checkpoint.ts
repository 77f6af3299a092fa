/**
 * Model files: our safetensors (configuration and information as metadata), or an official PyTorch checkpoint
 * read as it is. Every tensor is checked against the configuration when the file is opened, and read when asked for.
 */
import { type DType, fromFloat32 } from '../formats/dtype.ts';
import { args as checkpointArgs, openTorchCheckpoint, type StateDictName, stateDict } from '../formats/pytorch.ts';
import { openSafetensors, writeSafetensors } from '../formats/safetensors.ts';
import { EmigmError } from '../errors.ts';
import { checkConfig, knownFromArgs, type ModelConfig, parameterShapes, stateDictShapes } from './config.ts';
import { inferConfig } from './infer.ts';
import { checkInfo, infoFromArgs, type ModelInfo } from './info.ts';
import { DISCRETE, isTorch } from './kind.ts';

export type { ModelInfo, RecommendedSampling } from './info.ts';

/** `format` of our metadata, and the version of its `config` and `info`. */
export const FORMAT = 'emigm-wgsl';
export const FORMAT_VERSION = 1;

/** An open model file. Close it when no more parameters are to be read. */
export interface ModelFile {
  readonly path: string;
  readonly kind: 'safetensors' | 'pytorch';
  readonly config: ModelConfig;
  readonly info: ModelInfo;
  /** Fields of the configuration that nothing in the file says: see inferConfig. */
  readonly guessed: readonly (keyof ModelConfig)[];
  /** A sentence on which mask token is used. */
  readonly maskTokenNote: string;
  /** Parameters in the order of the official state dict; with mask guidance `mask_token` is `fake_latent`. */
  names(): string[];
  /** @throws EmigmError 'model' for a name that is no parameter; as do dtype and read */
  shape(name: string): readonly number[];
  dtype(name: string): DType;
  read(name: string): Promise<Float32Array<ArrayBuffer>>;
  close(): Promise<void>;
}

export interface OpenModelOptions {
  /** Weights of a `.pth` file; default: `model_ema` where there is one, else `model`, else the file itself. */
  weights?: StateDictName;
  /**
   * With mask guidance the official EMA averages `fake_latent` alone, and `mask_token`, the raw value, overwrites it
   * on loading. True takes the average. Default false: as the published figures were made.
   */
  averagedMaskToken?: boolean;
  /** Fields that override what the file says. */
  config?: Partial<ModelConfig>;
}

/** What both kinds of file are to this module. */
interface Source {
  kind: ModelFile['kind'];
  tensors: ReadonlyMap<string, { readonly shape: readonly number[]; readonly dtype: DType }>;
  read(name: string): Promise<Float32Array<ArrayBuffer>>;
  close(): Promise<void>;
  /** Configuration and information of our own files; undefined for others. */
  own?: { config: unknown; info: unknown };
  args: Record<string, unknown>;
  weights: StateDictName;
}

/**
 * Opens a model file of either kind and checks every tensor.
 * @throws EmigmError 'file' for a damaged file, 'model' for tensors that do not fit the configuration
 */
export async function openModel(path: string, options: OpenModelOptions = {}): Promise<ModelFile> {
  const source = await openSource(path, options.weights);
  try {
    return await modelOf(path, source, options);
  } catch (error) {
    await source.close();
    throw error;
  }
}

async function openSource(path: string, weights?: StateDictName): Promise<Source> {
  if (await isTorch(path)) {
    const checkpoint = await openTorchCheckpoint(path);
    try {
      const { value } = checkpoint;
      const chosen =
        weights ?? (['model_ema', 'model'] as const).find((name) => value instanceof Map && value.has(name)) ?? 'plain';
      const tensors = stateDict(checkpoint, chosen);
      return {
        kind: 'pytorch',
        tensors,
        read: (name) => tensors.get(name)!.readFloat32(),
        close: checkpoint.close,
        args: checkpointArgs(checkpoint) ?? {},
        weights: chosen,
      };
    } catch (error) {
      await checkpoint.close();
      throw error;
    }
  }
  const file = await openSafetensors(path);
  try {
    const { metadata } = file;
    const own = metadata.format === FORMAT;
    if (own && metadata.kind === DISCRETE) {
      throw new EmigmError('model', `${path} is a model of codes; this needs one of continuous tokens`);
    }
    return {
      kind: 'safetensors',
      tensors: file.tensors,
      read: (name) => file.readFloat32(name),
      close: file.close,
      own: own ? { config: versioned(path, metadata, 'config'), info: versioned(path, metadata, 'info') } : undefined,
      args: {},
      weights: 'plain',
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** A metadata entry of our own files, without its version. @throws EmigmError 'model' */
export function versioned(path: string, metadata: Record<string, string>, key: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(metadata[key] ?? 'null');
  } catch (cause) {
    throw new EmigmError('model', `${path}: metadata "${key}" is no JSON`, { cause });
  }
  if (typeof value !== 'object' || value === null) throw new EmigmError('model', `${path}: metadata has no "${key}"`);
  const { version, ...rest } = value as Record<string, unknown>;
  if (version !== FORMAT_VERSION) {
    throw new EmigmError(
      'model',
      `${path}: metadata "${key}" has version ${JSON.stringify(version)}, this program reads version ${FORMAT_VERSION}`,
    );
  }
  return rest;
}

async function modelOf(path: string, source: Source, options: OpenModelOptions): Promise<ModelFile> {
  const { tensors, own } = source;
  const shapes = new Map([...tensors].map(([name, { shape }]) => [name, shape]));
  const given = Object.entries(options.config ?? {}).filter(([, value]) => value !== undefined);
  const overrides: Partial<ModelConfig> = Object.fromEntries(given);
  const { config, guessed } = own
    ? { config: checkConfig({ ...(own.config as object), ...overrides }, path), guessed: [] }
    : inferConfig(shapes, { ...knownFromArgs(source.args), ...overrides }, path);
  // A shared mask token may stand twice.
  checkTensors(path, stateDictShapes(config), tensors, config.maskGuidance ? ['mask_token'] : []);
  const parameters = parameterShapes(config);
  const token = await maskToken(source, config, options.averagedMaskToken ?? false);
  const info = own ? checkInfo(own.info, config, path) : infoFromArgs(source.args, config);
  if (!own) {
    info.weights = source.weights;
    if (token.choice) info.maskToken = token.choice;
  }
  const stored = (name: string): string => {
    if (!parameters.has(name)) throw new EmigmError('model', `${path}: "${name}" is no parameter of this model`);
    return name === 'fake_latent' ? token.stored : name;
  };
  return {
    path,
    kind: source.kind,
    config,
    info,
    guessed,
    maskTokenNote: own && info.maskToken ? `${SHARED}; ${CHOICES[info.maskToken]}` : token.note,
    names: () => [...parameters.keys()],
    shape: (name) => tensors.get(stored(name))!.shape,
    dtype: (name) => tensors.get(stored(name))!.dtype,
    read: async (name) => source.read(stored(name)),
    close: source.close,
  };
}

const SHARED = 'the mask token is the unconditional input (fake_latent)';
const CHOICES = {
  raw: 'the raw mask_token is used, not its average, as the official evaluation does',
  averaged: 'its average is used; the official evaluation uses the raw mask_token',
} as const;

/** Which stored tensor is the shared mask token. */
async function maskToken(
  source: Source,
  config: ModelConfig,
  averaged: boolean,
): Promise<{ stored: string; note: string; choice?: 'raw' | 'averaged' }> {
  const stored = 'fake_latent';
  if (!config.maskGuidance) return { stored, note: 'the mask token and the unconditional input are two parameters' };
  if (!source.tensors.has('mask_token')) return { stored, note: SHARED };
  const [fake, mask] = [await source.read('fake_latent'), await source.read('mask_token')];
  if (fake.every((value, i) => value === mask[i])) return { stored, note: SHARED };
  const choice = averaged ? 'averaged' : 'raw';
  return { stored: averaged ? stored : 'mask_token', note: `${SHARED}; ${CHOICES[choice]}`, choice };
}

const FLOATS: readonly DType[] = ['F32', 'F16', 'BF16', 'F64'];

/** @throws EmigmError 'model' naming the first tensor that is missing, wrong in shape or type, or not expected */
export function checkTensors(
  path: string,
  expected: ReadonlyMap<string, readonly number[]>,
  tensors: ReadonlyMap<string, { readonly shape: readonly number[]; readonly dtype: DType }>,
  optional: readonly string[] = [],
): void {
  const shown = (shape: readonly number[]) => `[${shape.join(', ')}]`;
  const faults: string[] = [];
  for (const [name, shape] of expected) {
    const tensor = tensors.get(name);
    if (!tensor) {
      if (!optional.includes(name)) faults.push(`tensor ${name} ${shown(shape)} of the configuration is missing`);
    } else if (shown(tensor.shape) !== shown(shape)) {
      faults.push(`tensor ${name} has shape ${shown(tensor.shape)}, the configuration needs ${shown(shape)}`);
    } else if (!FLOATS.includes(tensor.dtype)) {
      faults.push(`tensor ${name} is ${tensor.dtype}, weights must be ${FLOATS.join(', ')}`);
    }
  }
  for (const [name, { shape }] of tensors) {
    if (!expected.has(name))
      faults.push(`tensor ${JSON.stringify(name)} ${shown(shape)} is not part of the configuration`);
  }
  if (faults.length === 0) return;
  const rest = faults.length > 1 ? ` (and ${faults.length - 1} more)` : '';
  throw new EmigmError('model', `${path}: ${faults[0]}${rest}`);
}

export interface SaveModelOptions {
  config: ModelConfig;
  info: ModelInfo;
  /** One parameter; called when its turn comes, so that one is held at a time. */
  read(name: string): Float32Array<ArrayBuffer> | Promise<Float32Array<ArrayBuffer>>;
  /** Type of all stored weights; default F32. */
  dtype?: 'F32' | 'F16' | 'BF16';
  /** After each parameter: numbers written so far, of all. May throw to stop: nothing is left under the name. */
  onProgress?(done: number, total: number): void;
}

/**
 * Writes a model file of ours: parameters under their official names (a shared mask token once, as `fake_latent`).
 * @throws EmigmError 'numeric' when a finite weight is too large for the type, 'file' when the disk refuses
 */
export async function saveModel(path: string, options: SaveModelOptions): Promise<void> {
  const { dtype = 'F32', onProgress } = options;
  const config = checkConfig(options.config, path);
  const info = checkInfo(options.info, config, path);
  const parameters = parameterShapes(config);
  const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
  const total = [...parameters.values()].reduce((sum, shape) => sum + sizeOf(shape), 0);
  let done = 0;
  const tensors = [...parameters].map(([name, shape]) => ({
    name,
    dtype,
    shape,
    data: async () => {
      const values = await options.read(name);
      const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      if (dtype === 'F16' && largest >= 65520) {
        throw new EmigmError('numeric', `tensor ${name} holds ${largest}, too large for f16; use bf16 or f32`);
      }
      const stored = fromFloat32(dtype, values);
      onProgress?.((done += values.length), total);
      return stored;
    },
  }));
  await writeSafetensors(path, tensors, {
    format: FORMAT,
    config: JSON.stringify({ version: FORMAT_VERSION, ...config }),
    info: JSON.stringify({ version: FORMAT_VERSION, ...info }),
  });
}
