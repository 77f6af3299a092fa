/** What a training run sees of its data. */

export interface Batch {
  /** [batch, channels, height, width] as the network takes them: pixels or latents, scaled. */
  readonly images: Float32Array<ArrayBuffer>;
  /** [batch] class numbers. */
  readonly labels: Int32Array<ArrayBuffer>;
  /** [batch] numbers of the items in the data set. */
  readonly indices: Int32Array<ArrayBuffer>;
}

/**
 * A data set cut into batches. Which items make a batch, and how they are mirrored, depends on the seed and the step
 * alone, so a resumed run goes on with the very batches of one that was never stopped.
 */
export interface TrainingData {
  /** Number of items. */
  readonly size: number;
  /** Class names; the place of a name is its class number. */
  readonly classes: readonly string[];
  readonly shape: { readonly channels: number; readonly height: number; readonly width: number };
  /** What pixels in [-1, 1], or latents, were multiplied by: a model file says it as `dataScale`. */
  readonly scale: number;
  /** What it is, in a few words: `3068 pictures of 10 classes, 32 x 32, in memory`. */
  readonly description: string;
  readonly stepsPerEpoch: number;
  /** The batch of a step, counted from 0. The batches after it are prepared meanwhile. */
  batch(step: number): Promise<Batch>;
  /** Stops the decoding threads and closes files. */
  close(): Promise<void>;
}

/**
 * Items by number, undone from their files: pictures as bytes [height, width, 3], or latents (or the moments of
 * their posterior) as floats [channels, height, width].
 */
export interface ItemStore<Row extends Uint8Array | Float32Array> {
  readonly classes: readonly string[];
  /** [size] class number of each item. */
  readonly labels: Int32Array<ArrayBuffer>;
  /** Of one item. */
  readonly shape: readonly number[];
  /** Whether items lie there mirrored too. Pictures do not: they are mirrored when a batch is made. */
  readonly mirrored: boolean;
  /** Throws EmigmError('file') naming the file when it cannot be read. */
  read(index: number, mirrored?: boolean): Promise<Row>;
  close(): Promise<void>;
}
