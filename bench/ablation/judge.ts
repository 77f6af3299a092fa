/** The judge of samples: a small classifier trained by this engine on the same data, and held-out pictures. */
import { existsSync } from 'node:fs';
import { agreement, verdicts } from '../../src/evaluation/agreement.ts';
import { ClassifierExtractor } from '../../src/evaluation/classifier_extractor.ts';
import { collect, type ImageSet } from '../../src/evaluation/collect.ts';
import { frechetDistance } from '../../src/evaluation/frechet.ts';
import type { Statistics } from '../../src/evaluation/moments.ts';
import { EmigmError } from '../../src/errors.ts';
import type { RgbImage } from '../../src/formats/rgb.ts';
import type { Device } from '../../src/gpu/device.ts';
import { checkClassifierConfig, saveClassifier } from '../../src/models/classifier.ts';
import { Classifier } from '../../src/models/classifier_network.ts';
import { openClassifierData } from '../../src/training/classifier/data.ts';
import { resolveClassifierSettings } from '../../src/training/classifier/settings.ts';
import { ClassifierTrainer } from '../../src/training/classifier/trainer.ts';
import { drawShape, SHAPE_CLASSES } from '../../src/training/data/shapes.ts';
import { train } from '../../src/training/loop.ts';

/** Seeds of the generated pictures: other seeds, other pictures. */
export const PICTURE_SEEDS = { training: 0, reference: 1, floor: 2 } as const;

/** Images at once through the classifier. */
const BATCH = 50;

export interface JudgeOptions {
  imageSize: number;
  /** Pictures in the folder that is trained on. */
  pictures: number;
  /** Held-out pictures whose statistics samples are compared with. */
  reference: number;
  steps: number;
  signal?: AbortSignal;
  onStep?: (done: number) => void;
}

/** How far images are from the held-out ones, and how often they show what they should. */
export interface Verdict {
  distance: number;
  agreement: number;
}

/** Held-out pictures first .. first + count - 1 of a seed, equal per class when both are multiples of their number. */
async function* heldOut(seed: number, size: number, count: number, first = 0): AsyncGenerator<RgbImage> {
  for (let i = first; i < first + count; i++) yield drawShape(i, size, seed);
}

/**
 * Trains the classifier on the class folders in `data` and writes it to `file`; small, for 16 x 16 pixels: 64 features,
 * because the bias of a Fréchet distance grows with their number. @throws EmigmError 'aborted'
 */
export async function trainJudge(device: Device, data: string, file: string, options: JudgeOptions): Promise<void> {
  const { imageSize, pictures, steps, signal, onStep } = options;
  // Shapes are not mirrored: a mirrored crescent is none of the data's.
  const given = { imageSize, stem: [32], width: 64, depth: 2, steps, padding: 1, flip: false, seed: 0 };
  const settings = resolveClassifierSettings(given, pictures);
  const { stem, width, depth, heads, mlpRatio } = settings;
  const shape = { imageSize, stem, width, depth, heads, mlpRatio, classes: SHAPE_CLASSES.length };
  const config = checkClassifierConfig(shape, 'the classifier of the ablation');
  const trainer = await ClassifierTrainer.create(device, config, settings);
  const source = await openClassifierData(data, { ...settings, signal });
  try {
    const taken = await train(trainer, {
      data: source,
      from: 0,
      until: steps,
      signal,
      pauseAt: () => false,
      onPause: async () => undefined,
      onStep: ({ step }) => onStep?.(step / steps),
    });
    if (taken < steps) throw new EmigmError('aborted', 'stopped; the classifier is trained anew');
    const info = {
      classNames: [...SHAPE_CLASSES],
      training: `${pictures} shapes; ${steps} steps of ${settings.batch}`,
    };
    await saveClassifier(file, config, info, trainer.average().read, 'F32');
  } finally {
    trainer.dispose();
    await source.close();
  }
}

export class Judge {
  private readonly extractor: ClassifierExtractor;
  private readonly options: JudgeOptions;
  private readonly reference: Statistics;
  /** On the held-out pictures of the reference. */
  readonly accuracy: number;

  private constructor(extractor: ClassifierExtractor, options: JudgeOptions, reference: ImageSet) {
    this.extractor = extractor;
    this.options = options;
    this.reference = reference.moments.statistics();
    this.accuracy = share(extractor, reference);
  }

  /** Reads the classifier and sees the held-out pictures. @throws EmigmError as `Classifier.open` does, 'aborted' */
  static async open(device: Device, file: string, options: JudgeOptions): Promise<Judge> {
    if (!existsSync(file)) throw new EmigmError('file', `${file}: there is no classifier`);
    const { classifier } = await Classifier.open(device, file);
    const extractor = new ClassifierExtractor(classifier, 'classifier');
    try {
      const { imageSize, reference: count, signal } = options;
      const pictures = heldOut(PICTURE_SEEDS.reference, imageSize, count);
      return new Judge(extractor, options, await collect(extractor, pictures, { batch: BATCH, signal }));
    } catch (error) {
      extractor.dispose();
      throw error;
    }
  }

  get features(): number {
    return this.extractor.dimensions;
  }

  /** Image i should show class i modulo the number of classes. @throws EmigmError 'aborted' */
  async judge(images: AsyncIterable<RgbImage>): Promise<Verdict> {
    const set = await collect(this.extractor, images, { batch: BATCH, signal: this.options.signal });
    const distance = Math.max(0, frechetDistance(set.moments.statistics(), this.reference));
    return { distance, agreement: share(this.extractor, set) };
  }

  /** Distances of `sets` sets of `count` held-out pictures, none of them in the reference. */
  async floor(count: number, sets: number): Promise<number[]> {
    const found: number[] = [];
    for (let i = 0; i < sets; i++) {
      const pictures = heldOut(PICTURE_SEEDS.floor, this.options.imageSize, count, i * count);
      found.push((await this.judge(pictures)).distance);
    }
    return found;
  }

  dispose(): void {
    this.extractor.dispose();
  }
}

function share(extractor: ClassifierExtractor, { logits, count }: ImageSet): number {
  const wanted = Int32Array.from({ length: count }, (_, i) => i % extractor.classes);
  return agreement(verdicts(logits!, extractor.classes), wanted).share;
}
