/** Encodes a folder of pictures once, so that training need not do it in every epoch. */
import { EmigmError } from '../errors.ts';
import { listClassFolders } from '../formats/class_folders.ts';
import { DecodePool } from '../formats/decode_pool.ts';
import { fingerprint, LatentCache, type Part } from '../formats/latent_cache.ts';
import { type RgbImage, toFloats } from '../formats/rgb.ts';
import type { Tokenizer } from './tokenizer.ts';

export interface EncodeFolderOptions {
  /** Pixels of a side that pictures are cropped to: a multiple of the tokenizer's stride. */
  size: number;
  /** The tokenizer's file, by which a later run recognises it. */
  tokenizerFile: string;
  /** Leave out pictures that cannot be read, with a warning. */
  skipUnreadable?: boolean;
  /** Which of so many pictures are to be encoded; the others are left to other processes. */
  part?: (pictures: number) => Part;
  threads?: number;
  onWarning?: (message: string) => void;
  /** Pictures done, of those that were still to be done. */
  onProgress?: (done: number, total: number) => void;
  signal?: AbortSignal;
}

export interface EncodedFolder {
  /** Pictures encoded now, found encoded already, left out. */
  encoded: number;
  kept: number;
  skipped: number;
  classes: readonly string[];
  /** Of what is cached of one picture: moments, or latents of a tokenizer without a posterior. */
  shape: readonly number[];
}

/**
 * Writes what the encoder makes of every picture and of its mirror image into class folders of `out`. Pictures whose
 * latents are there already are not encoded again.
 * @throws EmigmError 'file' for what cannot be read or written, 'input' for a size that does not fit or a folder `out`
 *   of another tokenizer, 'memory', 'aborted'
 */
export async function encodeFolder(
  tokenizer: Tokenizer,
  folder: string,
  out: string,
  options: EncodeFolderOptions,
): Promise<EncodedFolder> {
  const { size, skipUnreadable = false, onWarning, onProgress, signal } = options;
  const pixels = { height: size, width: size };
  const { height, width } = tokenizer.latentSize(pixels);
  const shape = [(tokenizer.hasPosterior ? 2 : 1) * tokenizer.channels, height, width];
  const pictures = await listClassFolders(folder);
  if (pictures.kind !== 'pictures') throw new EmigmError('input', `${folder}: holds latents already, no pictures`);
  if (pictures.ignored > 0) {
    onWarning?.(`${pictures.root}: ${pictures.ignored} files are not of a kind that is read, left out`);
  }
  const record = { tokenizer: tokenizer.kind, fingerprint: await fingerprint(options.tokenizerFile), size };
  const cache = await LatentCache.open(out, pictures, record, options.part?.(pictures.files.length));
  const todo = await cache.missing();
  const kept = cache.numbers().length - todo.length;
  let skipped = 0;

  // A picture and its mirror image go in one pass.
  const batch = Math.max(1, Math.floor(tokenizer.largestBatch(pixels) / 2));
  const groups = Array.from({ length: Math.ceil(todo.length / batch) }, (_, i) =>
    todo.slice(i * batch, (i + 1) * batch),
  );
  const pool = new DecodePool(options.threads);
  const read = (numbers: readonly number[] = []) => {
    const jobs = numbers.map((index) => pool.decode({ kind: 'picture', path: pictures.files[index], size }));
    for (const job of jobs) job.catch(() => {}); // told when its turn comes
    return jobs;
  };
  let writing: Promise<unknown> = Promise.resolve();
  try {
    let next = read(groups[0]);
    for (const [g, numbers] of groups.entries()) {
      const jobs = next;
      next = read(groups[g + 1]);
      const images: { index: number; image: RgbImage }[] = [];
      for (const [i, index] of numbers.entries()) {
        try {
          images.push({ index, image: { width: size, height: size, rgb: (await jobs[i]).data as Uint8Array } });
        } catch (error) {
          if (!skipUnreadable || !(error instanceof EmigmError) || error.code !== 'file') throw error;
          onWarning?.(`skipped: ${error.message}`);
          skipped++;
        }
      }
      const item = 3 * size * size;
      const floats = new Float32Array(2 * images.length * item);
      for (const [i, { image }] of images.entries()) {
        floats.set(toFloats(image), 2 * i * item);
        floats.set(toFloats(mirrored(image)), (2 * i + 1) * item);
      }
      const encoded = await tokenizer.encode(floats, pixels, signal);
      await writing;
      const part = shape.reduce((a, b) => a * b, 1);
      writing = Promise.all(
        images.map(({ index }, i) =>
          cache.write(
            index,
            shape,
            encoded.slice(2 * i * part, (2 * i + 1) * part),
            encoded.slice((2 * i + 1) * part, (2 * i + 2) * part),
          ),
        ),
      );
      writing.catch(() => {}); // awaited in the next round
      onProgress?.(Math.min(todo.length, (g + 1) * batch), todo.length);
    }
    await writing;
  } finally {
    await writing.catch(() => {});
    await pool.close();
  }
  return { encoded: todo.length - skipped, kept, skipped, classes: pictures.classes, shape };
}

/** The picture with left and right exchanged. */
export function mirrored({ width, height, rgb }: RgbImage): RgbImage {
  const out = new Uint8Array(rgb.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = 3 * (y * width + x);
      out.set(rgb.subarray(from, from + 3), 3 * (y * width + width - 1 - x));
    }
  }
  return { width, height, rgb: out };
}
