/** Inception-v3 as a feature extractor: programs for each size of batch and image, recorded once. */
import { EmigmError } from '../errors.ts';
import type { RgbImage } from '../formats/rgb.ts';
import type { Program } from '../gpu/recorder.ts';
import { Session } from '../gpu/session.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { FEATURE_SIZES, type Inception, type InceptionFeature } from '../models/inception/inception.ts';
import { imageWords } from '../ops/resize.ts';
import { type FeatureExtractor, type Features, INCEPTION_NAME } from './extractor.ts';

/** Programs kept: folders of photographs may have a size a picture. */
const MOST_PROGRAMS = 8;

interface Prepared {
  program: Program;
  images: Tensor;
  out: Partial<Record<InceptionFeature, Tensor>>;
}

export class InceptionExtractor implements FeatureExtractor {
  readonly name = INCEPTION_NAME;
  readonly isInception = true;
  readonly dimensions = FEATURE_SIZES['2048'];
  readonly classes = FEATURE_SIZES.logits_unbiased;
  readonly spatialDimensions: number | undefined;
  readonly range = 64;
  private readonly network: Inception;
  private readonly wanted: readonly InceptionFeature[];
  private session: Session;
  private prepared = new Map<string, Prepared>();

  /** Takes the network over: `dispose` frees it. With `spatial` the features of sFID too. */
  constructor(network: Inception, { spatial = false } = {}) {
    this.network = network;
    this.wanted = ['2048', 'logits_unbiased', ...(spatial ? (['spatial'] as const) : [])];
    this.spatialDimensions = spatial ? FEATURE_SIZES.spatial : undefined;
    this.session = new Session(network.device);
  }

  /** @throws EmigmError 'shape' when the images differ in size, 'memory' when the batch is too large */
  async extract(images: readonly RgbImage[]): Promise<Features> {
    const [{ width, height }] = images;
    if (images.some((image) => image.width !== width || image.height !== height)) {
      throw new EmigmError('shape', `a batch has images of ${width} x ${height} pixels and of other sizes`);
    }
    const key = `${images.length} ${height} ${width}`;
    // No await where there is a program: the device is at work when this returns.
    const { program, images: tensor, out } = this.prepared.get(key) ?? (await this.prepare(key, images));
    const { device } = this.network;
    device.write(tensor, imageWords(images.map(({ rgb }) => rgb)));
    this.session.run(program);
    const read = async (name: InceptionFeature) => (out[name] ? await device.read(out[name]) : undefined);
    const features = (await read('2048'))!;
    const result = { features, logits: await read('logits_unbiased'), spatial: await read('spatial') };
    await this.session.checkFinite();
    return result;
  }

  private async prepare(key: string, images: readonly RgbImage[]): Promise<Prepared> {
    if (this.prepared.size >= MOST_PROGRAMS) {
      this.release();
      this.session = new Session(this.network.device);
    }
    const { device } = this.network;
    const [{ width, height }] = images;
    const words = Math.ceil((3 * width * height * images.length) / 4);
    const tensor = device.tensor([words], 'u32', 'images');
    const out: Prepared['out'] = {};
    for (const name of this.wanted) out[name] = device.tensor([images.length, FEATURE_SIZES[name]], 'f32', name);
    const program = this.session.record('inception', (r) => {
      this.network.record(r, tensor, [images.length, height, width], out);
    });
    await this.session.prepare();
    const prepared = { program, images: tensor, out };
    this.prepared.set(key, prepared);
    return prepared;
  }

  private release(): void {
    for (const { images, out } of this.prepared.values()) {
      images.destroy();
      for (const tensor of Object.values(out)) tensor.destroy();
    }
    this.prepared.clear();
    this.session.dispose();
  }

  dispose(): void {
    this.release();
    this.network.dispose();
  }
}
