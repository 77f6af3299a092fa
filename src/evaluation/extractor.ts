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

/** What the published figures are computed from. */
export const INCEPTION_NAME = 'Inception-v3 (2015-12-05)';

export interface FeatureExtractor {
  /** `Inception-v3 (2015-12-05)`, `classifier clothing32-classifier`. */
  readonly name: string;
  /** First digits of the SHA-256 of the weights, where the name alone does not say which. */
  readonly digest?: string;
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

/** What is known of a network before it is loaded. */
export type FeatureSource = Pick<ExtractorFacts, 'name' | 'digest' | 'isInception' | 'dimensions'>;

/** The name by which files of statistics tell one network from another. */
export const fullName = ({ name, digest }: Pick<ExtractorFacts, 'name' | 'digest'>): string =>
  digest === undefined ? name : `${name} (SHA-256 ${digest})`;

/** What figures of this network may be called: FID and Inception Score are Inception's. */
export function figureNames({ name, isInception, dimensions, spatialDimensions }: Omit<ExtractorFacts, 'range'>) {
  if (isInception) {
    return { distance: 'FID', spatial: 'sFID', score: 'Inception Score', precision: 'precision', recall: 'recall' };
  }
  return {
    distance: `Fréchet distance (${name}, ${dimensions} features)`,
    spatial: `Fréchet distance (${name}, ${spatialDimensions} spatial features)`,
    score: `class score exp KL (${name})`,
    precision: `precision (${name})`,
    recall: `recall (${name})`,
  };
}
