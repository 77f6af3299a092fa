/** Pictures that `emigm sample` has written, with the class that each was asked to show. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { EmigmError } from '../errors.ts';
import { listPictures } from './picture_list.ts';

export interface AskedPicture {
  readonly path: string;
  /** The class's name. */
  readonly asked: string;
}

/**
 * Pictures of a folder and the classes asked for: as the folder's `sample.json` says, else by the names of the files,
 * `dress-0003.png`. @throws EmigmError 'file' when there are none, or a name tells no class
 */
export async function listSampled(folder: string): Promise<AskedPicture[]> {
  const paths = await listPictures(folder);
  const listed = await classesListed(folder);
  return paths.map((path) => {
    const asked = listed.get(path) ?? /^(.+)-\d+\.\w+$/.exec(basename(path))?.[1];
    if (asked === undefined) {
      throw new EmigmError(
        'file',
        `${path}: neither sample.json beside it nor its name (such as dress-0003.png) says what it should show`,
      );
    }
    return { path, asked };
  });
}

async function classesListed(folder: string): Promise<Map<string, string>> {
  const path = join(folder, 'sample.json');
  if (!existsSync(path)) return new Map();
  try {
    const { images } = JSON.parse(await readFile(path, 'utf8'));
    const known = (images as { file?: unknown; class?: unknown }[]).filter(
      (image): image is { file: string; class: string } =>
        typeof image.file === 'string' && typeof image.class === 'string',
    );
    return new Map(known.map((image) => [join(dirname(path), image.file), image.class]));
  } catch {
    return new Map(); // another file of that name
  }
}
