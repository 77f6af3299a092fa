/** The configuration of a model of codes, and the name and shape of every parameter. */
import { EmigmError } from '../../errors.ts';
import { checkConfig, parameterShapes } from '../config.ts';
import type { TrunkConfig } from '../trunk.ts';
import { countOf } from '../shapes.ts';

/** The most codes that a codebook may have. */
export const MOST_CODES = 16384;

/** eMIGM's trunk with codes as tokens: `channels` and `patchSize` are those of a code's patch, `vaeStride` 1 for pixels. */
export interface DiscreteConfig extends TrunkConfig {
  /** Codes of the codebook: the vocabulary. */
  codes: number;
}

/** Whether a configuration is of a model of codes. */
export const isDiscrete = (config: TrunkConfig): config is DiscreteConfig => 'codes' in config;

/** The trunk's checks and shapes are eMIGM's, for which any head does. */
const withHead = <C extends object>(config: C) => ({ ...config, headDepth: 1, headWidth: 1 });

/**
 * Checks a configuration from a file or from flags. `where` names the source in errors.
 * @throws EmigmError 'model' naming the first field that is missing, unknown or impossible
 */
export function checkDiscreteConfig(value: unknown, where = 'model configuration'): DiscreteConfig {
  const { codes, ...rest } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  const refuse = (message: string): never => {
    throw new EmigmError('model', `${where}: ${message}`);
  };
  const other = ['headDepth', 'headWidth'].find((field) => field in rest);
  if (other) refuse(`${other} is of a diffusion head; a model of codes has none`);
  if (typeof codes !== 'number' || !Number.isInteger(codes) || codes < 1 || codes > MOST_CODES) {
    refuse(codes === undefined ? 'codes is missing' : `codes must be an integer from 1 to ${MOST_CODES}, not ${codes}`);
  }
  const { headDepth: _, headWidth: __, ...trunk } = checkConfig(withHead(rest), where);
  return { ...trunk, codes: codes as number };
}

/** Parameters of eMIGM that continuous tokens alone need. */
const CONTINUOUS = /^(diffloss\..*|diffusion_pos_embed_learned|z_proj\.(weight|bias))$/;

/**
 * Name and shape of every trainable parameter in the order of files: the trunk's by their official names, then
 * `token_emb.weight` [codes, encoder width] in place of the patch projection and `logits` in place of the head.
 */
export function discreteShapes(config: DiscreteConfig): Map<string, readonly number[]> {
  const { codes, encoderWidth, decoderWidth } = config;
  const trunk = [...parameterShapes(withHead(config))].filter(([name]) => !CONTINUOUS.test(name));
  return new Map<string, readonly number[]>([
    ...trunk,
    ['token_emb.weight', [codes, encoderWidth]],
    ['logits.weight', [codes, decoderWidth]],
    ['logits.bias', [codes]],
  ]);
}

/** Number of parameters. */
export function discreteParameterCount(config: DiscreteConfig): number {
  return countOf(discreteShapes(config));
}
