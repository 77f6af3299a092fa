/** Small data sets on disk for tests. */
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { writePng } from '../../src/formats/images.ts';
import { writeNpz } from '../../src/formats/npz.ts';
import type { Random } from './numbers.ts';

/** Random pictures as PNG: `counts` a class, each of its own size. Returns their paths in order of class and name. */
export async function pictureSet(folder: string, counts: Record<string, number>, draw: Random): Promise<string[]> {
  const paths: string[] = [];
  for (const name of Object.keys(counts).sort()) {
    for (let i = 0; i < counts[name]; i++) {
      const [width, height] = [draw.integer(8, 40), draw.integer(8, 40)];
      const rgb = Uint8Array.from({ length: width * height * 3 }, () => draw.integer(0, 255));
      const path = join(folder, name, `${String(i).padStart(3, '0')}.png`);
      mkdirSync(dirname(path), { recursive: true });
      await writePng(path, { rgb, width, height });
      paths.push(path);
    }
  }
  return paths;
}

/** Random moments [2 * channels, size, size] as `.npz`, `moments` and `moments_flip`. */
export async function latentSet(
  folder: string,
  counts: Record<string, number>,
  [channels, size]: [number, number],
  draw: Random,
): Promise<{ path: string; moments: Float32Array; flip: Float32Array }[]> {
  const items: { path: string; moments: Float32Array; flip: Float32Array }[] = [];
  const shape = [2 * channels, size, size];
  for (const name of Object.keys(counts).sort()) {
    for (let i = 0; i < counts[name]; i++) {
      const [moments, flip] = [draw.normal(2 * channels * size * size), draw.normal(2 * channels * size * size)];
      const path = join(folder, name, `${i}.npz`);
      mkdirSync(dirname(path), { recursive: true });
      const tensor = (data: Float32Array<ArrayBuffer>) => ({ dtype: 'F32' as const, shape, data });
      await writeNpz(path, { moments: tensor(moments), moments_flip: tensor(flip) });
      items.push({ path, moments, flip });
    }
  }
  return items;
}
