/** SVG drawings as PNG, by sharp (librsvg). */
import sharp from 'sharp';
import { EmigmError } from '../errors.ts';
import { reason } from './files.ts';

/** The bytes of a PNG file of an SVG drawing, `scale` pixels for each of its units. Throws EmigmError('input'). */
export async function svgToPng(svg: string, scale = 1): Promise<Uint8Array> {
  try {
    return await sharp(Buffer.from(svg), { density: 72 * scale })
      .png({ compressionLevel: 9 })
      .toBuffer();
  } catch (cause) {
    throw new EmigmError('input', `the drawing cannot be rendered: ${reason(cause)}`, { cause });
  }
}
