/** Data sets as folders: one folder a class, its files anywhere below it. */
import { readdir, stat } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { EmigmError } from '../errors.ts';
import { reason } from './files.ts';

/** Suffixes of picture files, lower case. */
export const PICTURE_SUFFIXES = ['.jpg', '.jpeg', '.png', '.webp'] as const;
/** Suffix of cached latents. */
export const LATENT_SUFFIXES = ['.npz'] as const;

export interface ClassFolders {
  /** The folder that holds the class folders: the one asked for, or `train` in it. */
  readonly root: string;
  /** Names of the class folders, sorted; the place of a name is its class number. */
  readonly classes: readonly string[];
  /** Paths of the files, class by class. */
  readonly files: readonly string[];
  /** The class number of each file. */
  readonly labels: Int32Array<ArrayBuffer>;
  readonly kind: 'pictures' | 'latents';
  /** Number of files of other kinds, which are left out. */
  readonly ignored: number;
}

/** Order of Python's `sorted`: by code points (UTF-16 units would put some rare characters elsewhere). */
function byCodePoint(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const [x, y] = [a.charCodeAt(i), b.charCodeAt(i)];
    if (x === y) continue;
    const surrogate = (unit: number) => unit >= 0xd800 && unit < 0xe000;
    return surrogate(x) === surrogate(y) ? x - y : surrogate(x) ? 1 : -1;
  }
  return a.length - b.length;
}

interface Listing {
  readonly folders: string[];
  readonly files: string[];
}

/** Names in a folder, sorted, links followed. Hidden names (`.cache`) are left out. */
async function list(folder: string): Promise<Listing> {
  try {
    const folders: string[] = [];
    const files: string[] = [];
    for (const entry of await readdir(folder, { withFileTypes: true })) {
      if (entry.name.startsWith('.')) continue;
      const kind = entry.isSymbolicLink() ? await stat(join(folder, entry.name)) : entry;
      (kind.isDirectory() ? folders : files).push(entry.name);
    }
    return { folders: folders.sort(byCodePoint), files: files.sort(byCodePoint) };
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    throw new EmigmError('file', `${folder}: ${code === 'ENOTDIR' ? 'is not a folder' : reason(cause)}`, { cause });
  }
}

/** Files below a folder: its own by name, then those of its folders by path, as Python's `sorted(os.walk(folder))`. */
export async function filesBelow(root: string): Promise<string[]> {
  const found: { folder: string; files: string[] }[] = [];
  const visit = async (folder: string, depth: number): Promise<void> => {
    if (depth > 32) throw new EmigmError('file', `${folder}: folders are nested too deep; a link to a folder above?`);
    const { folders, files } = await list(folder);
    found.push({ folder, files });
    for (const name of folders) await visit(join(folder, name), depth + 1);
  };
  await visit(root, 0);
  found.sort((a, b) => byCodePoint(a.folder, b.folder));
  return found.flatMap(({ folder, files }) => files.map((name) => join(folder, name)));
}

/**
 * Lists a folder of class folders of pictures (JPEG, PNG, WebP) or of cached latents (`.npz`). Classes are
 * numbered by the sorted names of their folders and files taken in torchvision's ImageFolder order, so
 * numbers agree with it; unlike there, hidden folders are no classes. A folder that holds a folder `train` with
 * folders in it stands for that one.
 * @throws EmigmError('file') when there is nothing to train on, saying what is missing
 */
export async function listClassFolders(folder: string): Promise<ClassFolders> {
  const { folders, files } = await list(folder);
  if (folders.includes('train') && (await list(join(folder, 'train'))).folders.length > 0) {
    return listClassFolders(join(folder, 'train'));
  }
  if (folders.length === 0) {
    const why = files.length === 0 ? 'is empty' : 'has files but no class folders';
    throw new EmigmError('file', `${folder}: ${why}; put the files of each class into a folder of its own in it`);
  }
  const kept: Record<ClassFolders['kind'], { path: string; label: number }[]> = { pictures: [], latents: [] };
  let ignored = files.length;
  for (const [label, name] of folders.entries()) {
    const before = kept.pictures.length + kept.latents.length;
    for (const path of await filesBelow(join(folder, name))) {
      const suffix = extname(path).toLowerCase();
      if ((PICTURE_SUFFIXES as readonly string[]).includes(suffix)) kept.pictures.push({ path, label });
      else if ((LATENT_SUFFIXES as readonly string[]).includes(suffix)) kept.latents.push({ path, label });
      else ignored++;
    }
    if (kept.pictures.length + kept.latents.length === before) {
      const suffixes = [...PICTURE_SUFFIXES, ...LATENT_SUFFIXES].join(', ');
      throw new EmigmError('file', `${join(folder, name)}: a class folder without a file (${suffixes}); remove it`);
    }
  }
  if (kept.pictures.length > 0 && kept.latents.length > 0) {
    throw new EmigmError(
      'file',
      `${folder}: holds both pictures (${kept.pictures[0].path}) and cached latents (${kept.latents[0].path}); keep one kind`,
    );
  }
  const kind = kept.latents.length > 0 ? 'latents' : 'pictures';
  const items = kept[kind];
  return {
    root: folder,
    classes: folders,
    files: items.map(({ path }) => path),
    labels: Int32Array.from(items, ({ label }) => label),
    kind,
    ignored,
  };
}
