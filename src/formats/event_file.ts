/**
 * TensorBoard event files: TFRecords of Event messages (tensorflow/core/util/event.proto, framework/summary.proto),
 * of which the fields below are written. Protocol buffers: a message is a list of fields, each a varint
 * (number << 3 | wire type) and its value; wire types are 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
 *
 *     Event       1 double wall_time   2 int64 step   3 string file_version   5 Summary summary   7 SessionLog session_log
 *     Summary     1 repeated Value:    1 string tag   2 float simple_value   4 Image image
 *     Image       1 height   2 width   3 colorspace (3 = RGB)   4 bytes encoded_image_string
 *     SessionLog  1 status (1 = START)
 *
 * TFRecord: u64 length, u32 masked CRC-32C of it, the message, u32 masked CRC-32C of that; little-endian.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { EmigmError } from '../errors.ts';
import { maskedCrc32c } from './crc32c.ts';
import { reason } from './files.ts';

function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value; // up to 2^53: beyond 32 bits, so without bit operators
  while (rest >= 128) {
    bytes.push((rest % 128) + 128);
    rest = Math.floor(rest / 128);
  }
  return [...bytes, rest];
}

const key = (field: number, wire: number) => varint(field * 8 + wire);

function whole(field: number, value: number): Uint8Array {
  return Uint8Array.from([...key(field, 0), ...varint(value)]);
}

function bytes(field: number, value: Uint8Array): Uint8Array {
  return joined([Uint8Array.from([...key(field, 2), ...varint(value.length)]), value]);
}

const text = (field: number, value: string) => bytes(field, new TextEncoder().encode(value));

function double(field: number, value: number): Uint8Array {
  return joined([Uint8Array.from(key(field, 1)), new Uint8Array(Float64Array.of(value).buffer)]);
}

function float(field: number, value: number): Uint8Array {
  return joined([Uint8Array.from(key(field, 5)), new Uint8Array(Float32Array.of(value).buffer)]);
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** One TFRecord with the message. */
export function encodeRecord(message: Uint8Array): Uint8Array {
  const length = new Uint8Array(BigUint64Array.of(BigInt(message.length)).buffer);
  const crc = (of: Uint8Array) => new Uint8Array(Uint32Array.of(maskedCrc32c(of)).buffer);
  return joined([length, crc(length), message, crc(message)]);
}

/** A PNG for TensorBoard's image tab. */
export interface EventImage {
  readonly png: Uint8Array;
  readonly width: number;
  readonly height: number;
}

const STARTED = 1;

/** An Event message. `seconds` is the time since 1970. */
export function encodeEvent(
  seconds: number,
  step: number,
  what:
    | { readonly version: string }
    | { readonly started: true }
    | { readonly values: Readonly<Record<string, number | EventImage>> },
): Uint8Array {
  const head = [double(1, seconds), whole(2, step)];
  if ('version' in what) return joined([...head, text(3, what.version)]);
  if ('started' in what) return joined([...head, bytes(7, whole(1, STARTED))]);
  const values = Object.entries(what.values).map(([tag, value]) => {
    const content = typeof value === 'number' ? float(2, value) : bytes(4, encodeImage(value));
    return bytes(1, joined([text(1, tag), content]));
  });
  return joined([...head, bytes(5, joined(values))]);
}

function encodeImage({ png, width, height }: EventImage): Uint8Array {
  return joined([whole(1, height), whole(2, width), whole(3, 3), bytes(4, png)]);
}

export interface EventFile {
  readonly path: string;
  /** Writes numbers (and pictures) of a step, at once. Throws EmigmError('file'). */
  write(step: number, values: Readonly<Record<string, number | EventImage>>): void;
  close(): void;
}

/**
 * Begins an event file of its own in a run's folder, beside those of earlier starts; TensorBoard shows all of them as
 * one run. A run that goes on after `from` steps says so, and TensorBoard drops later steps of the earlier files.
 * @throws EmigmError('file')
 */
export function createEventFile(folder: string, from = 0, now: () => number = Date.now): EventFile {
  const begun = now() / 1000;
  // Two starts within a second differ by the process; the name must hold "tfevents".
  const path = join(folder, `events.out.tfevents.${Math.floor(begun)}.${hostname()}.${process.pid}.${from}`);
  const failed = (cause: unknown) =>
    new EmigmError('file', `${path}: could not be written: ${reason(cause)}`, { cause });
  let file: number;
  try {
    file = openSync(path, 'a');
  } catch (cause) {
    throw failed(cause);
  }
  const put = (event: Uint8Array) => {
    const record = encodeRecord(event);
    try {
      for (let done = 0; done < record.length; ) done += writeSync(file, record, done);
    } catch (cause) {
      throw failed(cause);
    }
  };
  put(encodeEvent(begun, 0, { version: 'brain.Event:2' }));
  // The first step that comes anew: with it and later, what earlier files say is void.
  put(encodeEvent(begun, from + 1, { started: true }));
  return {
    path,
    write: (step, values) => put(encodeEvent(now() / 1000, step, { values })),
    close: () => closeSync(file),
  };
}
