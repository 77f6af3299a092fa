/**
 * The central directory of a zip file, for random access to its members; these themselves are not read. Zip64 too. Layout: PKWARE APPNOTE 6.3.10, sections 4.3.7-4.3.16, 4.5.3.
 */
import { EmigmError } from '../errors.ts';
import type { RangeFile } from './files.ts';
import { quote } from './quote.ts';

/** A member: where its local header lies, and how its bytes are kept (method 0 stored, 8 deflated). */
export interface ZipMember {
  readonly name: string;
  readonly method: number;
  readonly headerAt: number;
  /** Bytes as they lie in the file. */
  readonly size: number;
  readonly fullSize: number;
  readonly crc: number;
}

const END = 0x06054b50;
const END64_LOCATOR = 0x07064b50;
const END64 = 0x06064b50;
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
const MAX_DIRECTORY = 1 << 26; // over half a million members

const broken = (file: RangeFile, what: string): never => {
  throw new EmigmError('file', `${file.path}: ${what}; truncated or damaged zip file`);
};

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** A 64-bit number, refused when it lies beyond the file (so that no sum overflows). */
function position(view: DataView, at: number, file: RangeFile): number {
  const value = view.getBigUint64(at, true);
  return value <= BigInt(file.size)
    ? Number(value)
    : broken(file, `a position of ${value} lies beyond its ${file.size} bytes`);
}

/** Reads the directory: members by name. Throws EmigmError('file') when it is damaged. */
export async function readZipDirectory(file: RangeFile): Promise<Map<string, ZipMember>> {
  const tailLength = Math.min(file.size, 22 + 65535);
  const tail = viewOf(await file.read(file.size - tailLength, tailLength));
  let end = tailLength - 22;
  while (end >= 0 && (tail.getUint32(end, true) !== END || end + 22 + tail.getUint16(end + 20, true) !== tailLength))
    end--;
  if (end < 0) return broken(file, 'has no end of directory');

  let count = tail.getUint16(end + 10, true);
  let size = tail.getUint32(end + 12, true);
  let start = tail.getUint32(end + 16, true);
  if (count === 0xffff || size === 0xffffffff || start === 0xffffffff) {
    if (end < 20 || tail.getUint32(end - 20, true) !== END64_LOCATOR)
      return broken(file, 'has no zip64 end of directory');
    const end64 = viewOf(await file.read(position(tail, end - 12, file), 56));
    if (end64.getUint32(0, true) !== END64) return broken(file, 'has no zip64 end of directory');
    count = position(end64, 32, file);
    size = position(end64, 40, file);
    start = position(end64, 48, file);
  }
  if (start + size > file.size || size > MAX_DIRECTORY)
    return broken(file, `its directory claims ${size} bytes at ${start}`);

  const bytes = await file.read(start, size);
  const view = viewOf(bytes);
  const members = new Map<string, ZipMember>();
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + 46 > size || view.getUint32(at, true) !== ENTRY)
      return broken(file, `directory entry ${i} of ${count} is damaged`);
    const nameEnd = at + 46 + view.getUint16(at + 28, true);
    const extraEnd = nameEnd + view.getUint16(at + 30, true);
    const next = extraEnd + view.getUint16(at + 32, true);
    if (next > size) return broken(file, `directory entry ${i} of ${count} is cut off`);
    const name = new TextDecoder().decode(bytes.subarray(at + 46, nameEnd));
    const sizes = {
      stored: view.getUint32(at + 20, true),
      full: view.getUint32(at + 24, true),
      headerAt: view.getUint32(at + 42, true),
    };
    zip64Sizes(view, nameEnd, extraEnd, sizes, file);
    if (members.has(name)) return broken(file, `member ${quote(name)} is listed twice`);
    if (sizes.headerAt + 30 + sizes.stored > file.size)
      return broken(file, `member ${quote(name)} lies beyond the end`);
    members.set(name, {
      name,
      method: view.getUint16(at + 10, true),
      crc: view.getUint32(at + 16, true),
      headerAt: sizes.headerAt,
      size: sizes.stored,
      fullSize: sizes.full,
    });
    at = next;
  }
  return members;
}

/** Replaces the sizes that are 0xffffffff by those of the zip64 extra field, which holds only these, in this order. */
function zip64Sizes(
  view: DataView,
  from: number,
  to: number,
  sizes: { full: number; stored: number; headerAt: number },
  file: RangeFile,
): void {
  for (let at = from; at + 4 <= to; ) {
    const fieldEnd = at + 4 + view.getUint16(at + 2, true);
    if (view.getUint16(at, true) === 1) {
      let value = at + 4;
      for (const key of ['full', 'stored', 'headerAt'] as const) {
        if (sizes[key] !== 0xffffffff) continue;
        if (value + 8 > Math.min(fieldEnd, to)) broken(file, 'a zip64 field is cut off');
        sizes[key] = position(view, value, file);
        value += 8;
      }
    }
    at = fieldEnd;
  }
}

/** Where the bytes of a member begin in the file. Throws EmigmError('file') when its local header is damaged. */
export async function memberStart(file: RangeFile, member: ZipMember): Promise<number> {
  const local = viewOf(await file.read(member.headerAt, 30));
  if (local.getUint32(0, true) !== LOCAL) return broken(file, `member ${quote(member.name)} has no local header`);
  const start = member.headerAt + 30 + local.getUint16(26, true) + local.getUint16(28, true);
  return start + member.size <= file.size ? start : broken(file, `member ${quote(member.name)} lies beyond the end`);
}
