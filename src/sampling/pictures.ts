/** Pictures of a run: frames of the reveal with masked cells drawn as such, contact sheets. */
import { type RgbImage, toBytes } from '../formats/rgb.ts';

/** The image as it is now; cells that are not revealed yet are hatched grey. */
export function revealFrame(latents: Float32Array, size: number, revealed: Uint8Array): RgbImage {
  const image = toBytes(latents, size, size);
  const cells = Math.sqrt(revealed.length);
  const cell = size / cells;
  for (const [position, known] of revealed.entries()) {
    if (known) continue;
    const top = Math.floor(position / cells) * cell;
    const left = (position % cells) * cell;
    for (let y = top; y < top + cell; y++) {
      for (let x = left; x < left + cell; x++) {
        const at = 3 * (y * size + x);
        image.rgb.fill((x + y) % 4 === 0 ? 150 : 200, at, at + 3);
      }
    }
  }
  return image;
}

/** How many times to enlarge small images so that a sheet of `columns` is about `target` pixels wide. */
export function sheetScale(imageSize: number, columns: number, target = 640): number {
  return Math.max(1, Math.min(4, Math.floor(target / (columns * imageSize))));
}
