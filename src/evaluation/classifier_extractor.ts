/** A small classifier as a feature extractor: what it takes images for, and features that small data can be measured by. */
import { centerCrop } from '../formats/crop.ts';
import { type RgbImage, toFloats } from '../formats/rgb.ts';
import type { Program } from '../gpu/recorder.ts';
import { Session } from '../gpu/session.ts';
import type { Tensor } from '../gpu/tensor.ts';
import type { Classifier, DeviceRows } from '../models/classifier_network.ts';
import type { FeatureExtractor, Features } from './extractor.ts';

interface Prepared {
  program: Program;
  images: Tensor;
  rows: DeviceRows;
  features: Tensor;
  logits: Tensor;
}

export class ClassifierExtractor implements FeatureExtractor {
  readonly name: string;
  readonly digest: string | undefined;
  readonly isInception = false;
  readonly dimensions: number;
  readonly classes: number;
  readonly range: number;
  private readonly network: Classifier;
  private readonly session: Session;
  /** By batch size. */
  private readonly prepared = new Map<number, Prepared>();

  /**
   * Takes the network over: `dispose` frees it.
   * @param name what figures are called by: it should tell this classifier from others
   * @param digest first digits of the SHA-256 of its weights, for files that others compare with
   */
  constructor(network: Classifier, name: string, digest?: string) {
    this.network = network;
    this.name = name;
    this.digest = digest;
    this.dimensions = network.config.width;
    this.classes = network.config.classes;
    this.range = network.featureRange;
    this.session = new Session(network.device);
  }

  /** Images of other sizes are resized and centre-cropped to the network's, as photographs for training are. */
  async extract(images: readonly RgbImage[]): Promise<Features> {
    const { imageSize } = this.network.config;
    const { device } = this.network;
    const pixels = 3 * imageSize * imageSize;
    const values = new Float32Array(images.length * pixels);
    for (const [i, image] of images.entries()) {
      const fits = image.width === imageSize && image.height === imageSize;
      values.set(toFloats(fits ? image : centerCrop(image, imageSize)), i * pixels);
    }
    const prepared = this.prepared.get(images.length) ?? (await this.prepare(images.length));
    device.write(prepared.images, values);
    this.session.run(prepared.program);
    const result = { features: await device.read(prepared.features), logits: await device.read(prepared.logits) };
    await this.session.checkFinite();
    return result;
  }

  private async prepare(batch: number): Promise<Prepared> {
    const { device, config } = this.network;
    const images = device.tensor([batch, 3, config.imageSize, config.imageSize], 'f32', 'images');
    const rows = this.network.rows(batch);
    const features = device.tensor([batch, config.width], 'f32', 'features');
    const logits = device.tensor([batch, config.classes], 'f32', 'logits');
    const program = this.session.record('classifier', (r) => {
      this.network.record(r, images, batch, rows, { features, logits });
    });
    await this.session.prepare();
    const prepared = { program, images, rows, features, logits };
    this.prepared.set(batch, prepared);
    return prepared;
  }

  dispose(): void {
    for (const { images, rows, features, logits } of this.prepared.values()) {
      for (const tensor of [images, features, logits]) tensor.destroy();
      rows.destroy();
    }
    this.prepared.clear();
    this.session.dispose();
    this.network.dispose();
  }
}
