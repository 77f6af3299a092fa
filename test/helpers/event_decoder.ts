/** Reads TensorBoard event files by the wire format alone, for tests of the writer. */
import { crc32c } from '../../src/formats/crc32c.ts';

type Field = { number: number; value: number | Uint8Array };

/** Messages of a TFRecord file, checksums checked. */
export function readRecords(file: Uint8Array): Uint8Array[] {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const unmask = (masked: number) => {
    const rotated = (masked - 0xa282ead8) >>> 0;
    return ((rotated >>> 17) | (rotated << 15)) >>> 0;
  };
  const messages: Uint8Array[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(view.getBigUint64(at, true));
    if (unmask(view.getUint32(at + 8, true)) !== crc32c(file.subarray(at, at + 8))) throw new Error('length checksum');
    const message = file.subarray(at + 12, at + 12 + length);
    if (unmask(view.getUint32(at + 12 + length, true)) !== crc32c(message)) throw new Error('message checksum');
    messages.push(message);
    at += length + 16;
  }
  return messages;
}

/** Fields of a message; varints, doubles and floats as numbers, the rest as bytes. */
export function readFields(message: Uint8Array): Field[] {
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = message[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return Number(value);
    }
  };
  const fields: Field[] = [];
  while (at < message.length) {
    const key = varint();
    const [number, wire] = [Math.floor(key / 8), key % 8];
    if (wire === 0) fields.push({ number, value: varint() });
    else if (wire === 1) {
      fields.push({ number, value: view.getFloat64(at, true) });
      at += 8;
    } else if (wire === 5) {
      fields.push({ number, value: view.getFloat32(at, true) });
      at += 4;
    } else if (wire === 2) {
      const length = varint();
      fields.push({ number, value: message.subarray(at, at + length) });
      at += length;
    } else throw new Error(`wire type ${wire}`);
  }
  return fields;
}

export interface ReadEvent {
  wallTime: number;
  step: number;
  version?: string;
  status?: number;
  values: Record<string, number | { height: number; width: number; colorspace: number; png: Uint8Array }>;
}

const text = (value: number | Uint8Array) => new TextDecoder().decode(value as Uint8Array);

/** The events of a file. */
export function readEvents(file: Uint8Array): ReadEvent[] {
  return readRecords(file).map((message) => {
    const event: ReadEvent = { wallTime: 0, step: 0, values: {} };
    for (const { number, value } of readFields(message)) {
      if (number === 1) event.wallTime = value as number;
      else if (number === 2) event.step = value as number;
      else if (number === 3) event.version = text(value);
      else if (number === 7) event.status = readFields(value as Uint8Array)[0].value as number;
      else if (number === 5) {
        for (const entry of readFields(value as Uint8Array)) {
          const fields = new Map(readFields(entry.value as Uint8Array).map((field) => [field.number, field.value]));
          const image = fields.get(4);
          const parts = image === undefined ? [] : readFields(image as Uint8Array).map((field) => field.value);
          const [height, width, colorspace] = parts as number[];
          event.values[text(fields.get(1)!)] =
            image === undefined
              ? (fields.get(2) as number)
              : { height, width, colorspace, png: parts[3] as Uint8Array };
        }
      } else throw new Error(`field ${number}`);
    }
    return event;
  });
}
