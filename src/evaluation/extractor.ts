/**
 * Networks that turn images into features. FID, sFID and Inception Score are defined by one of them, Inception-v3; for
 * small data another may say more. Whatever computes the features is named wherever a figure is printed.
 */
import type { RgbImage } from '../formats/rgb.ts';

/** What a network sees in a batch of images, image by image. */
export interface Features {
  /** [images, dimensions]: of the layer that distances are taken in. */
  readonly features: Float32Array;
  /** [images, classes]: for a score; without bias where the network is Inception. */
  readonly logits?: Float32Array;
  /** [images, spatialDimensions]: a layer before pixels are averaged, as sFID takes it. */
  readonly spatial?: Float32Array;
}

export interface FeatureExtractor {
  /** `Inception-v3 (2015-12-05)`. */
  readonly name: string;
  /** It is the network that FID, sFID and Inception Score are defined by, so that figures may bear these names. */
  readonly isInception: boolean;
  readonly dimensions: number;
  readonly classes?: number;
  readonly spatialDimensions?: number;
  /** A power of two that no feature exceeds in magnitude: see Moments. */
  readonly range: number;
  /** Features of 8-bit images, all of one size. */
  extract(images: readonly RgbImage[]): Promise<Features>;
  dispose(): void;
}

/** What an extractor is called, and how large its features are. */
export type ExtractorFacts = Omit<FeatureExtractor, 'extract' | 'dispose'>;

/** What figures of this network may be called. */
export function figureNames({ name, isInception }: Pick<ExtractorFacts, 'name' | 'isInception'>) {
  if (isInception) {
    return { distance: 'FID', spatial: 'sFID', score: 'Inception Score', precision: 'precision', recall: 'recall' };
  }
  return {
    distance: `Fréchet distance of ${name} features`,
    spatial: `Fréchet distance of spatial ${name} features`,
    score: `exp KL score of ${name}`,
    precision: `precision in ${name} features`,
    recall: `recall in ${name} features`,
  };
}
