/** From a model's latents to pictures. */
import { type RgbImage, toBytes } from '../formats/rgb.ts';
import { gridSize } from '../models/config.ts';
import type { ModelInfo } from '../models/info.ts';
import type { TrunkConfig } from '../models/trunk.ts';
import type { Tokenizer } from '../models/tokenizer.ts';

/** What of a model its latents depend on. */
export interface LatentModel {
  readonly config: TrunkConfig;
  readonly info: ModelInfo;
}

/**
 * Decodes latents [channels, side, side] as the model draws them, sub-batch by sub-batch. They are divided by what the
 * model file says they were multiplied by, else by the tokenizer's own scale.
 * @throws EmigmError 'memory', 'aborted'
 */
export async function* decodeFloats(
  { config, info }: LatentModel,
  tokenizer: Tokenizer,
  latents: readonly Float32Array[],
  signal?: AbortSignal,
): AsyncGenerator<Float32Array<ArrayBuffer>> {
  if (latents.length === 0) return;
  const side = gridSize(config) * config.patchSize;
  const all = new Float32Array(latents.length * latents[0].length);
  for (const [i, one] of latents.entries()) all.set(one, i * one.length);
  yield* tokenizer.decode(all, { height: side, width: side }, { scale: info.dataScale, signal });
}

/** As `decodeFloats`, 8 bits a channel. */
export async function* decodePictures(
  model: LatentModel,
  tokenizer: Tokenizer,
  latents: readonly Float32Array[],
  signal?: AbortSignal,
): AsyncGenerator<RgbImage> {
  const { imageSize } = model.config;
  for await (const image of decodeFloats(model, tokenizer, latents, signal)) {
    yield toBytes(image, imageSize, imageSize);
  }
}
