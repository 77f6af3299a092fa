/** Flags of every command that opens a model file: which weights, and what shapes cannot tell. */
import { type Command, Option } from 'commander';
import type { OpenModelOptions } from '../models/checkpoint.ts';
import { positiveInteger } from './options.ts';

export interface ModelFlags {
  ema?: boolean;
  raw?: boolean;
  averagedMaskToken?: boolean;
  imageSize?: number;
  vaeStride?: number;
  patchSize?: number;
  channels?: number;
  encoderHeads?: number;
  decoderHeads?: number;
  mae?: boolean;
}

/** Adds the flags to a command. */
export function addModelFlags(command: Command): Command {
  const size = (flag: string, text: string) => new Option(`${flag} <n>`, text).argParser(positiveInteger);
  return command
    .addOption(
      new Option('--ema', 'the averaged weights (model_ema) of a .pth; default where there are any').conflicts('raw'),
    )
    .addOption(new Option('--raw', 'the trained weights (model) of a .pth').conflicts('ema'))
    .option('--averaged-mask-token', 'average the mask token too; official evaluation uses the raw one')
    .addOption(size('--image-size', 'pixels of a side; this and the following where the file does not say'))
    .addOption(size('--vae-stride', 'pixels of a side that make one latent; 1 for pixel models'))
    .addOption(size('--patch-size', 'latents of a side that make one token'))
    .addOption(size('--channels', 'numbers a latent: 16 for KL-16, 32 for DC-AE, 3 for pixels'))
    .addOption(size('--encoder-heads', 'attention heads of the encoder'))
    .addOption(size('--decoder-heads', 'attention heads of the decoder; default: the same'))
    .option('--no-mae', 'a single encoder that sees mask tokens');
}

/** The flags as openModel takes them. */
export function openOptions(flags: ModelFlags): OpenModelOptions {
  const { imageSize, vaeStride, patchSize, channels, encoderHeads, decoderHeads } = flags;
  return {
    weights: flags.ema ? 'model_ema' : flags.raw ? 'model' : undefined,
    averagedMaskToken: flags.averagedMaskToken,
    config: {
      imageSize,
      vaeStride,
      patchSize,
      channels,
      encoderHeads,
      decoderHeads,
      mae: flags.mae === false ? false : undefined,
    },
  };
}
