/** Opening a model with progress, and making the folder of results. */
import { existsSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { EmigmError } from '../errors.ts';
import { packageFolder } from '../gpu/node.ts';
import { makeFolders } from '../formats/folders.ts';
import { type LoadedModel, type LoadModelOptions, loadModel } from '../models/load.ts';
import { type DrawingModel, loadAny } from '../models/load_any.ts';
import { type DeviceFlags, deviceOptions } from './device_flags.ts';
import type { Io } from './io.ts';
import { type ModelFlags, openOptions } from './model_flags.ts';
import { createProgress } from './progress.ts';
import { resolveFile } from './pull.ts';

/** The model that draws when none is named: the one that the package carries. */
export const shippedModel = () => join(packageFolder(), 'weights', 'clothing32.safetensors');

export interface OpenFlags extends ModelFlags, DeviceFlags {
  model: string;
  pull?: boolean;
  quiet?: boolean;
}

/**
 * Loads the model that the flags name: a file, or a repository in the cache. `onAllocated` as of loadModel.
 * @throws EmigmError as loadModel
 */
export function openForDrawing(
  flags: OpenFlags,
  io: Io,
  onAllocated?: LoadModelOptions['onAllocated'],
): Promise<LoadedModel> {
  return openBy(loadModel, flags, io, onAllocated);
}

/** As `openForDrawing`, of either kind; `onAllocated` is called for continuous tokens alone. */
export function openAnyForDrawing(
  flags: OpenFlags,
  io: Io,
  onAllocated?: LoadModelOptions['onAllocated'],
): Promise<DrawingModel> {
  return openBy(loadAny, flags, io, onAllocated);
}

async function openBy<T>(
  load: (path: string, options: LoadModelOptions) => Promise<T>,
  flags: OpenFlags,
  io: Io,
  onAllocated: LoadModelOptions['onAllocated'],
): Promise<T> {
  const { model, pull, quiet, stored } = flags;
  const path = await resolveFile(model, io, { flag: '--model', pull, quiet });
  const progress = createProgress(io, { label: 'loading', total: 1, quiet });
  const onProgress = (done: number): void => {
    progress.update(done);
    if (io.signal.aborted) throw new EmigmError('aborted', 'stopped');
  };
  try {
    return await load(path, { ...openOptions(flags), device: deviceOptions(flags), stored, onAllocated, onProgress });
  } finally {
    progress.stop();
  }
}

/**
 * Makes the folder of results that `flag` names.
 * @throws EmigmError 'input' when it is a file, 'file' when it cannot be made
 */
export function makeFolder(path: string, flag = '--out'): void {
  if (existsSync(path) && !statSync(path).isDirectory())
    throw new EmigmError('input', `${flag} ${path} is a file; name a folder`);
  try {
    makeFolders(path);
  } catch (cause) {
    throw new EmigmError('file', `${flag} ${(cause as Error).message}`, { cause });
  }
}

/** Told before long work. @throws EmigmError 'input' when there is no folder for the file that `--out` names */
export function checkOutFile(path: string | undefined): void {
  if (path === undefined) return;
  const folder = dirname(path);
  if (!existsSync(folder)) throw new EmigmError('input', `--out ${path}: there is no folder ${folder}`);
  if (existsSync(path) && statSync(path).isDirectory())
    throw new EmigmError('input', `--out ${path} is a folder; name a file`);
}
