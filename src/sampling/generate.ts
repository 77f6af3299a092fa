/** Many pictures of all classes in equal numbers, for statistics: the images first .. end - 1 of a run without end. */
import { toBytes, type RgbImage } from '../formats/rgb.ts';
import type { DiscreteNetwork } from '../models/discrete/network.ts';
import type { Emigm } from '../models/emigm.ts';
import type { ModelInfo } from '../models/info.ts';
import type { TrunkConfig } from '../models/trunk.ts';
import type { Tokenizer } from '../models/tokenizer.ts';
import { decodePictures } from './decode.ts';
import { EmigmError } from '../errors.ts';
import { sampleAny } from './any.ts';
import type { SampleSettings } from './settings.ts';

export interface GenerateOptions {
  readonly settings: SampleSettings;
  /** Numbers of the images: image i shows class i modulo the number of classes, with noise of its own. */
  readonly first: number;
  readonly end: number;
  /** Images at once. */
  readonly batch: number;
  /** For models of latents. */
  readonly tokenizer?: Tokenizer;
  readonly signal?: AbortSignal;
}

/**
 * Draws pictures in order. Which images are asked for together does not change them.
 * @throws EmigmError 'input' when the model makes latents and there is no tokenizer; 'memory', 'aborted'
 */
export async function* generatePictures(
  model: { readonly network: Emigm | DiscreteNetwork; readonly config: TrunkConfig; readonly info: ModelInfo },
  { settings, first, end, batch, tokenizer, signal }: GenerateOptions,
): AsyncGenerator<RgbImage> {
  const { network, config, info } = model;
  const isPixelModel = config.vaeStride === 1 && config.channels === 3;
  if (!isPixelModel && !tokenizer) {
    throw new EmigmError('input', 'this model makes latents; name a tokenizer that turns them into pictures: --vae');
  }
  if (end <= first) return;
  const indices = Array.from({ length: end - first }, (_, i) => first + i);
  const request = {
    ...settings,
    classes: indices.map((index) => index % config.classes),
    indices,
    batch,
    outputScale: isPixelModel ? 1 / (info.dataScale ?? 1) : 1,
    signal,
  };
  for await (const images of sampleAny(network, request)) {
    const latents = images.map((image) => image.latents);
    if (tokenizer && !isPixelModel) yield* decodePictures(model, tokenizer, latents, signal);
    else for (const one of latents) yield toBytes(one, config.imageSize, config.imageSize);
  }
}
