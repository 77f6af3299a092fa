/**
 * emigm-wgsl: masked image generation on compute kernels written in WGSL.
 *
 *     import { loadModel, sample } from 'emigm-wgsl';
 *     const model = await loadModel('weights/clothing32.safetensors');
 *     const { images } = await sample(model, { classes: ['dress', 'hat'], seed: 7 });
 *     model.dispose();
 */
import { toBytes } from './formats/images.ts';
import type { RgbImage } from './formats/rgb.ts';
import type { LoadedDiscreteModel } from './models/discrete/file.ts';
import { type LoadedModel, classNumber } from './models/load.ts';
import { sampleAny } from './sampling/any.ts';
import { emptyStats, type SampledImage, type SampleRequest, type SampleStats } from './sampling/sample.ts';
import { recommendedSettings } from './sampling/axes.ts';
import { resolveSettings, type SampleSettings } from './sampling/settings.ts';

export { EmigmError, type ErrorCode } from './errors.ts';
export { Device, type DeviceOptions } from './gpu/device.ts';
export { type ModelConfig, parameterCounts, parameterShapes, preset, presets } from './models/config.ts';
export { Emigm } from './models/emigm.ts';
export { type EncodedFolder, type EncodeFolderOptions, encodeFolder } from './models/encode_folder.ts';
export type { ModelInfo, RecommendedSampling } from './models/info.ts';
export { type LoadedDiscreteModel, type LoadDiscreteOptions, loadDiscreteModel } from './models/discrete/file.ts';
export type { DiscreteConfig } from './models/discrete/config.ts';
export { type ModelKind, modelKind } from './models/kind.ts';
export { type LoadedModel, type LoadModelOptions, loadModel } from './models/load.ts';
export {
  checkTokenizer,
  type LoadTokenizerOptions,
  loadTokenizer,
  type MapSize,
  type Tokenizer,
} from './models/tokenizer.ts';
export {
  type Axes,
  type AxisPreset,
  axes,
  axisPresets,
  describeAxes,
  parseAxes,
  resolveAxes,
} from './masking/axes.ts';
export { axesOfRun, modelAxes, presetSettings } from './sampling/axes.ts';
export { decodeFloats, decodePictures } from './sampling/decode.ts';
export { type EditedImage, type EditRequest, type EditResult, edit } from './sampling/edit.ts';
export type { SampledImage, SampleProgress, SampleRequest, SampleStats } from './sampling/sample.ts';
export { defaultSettings, type SampleSettings } from './sampling/settings.ts';

export interface SampleOptions extends Omit<SampleRequest, 'classes' | 'outputScale'> {
  /** A name or number for each image; undefined: without a class. */
  classes: readonly (string | number | undefined)[];
}

export interface GeneratedImage extends SampledImage {
  /** Pixel models: the picture, 8 bits a channel. */
  image: RgbImage | undefined;
}

/** Settings of a run on this model: the defaults, what the model file recommends, what is asked for. */
export function settingsFor({ info }: Pick<LoadedModel, 'info'>, asked: Partial<SampleSettings> = {}): SampleSettings {
  return resolveSettings(recommendedSettings(info), asked);
}

/**
 * Samples batch after batch; each is yielded when it is done.
 * @throws EmigmError 'input' for bad settings, 'memory' naming a batch size that fits, 'aborted'
 */
export async function* sampleStream(
  model: LoadedModel | LoadedDiscreteModel,
  { classes, batch, indices, onStep, signal, ...asked }: SampleOptions,
  stats: SampleStats = emptyStats(),
): AsyncGenerator<GeneratedImage[], SampleStats> {
  const { config, info, network } = model;
  const isPixelModel = config.vaeStride === 1 && config.channels === 3;
  const request: SampleRequest = {
    ...settingsFor(model, asked),
    classes: classes.map((name) => (name === undefined ? undefined : classNumber(model, name))),
    batch,
    indices,
    onStep,
    signal,
    outputScale: isPixelModel ? 1 / (info.dataScale ?? 1) : 1,
  };
  for await (const images of sampleAny(network, request, stats)) {
    yield images.map((one) => ({
      ...one,
      image: isPixelModel ? toBytes(one.latents, config.imageSize, config.imageSize) : undefined,
    }));
  }
  return stats;
}

/** Samples all images. @throws as `sampleStream` */
export async function sample(
  model: LoadedModel | LoadedDiscreteModel,
  options: SampleOptions,
): Promise<{ images: GeneratedImage[]; settings: SampleSettings; stats: SampleStats }> {
  const stats = emptyStats();
  const images: GeneratedImage[] = [];
  for await (const batch of sampleStream(model, options, stats)) images.push(...batch);
  const { classes: _, batch: __, indices: ___, onStep: ____, signal: _____, ...asked } = options;
  return { images, settings: settingsFor(model, asked), stats };
}
