/** Bounded reading and atomic writing of files, with errors of one line. */
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, rename, unlink } from 'node:fs/promises';
import { EmigmError } from '../errors.ts';

const CHUNK = 1 << 28; // one read call takes at most 2^31 - 1 bytes

/** What went wrong, in a few words, from an error of the operating system. */
export function reason(error: unknown): string {
  const code = (error as NodeJS.ErrnoException)?.code;
  if (code === 'ENOENT') return 'no such file';
  if (code === 'EACCES' || code === 'EPERM') return 'permission denied';
  if (code === 'EISDIR') return 'is a folder, not a file';
  if (code === 'ENOSPC') return 'no space left on the disk';
  return error instanceof Error ? error.message.split('\n')[0] : String(error);
}

/** An open file that is read by ranges, never beyond its size. */
export interface RangeFile {
  readonly path: string;
  readonly size: number;
  /** Exactly `length` bytes from `position`, in a buffer of their own. */
  read(position: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
  close(): Promise<void>;
}

/** Opens a file for reading by ranges. Throws EmigmError('file') when it is missing or no regular file. */
export async function openRangeFile(path: string): Promise<RangeFile> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, 'r');
    const stat = await handle.stat();
    if (!stat.isFile()) throw Object.assign(new Error('not a file'), { code: stat.isDirectory() ? 'EISDIR' : '' });
    return rangeFile(path, stat.size, handle);
  } catch (error) {
    await handle?.close();
    throw new EmigmError('file', `${path}: ${reason(error)}`, { cause: error });
  }
}

function rangeFile(path: string, size: number, handle: FileHandle): RangeFile {
  return {
    path,
    size,
    async read(position, length) {
      if (position < 0 || length < 0 || position + length > size) {
        throw new EmigmError('file', `${path}: bytes ${position} to ${position + length} lie beyond its ${size}`);
      }
      try {
        const bytes = new Uint8Array(length);
        for (let done = 0; done < length; ) {
          const part = await handle.read(bytes, done, Math.min(CHUNK, length - done), position + done);
          if (part.bytesRead === 0) throw new Error(`became shorter than ${size} bytes while it was read`);
          done += part.bytesRead;
        }
        return bytes;
      } catch (error) {
        throw new EmigmError('file', `${path}: ${reason(error)}`, { cause: error });
      }
    },
    close: () => handle.close(),
  };
}

/**
 * Writes a file under a temporary name beside `path` and renames it when `write` has ended, so that
 * nothing half-written is ever found under `path`. The temporary file is removed on any error.
 */
export async function writeAtomically(
  path: string,
  write: (put: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
): Promise<void> {
  const temporary = `${path}.${process.pid}-${randomBytes(4).toString('hex')}.tmp`;
  let handle: FileHandle | undefined;
  try {
    handle = await open(temporary, 'wx');
    const file = handle;
    await write(async (bytes) => {
      for (let done = 0; done < bytes.length; ) {
        const { bytesWritten } = await file.write(bytes, done, Math.min(CHUNK, bytes.length - done));
        done += bytesWritten;
      }
    });
    await handle.close();
    handle = undefined;
    await rename(temporary, path);
  } catch (error) {
    await handle?.close().catch(() => {});
    await unlink(temporary).catch(() => {});
    if (error instanceof EmigmError) throw error;
    throw new EmigmError('file', `${path}: could not be written: ${reason(error)}`, { cause: error });
  }
}
