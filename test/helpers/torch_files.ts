/** Making small PyTorch files by hand, for tests of what the reader refuses. */
import { zipSync } from 'fflate';

/** Assembles a pickle: strings become their latin1 bytes, numbers single bytes. */
export function pickle(...parts: (string | number | Uint8Array)[]): Uint8Array {
  return Buffer.concat(
    parts.map((part) => (typeof part === 'number' ? Buffer.of(part) : Buffer.from(part as string, 'latin1'))),
  );
}

/** BINUNICODE */
export function text(string: string): Uint8Array {
  const bytes = Buffer.from(string);
  const head = Buffer.from('X\0\0\0\0', 'latin1');
  head.writeUInt32LE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}

/** BININT */
export function integer(value: number): Uint8Array {
  const bytes = Buffer.from('J\0\0\0\0', 'latin1');
  bytes.writeInt32LE(value, 1);
  return bytes;
}

const tuple = (values: number[]) => pickle('(', ...values.map(integer), 't');

/** A tensor: _rebuild_tensor_v2 of a storage of so many elements. */
export function tensor(
  shape: number[],
  stride: number[],
  { key = '0', length = 4, offset = 0, type = 'FloatStorage' } = {},
): Uint8Array {
  return pickle(
    'ctorch._utils\n_rebuild_tensor_v2\n((',
    text('storage'),
    `ctorch\n${type}\n`,
    text(key),
    text('cpu'),
    integer(length),
    'tQ',
    integer(offset),
    tuple(shape),
    tuple(stride),
    '\x89ccollections\nOrderedDict\n)RtR',
  );
}

/** A zip checkpoint with this pickle (PROTO and STOP are added) and these storages. */
export function zipCheckpoint(
  value: Uint8Array,
  storages: Record<string, Uint8Array> = { 0: new Uint8Array(16) },
  others: Record<string, Uint8Array> = {},
): Uint8Array {
  const files: Record<string, Uint8Array> = { 'x/data.pkl': pickle('\x80\x02', value, '.') };
  for (const [key, bytes] of Object.entries(storages)) files[`x/data/${key}`] = bytes;
  return zipSync({ ...files, ...others }, { level: 0 });
}

/** A legacy checkpoint with this pickle, these keys and this tail of storages. */
export function legacyCheckpoint(value: Uint8Array, keys: string[], tail: Uint8Array): Uint8Array {
  return pickle(
    '\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.',
    '\x80\x02M\xe9\x03.',
    '\x80\x02}',
    text('little_endian'),
    '\x88s.',
    '\x80\x02',
    value,
    '.',
    '\x80\x02](',
    ...keys.map(text),
    'e.',
    tail,
  );
}

/** Parts of a zip64 file, to be written at their positions: sizes and positions only in zip64 fields. */
export function zip64Parts(
  members: { name: string; bytes: Uint8Array; at: number }[],
): { at: number; bytes: Uint8Array }[] {
  const record = (size: number, fill: (view: DataView) => void) => {
    const bytes = new Uint8Array(size);
    fill(new DataView(bytes.buffer));
    return bytes;
  };
  const parts: { at: number; bytes: Uint8Array }[] = [];
  const directory: Uint8Array[] = [];
  for (const { name, bytes, at } of members) {
    const local = record(30, (view) => {
      view.setUint32(0, 0x04034b50, true);
      view.setUint32(18, bytes.length, true);
      view.setUint32(22, bytes.length, true);
      view.setUint16(26, name.length, true);
      view.setUint16(28, 5, true); // an extra field, which the directory does not have
    });
    parts.push({ at, bytes: Buffer.concat([local, Buffer.from(name), Buffer.alloc(5), bytes]) });
    const entry = record(46, (view) => {
      view.setUint32(0, 0x02014b50, true);
      view.setUint32(20, 0xffffffff, true);
      view.setUint32(24, 0xffffffff, true);
      view.setUint16(28, name.length, true);
      view.setUint16(30, 34, true);
      view.setUint32(42, 0xffffffff, true);
    });
    const extra = record(34, (view) => {
      view.setUint16(0, 0x5455, true); // some other field first
      view.setUint16(2, 2, true);
      view.setUint16(6, 1, true);
      view.setUint16(8, 24, true);
      view.setBigUint64(10, BigInt(bytes.length), true);
      view.setBigUint64(18, BigInt(bytes.length), true);
      view.setBigUint64(26, BigInt(at), true);
    });
    directory.push(entry, Buffer.from(name), extra);
  }
  const start = Math.max(...parts.map((part) => part.at + part.bytes.length));
  const entries = Buffer.concat(directory);
  const end64 = record(56, (view) => {
    view.setUint32(0, 0x06064b50, true);
    view.setBigUint64(4, 44n, true);
    view.setBigUint64(24, BigInt(members.length), true);
    view.setBigUint64(32, BigInt(members.length), true);
    view.setBigUint64(40, BigInt(entries.length), true);
    view.setBigUint64(48, BigInt(start), true);
  });
  const locator = record(20, (view) => {
    view.setUint32(0, 0x07064b50, true);
    view.setBigUint64(8, BigInt(start + entries.length), true);
    view.setUint32(16, 1, true);
  });
  const end = record(22, (view) => {
    view.setUint32(0, 0x06054b50, true);
    view.setUint16(8, 0xffff, true);
    view.setUint16(10, 0xffff, true);
    view.setUint32(12, 0xffffffff, true);
    view.setUint32(16, 0xffffffff, true);
  });
  parts.push({ at: start, bytes: Buffer.concat([entries, end64, locator, end]) });
  return parts;
}
