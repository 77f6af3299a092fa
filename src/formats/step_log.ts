/** `log.jsonl` of a run: one JSON object a line and step, steps ascending. */
import { closeSync, openSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { EmigmError } from '../errors.ts';
import { reason, writeAtomically } from './files.ts';

/** A line: numbers by name; JSON has no NaN or infinity, they read back as null. */
export interface StepLine {
  readonly step: number;
  readonly [name: string]: unknown;
}

export interface StepLog {
  readonly path: string;
  /** The step of the last line, or 0 when there is none. */
  readonly last: number;
  /** Writes the line at once, so that a process killed after it has it on file. Throws EmigmError('file'). */
  append(line: StepLine): void;
  close(): void;
}

interface Parsed {
  readonly lines: { readonly text: string; readonly value: StepLine }[];
  /** Whether the file is exactly these lines, each ended. */
  readonly clean: boolean;
}

/** The complete lines of a log. A last line that a killed process left unfinished is no error; any other damage is. */
function parse(content: string, path: string): Parsed {
  const texts = content.split('\n');
  const rest = texts.pop() ?? '';
  const lines: { text: string; value: StepLine }[] = [];
  for (const [i, text] of texts.entries()) {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      // told below
    }
    const step = (value as StepLine | null | undefined)?.step;
    if (typeof step !== 'number' || !Number.isSafeInteger(step)) {
      throw new EmigmError('file', `${path}: line ${i + 1} is no JSON object with a step; repair or remove the file`);
    }
    lines.push({ text, value: value as StepLine });
  }
  return { lines, clean: rest === '' };
}

async function load(path: string): Promise<Parsed> {
  let content: string;
  try {
    content = await readFile(path, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return { lines: [], clean: true };
    throw new EmigmError('file', `${path}: ${reason(cause)}`, { cause });
  }
  return parse(content, path);
}

/**
 * Reads a log; a torn last line is left out.
 * @throws EmigmError('file') when there is none, or a line in it is damaged
 */
export async function readStepLog(path: string): Promise<StepLine[]> {
  const content = await readFile(path, 'utf8').catch((cause) => {
    throw new EmigmError('file', `${path}: ${reason(cause)}`, { cause });
  });
  return parse(content, path).lines.map(({ value }) => value);
}

/**
 * Opens a log to go on after `from` steps: what it says of later steps (and a torn last line, and steps said twice) is
 * dropped, by a new file that takes the old one's place, so that the run leaves one line for each step however often
 * it is stopped. Before a checkpoint of step s is saved, all lines up to s must be appended.
 * @param from steps taken before; 0 begins anew
 * @throws EmigmError('file')
 */
export async function openStepLog(path: string, from = 0): Promise<StepLog> {
  const { lines, clean } = await load(path);
  const kept: string[] = [];
  let last = 0;
  for (const { text, value } of lines) {
    if (value.step > from || value.step <= last) continue;
    kept.push(text);
    last = value.step;
  }
  if (!clean || kept.length < lines.length) {
    const content = new TextEncoder().encode(kept.map((line) => `${line}\n`).join(''));
    await writeAtomically(path, (put) => put(content));
  }
  const failed = (cause: unknown) =>
    new EmigmError('file', `${path}: could not be written: ${reason(cause)}`, { cause });
  let file: number;
  try {
    file = openSync(path, 'a');
  } catch (cause) {
    throw failed(cause);
  }
  return {
    path,
    get last() {
      return last;
    },
    append(line) {
      if (!Number.isSafeInteger(line.step) || line.step <= last) {
        throw new EmigmError('input', `${path}: step ${line.step} cannot follow step ${last}`);
      }
      const bytes = new TextEncoder().encode(`${JSON.stringify(line)}\n`);
      try {
        for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done);
      } catch (cause) {
        throw failed(cause);
      }
      last = line.step;
    },
    close: () => closeSync(file),
  };
}
