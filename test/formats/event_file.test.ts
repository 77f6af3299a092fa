import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { crc32c, maskedCrc32c } from '../../src/formats/crc32c.ts';
import { createEventFile, encodeEvent, encodeRecord } from '../../src/formats/event_file.ts';
import { encodePng } from '../../src/formats/images.ts';
import { readEvents, readRecords } from '../helpers/event_decoder.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-events-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('CRC-32C: vectors of RFC 3720, B.4, and the check value', () => {
  expect(crc32c(new TextEncoder().encode('123456789'))).toBe(0xe3069283);
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43);
  expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
  expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => 31 - i))).toBe(0x113fdb5c);
});

test('masked checksums of a record that TensorFlow wrote', () => {
  // The first record of any event file: 24 bytes, wall time and "brain.Event:2"; its length's checksum is well known.
  const length = Uint8Array.of(24, 0, 0, 0, 0, 0, 0, 0);
  expect([...new Uint8Array(Uint32Array.of(maskedCrc32c(length)).buffer)]).toEqual([0xa3, 0x7f, 0x4b, 0x22]);
});

test('numbers, pictures and the beginning come back', async () => {
  let time = 1_700_000_000_500;
  const file = createEventFile(folder, 41, () => time);
  time += 250;
  file.write(42, { loss: 0.125, 'optimizer/lr': 1e-4 });
  const png = await encodePng(Uint8Array.of(1, 2, 3, 4, 5, 6), 2, 1);
  file.write(2 ** 40, { samples: { png, width: 2, height: 1 }, größe: Number.NaN });
  file.close();
  expect(basename(file.path)).toMatch(/^events\.out\.tfevents\.1700000000\./);
  const [version, start, numbers, picture, ...rest] = readEvents(readFileSync(file.path));
  expect(rest).toEqual([]);
  expect(version).toEqual({ wallTime: 1_700_000_000.5, step: 0, version: 'brain.Event:2', values: {} });
  expect(start).toMatchObject({ step: 42, status: 1 });
  expect(numbers).toEqual({
    wallTime: 1_700_000_000.75,
    step: 42,
    values: { loss: 0.125, 'optimizer/lr': Math.fround(1e-4) },
  });
  expect(picture.step).toBe(2 ** 40);
  const samples = picture.values.samples as { png: Uint8Array };
  expect({ ...samples, png: [...samples.png] }).toEqual({ height: 1, width: 2, colorspace: 3, png: [...png] });
  expect(picture.values.größe).toBeNaN();
});

test('a flipped bit is found', () => {
  const record = encodeRecord(encodeEvent(1, 2, { values: { loss: 3 } }));
  expect(readRecords(record)).toHaveLength(1);
  for (const at of [0, 9, 15, record.length - 1]) {
    const damaged = Uint8Array.from(record);
    damaged[at] ^= 16;
    expect(() => readRecords(damaged)).toThrow();
  }
});

test('a folder that is not there', () => {
  expect(() => createEventFile(join(folder, 'absent'))).toThrow(/absent.*could not be written: no such file/);
});
