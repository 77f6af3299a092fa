/** What is kept of an adapter in the cache folder: measured choices, and whether its subgroup matrices are right. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { EmigmError } from '../errors.ts';
import { adapterName, cacheFolder, type OpenedAdapter, packageFolder } from './node.ts';
import { parseTuning, type StoredTuning, type Tuning } from './tuning.ts';

let hashed: string | undefined;

/** Hash of all kernel files, read once a process: what is kept holds as long as it stays. */
export const kernelHash = (): string => (hashed ??= hashKernels());

function hashKernels(): string {
  const folder = join(packageFolder(), 'kernels');
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.wgsl'));
  const hash = createHash('sha256');
  for (const file of files.sort()) hash.update(`${file}\n`).update(readFileSync(join(folder, file)));
  return hash.digest('hex').slice(0, 16);
}

const shortHash = (text: string) => createHash('sha256').update(text).digest('hex').slice(0, 12);

/** Where things about this adapter are kept: the hardware and its driver, by name and version, tell the file. */
function adapterPlace({ adapter: { info } }: OpenedAdapter, folder: string) {
  const hardware = shortHash([info.vendor, info.architecture, info.device].join('\n'));
  return { folder: join(cacheFolder(), folder), hardware, name: `${hardware}-${shortHash(info.description)}.json` };
}
const tuningPlace = (opened: OpenedAdapter) => adapterPlace(opened, 'tuning');

/** What was found wrong with subgroup matrices ('' for nothing) on this adapter and driver, with these kernels. */
export function readMatrixCheck(opened: OpenedAdapter): string | undefined {
  const { folder, name } = adapterPlace(opened, 'checks');
  try {
    const { kernels, wrong } = JSON.parse(readFileSync(join(folder, name), 'utf8')) as Record<string, unknown>;
    return kernels === kernelHash() && typeof wrong === 'string' ? wrong : undefined;
  } catch {
    return undefined;
  }
}

/** Keeps it; where nothing can be kept, it is found again. */
export function writeMatrixCheck(opened: OpenedAdapter, wrong: string): void {
  const { folder, name } = adapterPlace(opened, 'checks');
  try {
    writeWhole(join(folder, name), { adapter: adapterName(opened.adapter.info), kernels: kernelHash(), wrong });
  } catch {
    // A cache folder that is read-only is no reason to stop.
  }
}

/** Whole or not at all: written beside, then renamed. */
function writeWhole(file: string, content: object): void {
  const partial = `${file}.${process.pid}.partial`;
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(partial, `${JSON.stringify(content, null, 2)}\n`);
  renameSync(partial, file);
}

/** Files of measured choices for this hardware, with any driver. */
function tuningFiles(opened: OpenedAdapter): string[] {
  const { folder, hardware } = tuningPlace(opened);
  const names = existsSync(folder) ? readdirSync(folder) : [];
  return names.filter((one) => one.startsWith(`${hardware}-`) && one.endsWith('.json')).map((one) => join(folder, one));
}

function parseTuningFile(file: string): Tuning | undefined {
  try {
    return parseTuning(readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
}

/** Measured choices that are stored for this adapter, and whether they count. */
export function storedTuning(opened: OpenedAdapter): StoredTuning {
  const { folder, name } = tuningPlace(opened);
  const file = join(folder, name);
  if (existsSync(file)) {
    const tuning = parseTuningFile(file);
    if (!tuning) return { state: 'damaged', file };
    if (tuning.kernels !== kernelHash()) return { state: 'kernels', file, tuning };
    return { state: process.env.EMIGM_TUNING === 'off' ? 'off' : 'current', file, tuning };
  }
  const [before] = tuningFiles(opened)
    .map((other) => ({ file: other, tuning: parseTuningFile(other) }))
    .sort((a, b) => (b.tuning?.date ?? '').localeCompare(a.tuning?.date ?? ''));
  return before ? { state: 'driver', ...before } : { state: 'none', file };
}

/** Measured choices for this adapter, this driver and these kernels, if there are any; none with EMIGM_TUNING=off. */
export function readTuning(opened: OpenedAdapter): Tuning | undefined {
  if (process.env.EMIGM_TUNING === 'off') return undefined;
  const { state, tuning } = storedTuning(opened);
  return state === 'current' ? tuning : undefined;
}

/** Forgets what was measured on this hardware, with any driver. Returns whether there was anything. */
export function forgetTuning(opened: OpenedAdapter): boolean {
  const files = tuningFiles(opened);
  for (const file of files) rmSync(file, { force: true });
  return files.length > 0;
}

/** Stores measured choices. @throws EmigmError 'file' */
export function writeTuning(opened: OpenedAdapter, tuning: Tuning): string {
  const { folder, name } = tuningPlace(opened);
  const file = join(folder, name);
  try {
    writeWhole(file, tuning);
  } catch (cause) {
    throw new EmigmError('file', `${file} cannot be written: ${(cause as Error).message}`, { cause });
  }
  return file;
}
