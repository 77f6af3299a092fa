/** The pictures in a folder, as evaluation takes them. */
import { readFile } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { EmigmError } from '../errors.ts';
import { filesBelow, PICTURE_SUFFIXES } from './class_folders.ts';

/** What `emigm sample` writes beside its pictures, and lists them in. */
const SIDECAR = 'sample.json';

/**
 * Paths of all pictures in a folder and the folders in it, in a fixed order. In a folder that `emigm sample` has written
 * those that its `sample.json` lists, so that contact sheets are not taken for images.
 * @throws EmigmError 'file' when there is none
 */
export async function listPictures(folder: string): Promise<string[]> {
  const files = await filesBelow(folder);
  const listed = files.includes(join(folder, SIDECAR)) ? await listedBy(join(folder, SIDECAR)) : undefined;
  if (listed) return listed.map((name) => join(folder, name));
  const pictures = files.filter((path) =>
    (PICTURE_SUFFIXES as readonly string[]).includes(extname(path).toLowerCase()),
  );
  if (pictures.length === 0) {
    throw new EmigmError('file', `${folder}: has no pictures (${PICTURE_SUFFIXES.join(', ')})`);
  }
  return pictures;
}

async function listedBy(path: string): Promise<string[] | undefined> {
  let images: unknown;
  try {
    images = JSON.parse(await readFile(path, 'utf8')).images;
  } catch {
    return undefined; // another file of that name
  }
  if (!Array.isArray(images)) return undefined;
  const names = images.map((image: { file?: unknown }) => image?.file);
  if (names.length > 0 && names.every((name): name is string => typeof name === 'string')) return names;
  throw new EmigmError('file', `${path}: its pictures were not kept one by one; sample again without --sheet-only`);
}
