/** Making folders, with errors of one line. */
import { mkdirSync, type Stats, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { EmigmError } from '../errors.ts';
import { reason } from './files.ts';

/**
 * Makes the folder and those above it that are missing, the topmost first. Node's own `recursive: true` never ends
 * where a file system lets no folder be made and says ENOENT, as /proc does.
 * @throws EmigmError 'file' naming the folder that could not be made, and why
 */
export function makeFolders(path: string): void {
  const missing: string[] = [];
  let at = resolve(path);
  for (let found = look(at, path); !found?.isDirectory(); found = look(at, path)) {
    if (found) throw refusal(at, path, 'it is a file, not a folder');
    missing.unshift(at);
    at = dirname(at);
  }
  for (const folder of missing) {
    try {
      mkdirSync(folder);
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      // Another process was faster.
      if (code === 'EEXIST' && look(folder, path)?.isDirectory()) continue;
      // The folder above is there: its file system has no place for others.
      const why = code === 'ENOENT' ? `no folder can be made in ${dirname(folder)}` : reason(cause);
      throw refusal(folder, path, why, cause);
    }
  }
}

/** undefined where there is nothing */
function look(at: string, path: string): Stats | undefined {
  try {
    return statSync(at, { throwIfNoEntry: false });
  } catch (cause) {
    // Below a file: it is told when it is come to.
    if ((cause as NodeJS.ErrnoException).code === 'ENOTDIR') return undefined;
    throw refusal(at, path, reason(cause), cause);
  }
}

function refusal(at: string, path: string, why: string, cause?: unknown): EmigmError {
  const where = at === resolve(path) ? '' : `${at}: `;
  return new EmigmError('file', `${path}: the folder cannot be made: ${where}${why}; name another`, { cause });
}
