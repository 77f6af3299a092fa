/**
 * A reader of Python pickles that executes nothing: a closed list of opcodes builds lists, Maps and
 * numbers, and the caller decides what each global and persistent id stands for. Work and memory are
 * at most proportional to the pickle's own bytes, and nothing recurses.
 *
 * Python -> here: None null, bool boolean, int number (bigint beyond 2^53), float number, str string,
 * bytes Uint8Array, list and tuple array, dict Map, set Set.
 * Opcodes: CPython Lib/pickletools.py.
 */
import { EmigmError } from '../errors.ts';
import { quote } from './quote.ts';

/** Something a pickle may name: called with REDUCE or NEWOBJ, or used as a value. */
export class PickleGlobal {
  readonly name: string;
  /** Makes the object from its arguments; `charge(n)` accounts for n items or bytes that it copies. */
  readonly make: (args: unknown[], charge: (items: number) => void) => unknown;
  constructor(name: string, make: (args: unknown[], charge: (items: number) => void) => unknown) {
    this.name = name;
    this.make = make;
  }
}

export interface PickleMeaning {
  /** The file's name, for errors. */
  readonly file: string;
  /** What `module.name` stands for, or undefined when it is not on the list. */
  global(module: string, name: string): PickleGlobal | undefined;
  /** What a persistent id (already unpickled) stands for. */
  persistent(id: unknown): unknown;
  /** Sets the state of an object made before; false when it has none. */
  build(object: unknown, state: unknown): boolean;
}

/** Each opcode may make an object; weights and optimizer of a model with ten thousand tensors take half of these. */
const MAX_OPCODES = 4_000_000;

/** Thrown when the bytes end before the pickle does: more bytes may help. */
export class PickleEnded extends EmigmError {}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Reads one pickle that begins at `start`; returns its value and the position after it. Throws EmigmError('file'). */
export function unpickle(bytes: Uint8Array, start: number, meaning: PickleMeaning): { value: unknown; end: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const fail = (what: string): never => {
    throw new EmigmError('file', `${meaning.file}: the pickle ${what} (byte ${at})`);
  };
  let at = start;
  let stack: unknown[] = [];
  const marked: unknown[][] = []; // the stacks below each open mark
  const memo = new Map<number, unknown>();
  let copied = 0;
  const charge = (items: number) => {
    copied += items;
    if (copied > bytes.length) fail('copies more than it holds');
  };

  /** Moves past `count` bytes and returns where they begin. */
  const take = (count: number): number => {
    const from = at;
    if (count > bytes.length - at) throw new PickleEnded('file', `${meaning.file}: the pickle ends early; truncated`);
    at += count;
    return from;
  };
  const u8 = () => bytes[take(1)];
  const u32 = () => view.getUint32(take(4), true);
  const length64 = () => {
    const length = view.getBigUint64(take(8), true);
    return length > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(length);
  };
  const text = (length: number): string => {
    const from = take(length);
    try {
      return utf8.decode(bytes.subarray(from, at));
    } catch {
      return fail('has a string that is not UTF-8');
    }
  };
  const line = (): string => {
    const end = bytes.indexOf(10, at);
    const string = text(end < 0 ? Number.MAX_SAFE_INTEGER : end - at);
    take(1);
    return string;
  };
  const copy = (length: number) => bytes.slice(take(length), at);
  const pop = (): unknown => (stack.length > 0 ? stack.pop() : fail('takes from an empty stack'));
  const popMark = (): unknown[] => {
    const items = stack;
    stack = marked.pop() ?? fail('closes a mark that was not opened');
    return items;
  };
  const top = (): unknown => (stack.length > 0 ? stack[stack.length - 1] : fail('looks at an empty stack'));
  const push = (value: unknown) => stack.push(value);
  const listAt = () => {
    const list = top();
    return Array.isArray(list) ? list : fail('appends to something that is not a list');
  };
  const setItems = (items: unknown[]) => {
    const dict = top();
    if (!(dict instanceof Map) || items.length % 2 !== 0) return fail('sets items of something that is not a dict');
    for (let i = 0; i < items.length; i += 2) dict.set(items[i], items[i + 1]);
  };
  const recall = (index: number) =>
    memo.has(index) ? push(memo.get(index)) : fail(`recalls memo ${index}, which is empty`);
  const named = (module: unknown, name: unknown) => {
    if (typeof module !== 'string' || typeof name !== 'string')
      return fail('names a global by something that is not text');
    const global = meaning.global(module, name);
    if (!global) {
      throw new EmigmError(
        'file',
        `${meaning.file}: the pickle asks for the global ${quote(`${module}.${name}`).slice(1, -1)}, which is not on the list of what weights need; refused, nothing was executed`,
      );
    }
    return push(global);
  };
  const make = () => {
    const args = pop();
    const callable = pop();
    if (!(callable instanceof PickleGlobal)) return fail('calls something that is not a global');
    if (!Array.isArray(args)) return fail(`calls ${callable.name} without a tuple of arguments`);
    return push(callable.make(args, charge));
  };

  for (let opcodes = 0; ; opcodes++) {
    if (opcodes >= MAX_OPCODES) fail(`has more than ${MAX_OPCODES} opcodes`);
    const opcode = u8();
    switch (opcode) {
      case 0x80: {
        // PROTO
        const protocol = u8();
        if (protocol < 2 || protocol > 5) fail(`is of protocol ${protocol}; 2 to 5 are read`);
        break;
      }
      case 0x95: // FRAME
        take(8);
        break;
      case 0x2e: // STOP
        return { value: pop(), end: at };
      case 0x28: // MARK
        marked.push(stack);
        stack = [];
        break;
      case 0x4e: // NONE
        push(null);
        break;
      case 0x88: // NEWTRUE
        push(true);
        break;
      case 0x89: // NEWFALSE
        push(false);
        break;
      case 0x4a: // BININT
        push(view.getInt32(take(4), true));
        break;
      case 0x4b: // BININT1
        push(u8());
        break;
      case 0x4d: // BININT2
        push(view.getUint16(take(2), true));
        break;
      case 0x8a: // LONG1
        push(integer(copy(u8())));
        break;
      case 0x47: // BINFLOAT
        push(view.getFloat64(take(8), false));
        break;
      case 0x8c: // SHORT_BINUNICODE
        push(text(u8()));
        break;
      case 0x58: // BINUNICODE
        push(text(u32()));
        break;
      case 0x8d: // BINUNICODE8
        push(text(length64()));
        break;
      case 0x43: // SHORT_BINBYTES
        push(copy(u8()));
        break;
      case 0x42: // BINBYTES
        push(copy(u32()));
        break;
      case 0x5d: // EMPTY_LIST
      case 0x29: // EMPTY_TUPLE
        push([]);
        break;
      case 0x7d: // EMPTY_DICT
        push(new Map());
        break;
      case 0x8f: // EMPTY_SET
        push(new Set());
        break;
      case 0x85: // TUPLE1
        push([pop()]);
        break;
      case 0x86: {
        // TUPLE2
        const b = pop();
        push([pop(), b]);
        break;
      }
      case 0x87: {
        // TUPLE3
        const c = pop();
        const b = pop();
        push([pop(), b, c]);
        break;
      }
      case 0x74: // TUPLE
        push(popMark());
        break;
      case 0x61: {
        // APPEND
        const item = pop();
        listAt().push(item);
        break;
      }
      case 0x65: {
        // APPENDS
        const items = popMark();
        const list = listAt();
        for (const item of items) list.push(item);
        break;
      }
      case 0x73: {
        // SETITEM
        const value = pop();
        setItems([pop(), value]);
        break;
      }
      case 0x75: // SETITEMS
        setItems(popMark());
        break;
      case 0x90: {
        // ADDITEMS
        const items = popMark();
        const set = top();
        if (!(set instanceof Set)) return fail('adds to something that is not a set');
        for (const item of items) set.add(item);
        break;
      }
      case 0x71: // BINPUT
        memo.set(u8(), top());
        break;
      case 0x72: // LONG_BINPUT
        memo.set(u32(), top());
        break;
      case 0x94: // MEMOIZE
        memo.set(memo.size, top());
        break;
      case 0x68: // BINGET
        recall(u8());
        break;
      case 0x6a: // LONG_BINGET
        recall(u32());
        break;
      case 0x63: {
        // GLOBAL
        const module = line();
        named(module, line());
        break;
      }
      case 0x93: {
        // STACK_GLOBAL
        const name = pop();
        named(pop(), name);
        break;
      }
      case 0x52: // REDUCE
      case 0x81: // NEWOBJ
        make();
        break;
      case 0x62: {
        // BUILD
        const state = pop();
        if (!meaning.build(top(), state)) fail('sets the state of something that has none');
        break;
      }
      case 0x51: // BINPERSID
        push(meaning.persistent(pop()));
        break;
      default:
        fail(
          `has the opcode 0x${opcode.toString(16).padStart(2, '0')}, which no weights file needs; damaged, or no pickle`,
        );
    }
  }
}

/** A two's complement little-endian integer: a number where exact, else a bigint. */
function integer(bytes: Uint8Array): number | bigint {
  let value = 0n;
  for (let i = bytes.length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i]);
  value = BigInt.asIntN(8 * bytes.length, value);
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
