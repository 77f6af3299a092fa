/** The files of a training run: numbered checkpoints and the newest export. */
import { readdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { EmigmError } from '../errors.ts';
import { reason } from './files.ts';
import { makeFolders } from './folders.ts';

const CHECKPOINT = /^checkpoint-(\d+)\.safetensors$/;
const TEMPORARY = /\.\d+-[0-9a-f]{8}\.tmp$/;

/** `checkpoint-00001000.safetensors` of the run. */
export const checkpointPath = (run: string, step: number): string =>
  join(run, `checkpoint-${String(step).padStart(8, '0')}.safetensors`);

/** Makes the folder (and those above). @throws EmigmError 'file' */
export async function makeRunFolder(run: string): Promise<void> {
  makeFolders(run);
}

/** Steps of the run's checkpoints, ascending; none when there is no such folder. */
export async function checkpointSteps(run: string): Promise<number[]> {
  const names = await readdir(run).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw new EmigmError('file', `${run}: ${reason(error)}`, { cause: error });
  });
  return names
    .flatMap((name) => CHECKPOINT.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b);
}

/** Removes all but the newest `keep` checkpoints, and temporary files that a killed run left. */
export async function pruneCheckpoints(run: string, keep: number): Promise<void> {
  const steps = await checkpointSteps(run);
  for (const step of steps.slice(0, Math.max(0, steps.length - keep))) {
    await unlink(checkpointPath(run, step)).catch(() => {});
  }
  for (const name of await readdir(run)) if (TEMPORARY.test(name)) await unlink(join(run, name)).catch(() => {});
}

/** A file of the run by name: `model.safetensors`, `log.jsonl`. */
export const runFile = (run: string, name: string): string => join(run, name);
