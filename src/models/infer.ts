/** Reading a configuration off the shapes of a state dict. */
import { EmigmError } from '../errors.ts';
import { checkConfig, type ModelConfig, officialHeads } from './config.ts';
import type { Shapes } from './shapes.ts';

/** Pixels that a tokenizer turns into one latent, by the latent's channels: RGB itself, KL-16, DC-AE f32c32. */
const STRIDES: Record<number, number> = { 3: 1, 16: 16, 32: 32 };

/** Flag of a field on the command line: `encoderHeads` is `--encoder-heads`. */
export const flagOf = (field: string): string => `--${field.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;

/**
 * The configuration of a state dict: what `known` says (from the checkpoint's arguments or from flags), the rest
 * from the shapes. Shapes tell nothing of attention heads (taken from the official size of that width) and of
 * `mae` (taken as true, as all official models are).
 *
 * @param file named in errors
 * @returns the configuration, and the fields that are a guess, not said by anything in the file
 * @throws EmigmError 'model' naming the tensor that is missing, or the field to give
 */
export function inferConfig(
  shapes: Shapes,
  known: Partial<ModelConfig> = {},
  file = 'state dict',
): { config: ModelConfig; guessed: (keyof ModelConfig)[] } {
  const dim = (name: string, axis: number): number => {
    const shape = shapes.get(name);
    if (!shape)
      throw new EmigmError('model', `${file}: has no tensor ${name}, so it is neither an eMIGM nor a MAR model`);
    if (shape[axis] === undefined) {
      throw new EmigmError('model', `${file}: tensor ${name} has shape [${shape.join(', ')}], too few dimensions`);
    }
    return shape[axis];
  };
  const depth = (prefix: string): number => {
    const numbers = [...shapes.keys()].map((name) => new RegExp(`^${prefix}\\.(\\d+)\\.`).exec(name)?.[1]);
    return 1 + Math.max(-1, ...numbers.map((n) => (n === undefined ? -1 : Number(n))));
  };
  const guessed: (keyof ModelConfig)[] = [];
  const guess = <T>(field: keyof ModelConfig, value: T | undefined, why: string): T => {
    if (value === undefined) throw new EmigmError('model', `${file}: ${why}; give ${flagOf(field)} N`);
    guessed.push(field);
    return value;
  };

  const encoderWidth = known.encoderWidth ?? dim('z_proj.weight', 0);
  const decoderWidth = known.decoderWidth ?? dim('decoder_embed.weight', 0);
  const length = dim('diffusion_pos_embed_learned', 1);
  const untold = (width: number) => `the heads of an attention of width ${width} cannot be read from shapes`;
  const encoderHeads = known.encoderHeads ?? guess('encoderHeads', officialHeads(encoderWidth), untold(encoderWidth));
  const likely = decoderWidth === encoderWidth ? encoderHeads : officialHeads(decoderWidth);
  const decoderHeads = known.decoderHeads ?? guess('decoderHeads', likely, untold(decoderWidth));
  const maskToken = shapes.get('mask_token');

  const config = checkConfig(
    {
      ...geometry(dim('z_proj.weight', 1), length, known, file, guess),
      classes: known.classes ?? dim('class_emb.weight', 0),
      bufferSize: known.bufferSize ?? dim('encoder_pos_embed_learned', 1) - length,
      encoderWidth,
      encoderDepth: known.encoderDepth ?? depth('encoder_blocks'),
      encoderHeads,
      decoderWidth,
      decoderDepth: known.decoderDepth ?? depth('decoder_blocks'),
      decoderHeads,
      headDepth: known.headDepth ?? depth('diffloss\\.net\\.res_blocks'),
      headWidth: known.headWidth ?? dim('diffloss.net.input_proj.weight', 0),
      mae: known.mae ?? guess('mae', true, ''),
      maskGuidance: known.maskGuidance ?? (maskToken === undefined || maskToken.length === 2),
      mlpRatio: known.mlpRatio ?? dim('encoder_blocks.0.mlp.fc1.weight', 0) / encoderWidth,
    },
    file,
  );
  return { config, guessed };
}

type Guess = <T>(field: keyof ModelConfig, value: T | undefined, why: string) => T;

/** Image, tokenizer and patches from the size of a token and the number of tokens. */
function geometry(
  token: number,
  length: number,
  known: Partial<ModelConfig>,
  file: string,
  guess: Guess,
): Pick<ModelConfig, 'imageSize' | 'vaeStride' | 'patchSize' | 'channels'> {
  const grid = Math.sqrt(length);
  if (!Number.isInteger(grid)) {
    throw new EmigmError('model', `${file}: ${length} tokens are no square grid (diffusion_pos_embed_learned)`);
  }
  const whole = (x: number) => (Number.isInteger(x) && x > 0 ? x : undefined);
  const candidates = [3, 16, 32].filter((c) => whole(Math.sqrt(token / c)) !== undefined);
  const why = `tokens of ${token} numbers are no known tokenizer's`;
  const channels =
    known.channels ??
    (known.patchSize
      ? guess('channels', whole(token / known.patchSize ** 2), why)
      : guess('channels', candidates.length === 1 ? candidates[0] : undefined, why));
  const patchSize = known.patchSize ?? guess('patchSize', whole(Math.sqrt(token / channels)), why);
  const latents = grid * patchSize;
  const vaeStride =
    known.vaeStride ??
    (known.imageSize
      ? guess('vaeStride', whole(known.imageSize / latents), `${latents} latents a side do not fit the image`)
      : guess('vaeStride', STRIDES[channels], `the pixels a latent of ${channels} channels covers are not known`));
  return { channels, patchSize, vaeStride, imageSize: known.imageSize ?? guess('imageSize', latents * vaeStride, '') };
}
