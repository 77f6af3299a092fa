/** JSON Lines files that a process adds to and may be killed at any time: one JSON object a line. */
import { closeSync, openSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { EmigmError } from '../errors.ts';
import { reason, writeAtomically } from './files.ts';

export type JsonLine = Readonly<Record<string, unknown>>;

export interface JsonLinesFile {
  readonly path: string;
  /** What was there when it was opened. */
  readonly lines: readonly JsonLine[];
  /** Writes the line at once, so that a process killed after it has it on file. @throws EmigmError 'file' */
  append(line: JsonLine): void;
  close(): void;
}

/** The ended lines; one that a killed process left unfinished is dropped, any other damage is an error. */
function parse(content: string, path: string): { lines: JsonLine[]; clean: boolean } {
  const texts = content.split('\n');
  const rest = texts.pop();
  const lines = texts.map((text, i) => {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      // told below
    }
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new EmigmError('file', `${path}: line ${i + 1} is no JSON object; repair or remove the file`);
    }
    return value as JsonLine;
  });
  return { lines, clean: rest === '' };
}

/** Opens a file to read what is there and to add to it; it is made when there is none. @throws EmigmError 'file' */
export async function openJsonLines(path: string): Promise<JsonLinesFile> {
  let content = '';
  try {
    content = await readFile(path, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') {
      throw new EmigmError('file', `${path}: ${reason(cause)}`, { cause });
    }
  }
  const { lines, clean } = parse(content, path);
  const text = (line: JsonLine) => new TextEncoder().encode(`${JSON.stringify(line)}\n`);
  if (!clean) {
    await writeAtomically(path, async (put) => {
      for (const line of lines) await put(text(line));
    });
  }
  const attempt = <T>(write: () => T): T => {
    try {
      return write();
    } catch (cause) {
      throw new EmigmError('file', `${path}: could not be written: ${reason(cause)}`, { cause });
    }
  };
  const file = attempt(() => openSync(path, 'a'));
  return {
    path,
    lines,
    append(line) {
      const bytes = text(line);
      attempt(() => {
        for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done);
      });
    },
    close: () => closeSync(file),
  };
}
