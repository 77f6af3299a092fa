/** Picture files, by sharp: PNG out, animated GIF out, PNG, JPEG and WebP in. */
import sharp from 'sharp';
import { EmigmError } from '../errors.ts';
import { openRangeFile, reason, writeAtomically } from './files.ts';
import { type RgbImage, rgbImage } from './rgb.ts';

export { centerCrop } from './crop.ts';
export { type ContactSheetOptions, contactSheet, enlarge, type RgbImage, toBytes, toFloats } from './rgb.ts';

const raw = ({ width, height }: RgbImage) => ({ raw: { width, height, channels: 3 as const } });

/** The bytes of a PNG file; the same image gives the same bytes. Throws EmigmError('shape'). */
export async function encodePng(rgb: Uint8Array, width: number, height: number): Promise<Uint8Array> {
  return sharp(rgb, raw(rgbImage(rgb, width, height)))
    .png({ compressionLevel: 9 })
    .toBuffer();
}

/** Writes a PNG file under a temporary name first. Throws EmigmError('file') when the disk refuses. */
export async function writePng(path: string, { rgb, width, height }: RgbImage): Promise<void> {
  const bytes = await encodePng(rgb, width, height);
  await writeAtomically(path, (put) => put(bytes));
}

/**
 * Reads a PNG, JPEG or WebP file as Pillow's `convert('RGB')` does: alpha is dropped, colour profiles
 * and EXIF orientation are ignored, unless `orient` asks to turn it upright; of an animation the first
 * picture. Throws EmigmError('file').
 */
export async function readImage(path: string, { orient = false } = {}): Promise<RgbImage> {
  const file = await openRangeFile(path);
  let bytes: Uint8Array;
  try {
    bytes = await file.read(0, file.size);
  } finally {
    await file.close();
  }
  return decodeImage(bytes, path, { orient });
}

/** Pictures in order, `ahead` of them being decoded. */
export async function* readImages(paths: readonly string[], ahead: number): AsyncGenerator<RgbImage> {
  const waiting: Promise<RgbImage>[] = [];
  for (let next = 0, i = 0; i < paths.length; i++) {
    for (; next < Math.min(paths.length, i + ahead); next++) {
      const picture = readImage(paths[next]);
      picture.catch(() => undefined); // thrown when its turn comes
      waiting.push(picture);
    }
    yield await waiting.shift()!;
  }
}

/** As readImage, for a file in memory that `name` stands for in errors. */
export async function decodeImage(bytes: Uint8Array, name: string, { orient = false } = {}): Promise<RgbImage> {
  try {
    const image = sharp(bytes, { ignoreIcc: true, failOn: 'error', autoOrient: orient });
    const { data, info } = await image.removeAlpha().toColourspace('srgb').raw({ depth: 'uchar' }).toBuffer({
      resolveWithObject: true,
    });
    return rgbImage(new Uint8Array(data.buffer, data.byteOffset, data.length), info.width, info.height);
  } catch (error) {
    throw new EmigmError('file', `${name}: not a picture that can be read: ${reason(error)}`, { cause: error });
  }
}

/**
 * Writes frames of one size as an animated GIF that repeats, under a temporary name first. `delays`
 * are milliseconds, one for all or one a frame. Throws EmigmError('input'), ('shape') or ('file').
 */
export async function writeGif(path: string, frames: readonly RgbImage[], delays: number | number[]): Promise<void> {
  if (frames.length === 0) throw new EmigmError('input', `${path}: an animation needs at least one frame`);
  const { width, height } = frames[0];
  const delay = typeof delays === 'number' ? frames.map(() => delays) : delays;
  if (delay.length !== frames.length) {
    throw new EmigmError('input', `${path}: ${frames.length} frames but ${delay.length} delays`);
  }
  const strip = new Uint8Array(frames.length * width * height * 3);
  for (const [i, frame] of frames.entries()) {
    if (frame.width !== width || frame.height !== height) {
      throw new EmigmError('shape', `${path}: frames of ${width} x ${height} and ${frame.width} x ${frame.height}`);
    }
    strip.set(frame.rgb, i * width * height * 3);
  }
  const input = { width, height: height * frames.length, channels: 3 as const, pageHeight: height };
  const bytes = await sharp(strip, { raw: input }).gif({ delay, loop: 0, keepDuplicateFrames: true }).toBuffer();
  await writeAtomically(path, (put) => put(bytes));
}
