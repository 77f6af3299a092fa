/** How often a classifier finds in images the class that they should show. */
import { EmigmError } from '../errors.ts';
import type { RgbImage } from '../formats/rgb.ts';
import type { FeatureExtractor } from './extractor.ts';

/** What a classifier takes an image for. */
export interface Verdict {
  /** The class number of the largest probability. */
  readonly label: number;
  /** [classes] probabilities. */
  readonly probabilities: Float64Array;
}

/** Verdicts from logits [images, classes]. */
export function verdicts(logits: Float32Array, classes: number): Verdict[] {
  return Array.from({ length: logits.length / classes }, (_, i) => {
    const row = logits.subarray(i * classes, (i + 1) * classes);
    const most = row.reduce((a, b) => Math.max(a, b));
    const powers = Float64Array.from(row, (x) => Math.exp(x - most));
    const sum = powers.reduce((a, b) => a + b, 0);
    return { label: row.indexOf(most), probabilities: powers.map((x) => x / sum) };
  });
}

/**
 * Verdicts on images, `batch` at once. @throws EmigmError 'input' when the network does not classify, 'aborted', and as
 * the extractor does
 */
export async function classifyImages(
  extractor: FeatureExtractor,
  images: AsyncIterable<RgbImage>,
  { batch, onProgress, signal }: { batch: number; onProgress?: (images: number) => void; signal?: AbortSignal },
): Promise<Verdict[]> {
  const found: Verdict[] = [];
  let group: RgbImage[] = [];
  const classify = async () => {
    if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
    const { logits } = await extractor.extract(group);
    if (!logits || !extractor.classes) throw new EmigmError('input', `${extractor.name} does not classify images`);
    found.push(...verdicts(logits, extractor.classes));
    group = [];
    onProgress?.(found.length);
  };
  for await (const image of images) {
    group.push(image);
    if (group.length === batch) await classify();
  }
  if (group.length > 0) await classify();
  return found;
}

export interface ClassAgreement {
  readonly label: number;
  readonly images: number;
  readonly right: number;
  /** Of the images that were taken for another class the most frequent one, and how many. */
  readonly confused?: { readonly label: number; readonly images: number };
}

export interface Agreement {
  readonly images: number;
  readonly right: number;
  /** right / images. */
  readonly share: number;
  /** Of the share, as of one of independent images: sqrt(share (1 - share) / images). */
  readonly deviation: number;
  /** Of the classes that occur. */
  readonly classes: readonly ClassAgreement[];
}

/** Compares verdicts with the classes `wanted`, one an image. */
export function agreement(found: readonly Verdict[], wanted: ArrayLike<number>): Agreement {
  const labels = [...new Set(Array.from(wanted))].sort((a, b) => a - b);
  const classes = labels.map((label) => {
    const taken = found.filter((_, i) => wanted[i] === label).map((verdict) => verdict.label);
    const counts = new Map<number, number>();
    for (const other of taken) if (other !== label) counts.set(other, (counts.get(other) ?? 0) + 1);
    const [worst] = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    return {
      label,
      images: taken.length,
      right: taken.filter((other) => other === label).length,
      confused: worst && { label: worst[0], images: worst[1] },
    };
  });
  const right = classes.reduce((sum, one) => sum + one.right, 0);
  const share = right / found.length;
  return {
    images: found.length,
    right,
    share,
    deviation: Math.sqrt((share * (1 - share)) / found.length),
    classes,
  };
}
