/** The configuration of a run that trains a model of codes. */
import { EmigmError } from '../../errors.ts';
import type { Codebook } from '../../formats/codebook.ts';
import { preset } from '../../models/config.ts';
import { checkDiscreteConfig, type DiscreteConfig } from '../../models/discrete/config.ts';
import { checkCodebook } from '../../models/discrete/network.ts';
import type { ReadRunConfig } from '../run_config.ts';

/** Without `classes` when the data decides. */
export type DiscreteRunNetwork = Omit<DiscreteConfig, 'classes'> & { classes?: number };

/**
 * The network that a configuration with conditional "categorical" describes. `codes`, `channels` and `patchSize` are the
 * codebook's where they are left out; sizes of a diffusion head are passed over, so that a flag moves along the axis.
 * @throws EmigmError 'model' naming the field that is wrong, 'input' when the data is scaled otherwise than the codebook
 */
export function discreteNetwork(
  { network, hyperparameters, dataScale }: ReadRunConfig,
  codebook: Codebook,
  where: string,
): DiscreteRunNetwork {
  const { axes } = hyperparameters;
  const {
    headDepth: _,
    headWidth: __,
    ...said
  } = (typeof network === 'string' ? preset(network) : network) as Record<string, unknown>;
  const fields = {
    codes: codebook.size,
    channels: codebook.channels,
    patchSize: codebook.patch,
    ...said,
    mae: axes.network === 'mae',
    maskGuidance: axes.unconditional === 'mask',
  };
  if (dataScale !== undefined && dataScale !== codebook.dataScale) {
    throw new EmigmError('input', `${where}: dataScale is ${dataScale}, the codebook's ${codebook.dataScale}`);
  }
  const { classes } = fields as { classes?: number };
  // Any number of classes does for the check of the other fields.
  const checked = checkDiscreteConfig({ classes: 1, ...fields }, `${where}: model`);
  checkCodebook(checked, codebook, 'the codebook');
  return { ...checked, classes };
}
