import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zipSync } from 'fflate';
import { afterAll, describe, expect, test } from 'vitest';
import { EmigmError } from '../../src/errors.ts';
import { openTorchCheckpoint, stateDict, TorchTensor } from '../../src/formats/pytorch.ts';
import { describeGoldenFile, goldenPath, random } from '../helpers/golden.ts';
import { integer, legacyCheckpoint, pickle, tensor, text, zip64Parts, zipCheckpoint } from '../helpers/torch_files.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-pytorch-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const path = join(folder, 'x.pth');

/** Opens the file and reads every tensor of it. */
async function readAll(bytes: Uint8Array): Promise<unknown> {
  writeFileSync(path, bytes);
  const checkpoint = await openTorchCheckpoint(path);
  try {
    const seen = new Set<unknown>();
    const walk = async (value: unknown): Promise<void> => {
      if (seen.has(value) || typeof value !== 'object') return;
      seen.add(value);
      if (value instanceof TorchTensor) await value.read();
      else if (value instanceof Map) for (const item of value.values()) await walk(item);
      else if (Array.isArray(value)) for (const item of value) await walk(item);
    };
    await walk(checkpoint.value);
    return checkpoint.value;
  } finally {
    await checkpoint.close();
  }
}

async function error(bytes: Uint8Array): Promise<string> {
  const failure = await readAll(bytes).then(
    () => new Error('no error'),
    (reason) => reason,
  );
  expect(failure).toBeInstanceOf(EmigmError);
  expect(failure.code).toBe('file');
  expect(failure.message).toContain('x.pth');
  expect(failure.message).not.toContain('\n');
  return failure.message;
}

const huge = pickle('\x8a\x07', '\xff\xff\xff\xff\xff\xff\x0f'); // LONG1, 2^52 - 1
const floats = (...values: number[]) => new Uint8Array(new Float32Array(values).buffer);

describe('files made by hand are read', () => {
  test('zip, legacy, expanded, transposed, and a view of a storage', async () => {
    const storages = { 0: floats(1, 2, 3, 4) };
    const read = async (bytes: Uint8Array) => {
      writeFileSync(path, bytes);
      const checkpoint = await openTorchCheckpoint(path);
      const values = await (checkpoint.value as TorchTensor).readFloat32();
      await checkpoint.close();
      return values.join();
    };
    expect(await read(zipCheckpoint(tensor([2, 2], [2, 1]), storages))).toBe('1,2,3,4');
    expect(await read(zipCheckpoint(tensor([2, 2], [1, 2]), storages))).toBe('1,3,2,4');
    expect(await read(zipCheckpoint(tensor([2, 3], [1, 0], { offset: 1 }), storages))).toBe('2,2,2,3,3,3');
    expect(await read(zipCheckpoint(tensor([], [], { offset: 3 }), storages))).toBe('4');
    expect(await read(zipCheckpoint(tensor([0, 5], [9, 9]), storages))).toBe('');
    const tail = Buffer.concat([Buffer.from([4, 0, 0, 0, 0, 0, 0, 0]), floats(1, 2, 3, 4)]);
    expect(await read(legacyCheckpoint(tensor([2, 2], [1, 2]), ['0'], tail))).toBe('1,3,2,4');
    const view = pickle(
      'ctorch._utils\n_rebuild_tensor_v2\n((',
      ...[text('storage'), 'ctorch\nFloatStorage\n', text('0'), text('cpu'), integer(4)],
      ...['(', text('v'), integer(1), integer(3), 'ttQ', integer(1), '(', integer(2), 't(', integer(1), 't\x89}tR'],
    );
    expect(await read(legacyCheckpoint(view, ['0'], tail))).toBe('3,4');
  });

  test('a plain state dict', async () => {
    writeFileSync(path, zipCheckpoint(pickle('}', text('w'), tensor([4], [1]), 's')));
    const checkpoint = await openTorchCheckpoint(path);
    expect([...stateDict(checkpoint).keys()]).toEqual(['w']);
    expect(stateDict(checkpoint, 'plain').get('w')!.shape).toEqual([4]);
    await checkpoint.close();
  });

  test('a shape that changes after it was checked is the one that was checked', async () => {
    const grown = pickle(
      ']q\x01',
      'ctorch._utils\n_rebuild_tensor_v2\n((',
      ...[text('storage'), 'ctorch\nFloatStorage\n', text('0'), text('cpu'), integer(4)],
      'tQK\x00h\x01)\x89}tR',
      ...['h\x01', huge, 'a\x87'],
    );
    const [list, scalar] = (await readAll(zipCheckpoint(grown))) as [number[], TorchTensor];
    expect(list).toEqual([2 ** 52 - 1]);
    expect(scalar.shape).toEqual([]);
  });

  test.skipIf(process.platform === 'win32')('zip64: a storage beyond 4 GiB in a file of holes', async () => {
    const far = 5 * 2 ** 30 + 7;
    const members = [
      { name: 'far/data.pkl', bytes: pickle('\x80\x02', tensor([4], [1]), '.'), at: 0 },
      { name: 'far/data/0', bytes: floats(1, 2, 3, 4), at: far },
    ];
    const handle = await open(path, 'w');
    for (const part of zip64Parts(members)) await handle.write(part.bytes, 0, part.bytes.length, part.at);
    await handle.close();
    const checkpoint = await openTorchCheckpoint(path);
    expect(await (checkpoint.value as TorchTensor).readFloat32()).toEqual(new Float32Array([1, 2, 3, 4]));
    await checkpoint.close();
    rmSync(path);
  });

  test('keys like __proto__ stay keys', async () => {
    const value = (await readAll(
      zipCheckpoint(pickle('}', text('__proto__'), '}', text('polluted'), '\x88ss')),
    )) as Map<string, unknown>;
    expect([...value.keys()]).toEqual(['__proto__']);
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });
});

describe('foreign globals are refused by name', () => {
  test.each([
    ['os', 'system'],
    ['builtins', 'eval'],
    ['torch', 'load'],
    ['torch.storage', '_load_from_bytes'],
    ['collections', 'defaultdict'],
    ['', '__proto__'],
    ['constructor', 'prototype'],
  ])('%s.%s', async (module, name) => {
    const call = pickle(`c${module}\n${name}\n`, text('echo'), '\x85R');
    const message = await error(zipCheckpoint(call));
    expect(message).toContain(`asks for the global ${module}.${name}`);
    expect(await error(legacyCheckpoint(call, [], new Uint8Array(0)))).toBe(message);
    expect(await error(zipCheckpoint(pickle(text(module), text(name), '\x93)R')))).toBe(message);
  });

  test('in the first pickle of a legacy file', async () => {
    expect(await error(pickle('\x80\x02cposix\nsystem\n', text('id'), '\x85R.'))).toContain('posix.system');
  });

  test('a long name with control characters stays one line', async () => {
    const message = await error(zipCheckpoint(pickle(text('os\r\n\x1b[31m'), text('x'.repeat(100000)), '\x93.')));
    for (const character of '\r\n\x1b') expect(message).not.toContain(character);
    expect(message.length).toBeLessThan(500);
  });
});

describe('bad checkpoints', () => {
  test.each<[string, Uint8Array, RegExp]>([
    ['empty', new Uint8Array(0), /neither a zip file nor a pickle/],
    ['text', Buffer.from('hello'), /neither a zip file nor a pickle/],
    ['PK alone', Buffer.from('PK'), /no end of directory/],
    ['a zip without data.pkl', zipSync({ 'a/b': new Uint8Array(1) }), /with 0 data.pkl/],
    ['a compressed pickle', zipSync({ 'x/data.pkl': new Uint8Array(99) }, { level: 9 }), /is compressed/],
    ['big-endian', zipCheckpoint(pickle('N'), {}, { 'x/byteorder': Buffer.from('big') }), /big-endian/],
    ['an empty pickle', zipSync({ 'x/data.pkl': new Uint8Array(0) }, { level: 0 }), /ends early/],
    ['a string longer than the file', zipCheckpoint(pickle('X\xff\xff\xff\xff')), /ends early/],
    ['a string of 2^64 bytes', zipCheckpoint(pickle('\x8d\xff\xff\xff\xff\xff\xff\xff\xff')), /ends early/],
    ['bytes longer than the file', zipCheckpoint(pickle('B\xff\xff\xff\x7f')), /ends early/],
    ['a line without an end', zipCheckpoint(pickle('cos')), /ends early/],
    ['a string that is not UTF-8', zipCheckpoint(pickle('X\x01\0\0\0\xff')), /not UTF-8/],
    ['an unknown opcode', zipCheckpoint(pickle('i')), /opcode 0x69/],
    ['extension registry', zipCheckpoint(pickle('\x82\x01')), /opcode 0x82/],
    ['protocol 0', zipCheckpoint(pickle('\x80\x00')), /protocol 0/],
    ['stop on an empty stack', zipCheckpoint(pickle('')), /empty stack/],
    ['tuple without a mark', zipCheckpoint(pickle('t')), /mark that was not opened/],
    ['memo that is empty', zipCheckpoint(pickle('h\x07')), /memo 7, which is empty/],
    ['append to a dict', zipCheckpoint(pickle('}Na')), /not a list/],
    ['odd items', zipCheckpoint(pickle('}(Nu')), /not a dict/],
    ['items of a list', zipCheckpoint(pickle('](NNu')), /not a dict/],
    ['a call of text', zipCheckpoint(pickle(text('a'), ')R')), /not a global/],
    ['a call without a tuple', zipCheckpoint(pickle('ccollections\nOrderedDict\nNR')), /without a tuple/],
    ['state of a number', zipCheckpoint(pickle('K\x01}b')), /has none/],
    ['a global named by numbers', zipCheckpoint(pickle('K\x01K\x02\x93')), /not text/],
    ['a storage made inside', zipCheckpoint(pickle('ctorch\nFloatStorage\n)R')), /belong outside/],
    ['a persistent id that is text', zipCheckpoint(pickle(text('a'), 'Q')), /no storage/],
    ['a storage with a line in its key', zipCheckpoint(tensor([4], [1], { key: 'a\nb' })), /a plain key/],
    ['a missing storage', zipCheckpoint(tensor([4], [1], { key: '9' })), /storage 9 is missing/],
    [
      'a storage that is too short',
      zipCheckpoint(tensor([4], [1]), { 0: new Uint8Array(15) }),
      /needs 16 bytes but has 15/,
    ],
    ['a storage larger than the file', zipCheckpoint(tensor([4], [1], { length: 1 << 30 })), /more than the file/],
    ['a tensor beyond its storage', zipCheckpoint(tensor([5], [1])), /reaches element 5 of storage 0, which has 4/],
    ['an offset beyond its storage', zipCheckpoint(tensor([1], [1], { offset: 4 })), /reaches element 5/],
    ['a stride beyond its storage', zipCheckpoint(tensor([2, 2], [3, 1])), /reaches element 5/],
    ['a negative stride', zipCheckpoint(tensor([2], [-1])), /bad strides/],
    ['too few strides', zipCheckpoint(tensor([2, 2], [1])), /bad strides/],
    ['a negative size', zipCheckpoint(tensor([-2], [1])), /sizes and strides/],
    [
      'two descriptions of a storage',
      zipCheckpoint(pickle('(', tensor([1], [1]), tensor([1], [1], { length: 3 }), 't')),
      /disagree/,
    ],
    ['an expanded tensor of 2^60 elements', zipCheckpoint(tensor([1 << 30, 1 << 30], [0, 0])), /sizes and strides/],
    ['an expanded tensor of 2^30 elements', zipCheckpoint(tensor([1 << 30], [0])), /larger than the whole file/],
    ['huge sizes', zipCheckpoint(pickle('ctorch\nSize\n(', huge, huge, 't\x85R')), /no list of sizes/],
    ['legacy without the magic number', pickle('\x80\x02K\x01.'), /magic number/],
    ['legacy of another protocol', pickle('\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02K\x01.'), /protocol "1"/],
    [
      'legacy without its storages',
      legacyCheckpoint(tensor([4], [1]), ['0'], new Uint8Array(0)),
      /ends before storage 0/,
    ],
    [
      'legacy with a short storage',
      legacyCheckpoint(tensor([4], [1]), ['0'], Buffer.concat([Buffer.from([4, 0, 0, 0, 0, 0, 0, 0]), floats(1)])),
      /ends inside storage 0/,
    ],
    [
      'legacy with another count',
      legacyCheckpoint(tensor([4], [1]), ['0'], Buffer.alloc(24, 9)),
      /has \d+ elements but its pickle says 4/,
    ],
    ['legacy that lists no storage', legacyCheckpoint(tensor([4], [1]), [], new Uint8Array(0)), /storage 0 is missing/],
    [
      'legacy that lists a storage twice',
      legacyCheckpoint(
        tensor([1], [1], { length: 0x1 }),
        ['0', '0'],
        Buffer.concat([Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]), floats(1)]),
      ),
      /or twice/,
    ],
  ])('%s', async (_, bytes, message) => {
    expect(await error(bytes)).toMatch(message);
  });

  test('missing file', async () => {
    await expect(openTorchCheckpoint(join(folder, 'absent.pth'))).rejects.toThrow(/absent.pth: no such file/);
  });

  test('an endless pickle and endless copies end', async () => {
    expect(await error(zipCheckpoint(pickle(Buffer.alloc(5_000_000, '}'))))).toMatch(/more than 4000000 opcodes/);
    const copies = pickle('](', Buffer.alloc(2000, 'N'), 'eq\x00', ...Array(1000).fill('cbuiltins\nset\nh\x00\x85R'));
    expect(await error(zipCheckpoint(copies))).toMatch(/copies more than it holds/);
  });

  test('nesting a million deep', async () => {
    const nested = pickle(Buffer.alloc(1_000_000, ']'), Buffer.alloc(999_999, 'a'));
    const magic = pickle('\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02', nested, '.');
    expect(await error(magic)).toMatch(/legacy protocol "an object"/);
    await readAllShallow(zipCheckpoint(nested));
    await readAllShallow(zipCheckpoint(pickle(Buffer.alloc(1_000_000, '('), Buffer.alloc(1_000_000, 't'))));
  });
});

async function readAllShallow(bytes: Uint8Array): Promise<void> {
  writeFileSync(path, bytes);
  const checkpoint = await openTorchCheckpoint(path);
  expect(Array.isArray(checkpoint.value)).toBe(true);
  await checkpoint.close();
}

describeGoldenFile('checkpoints/odd*.pth', (file) => {
  test('truncated anywhere', async () => {
    const whole = readFileSync(goldenPath(file));
    const { integer: pick } = random();
    for (let i = 0; i < 60; i++) {
      writeFileSync(path, whole);
      truncateSync(path, i < 30 ? i : pick(0, whole.length - 1));
      await expect(openTorchCheckpoint(path)).rejects.toThrow(EmigmError);
    }
  });

  test('bytes flipped at random end in EmigmError or in a read', async () => {
    const whole = new Uint8Array(readFileSync(goldenPath(file)));
    const { integer: pick } = random();
    const until = performance.now() + 1500;
    let refused = 0;
    while (performance.now() < until) {
      const damaged = whole.slice();
      for (let n = pick(1, 8); n > 0; n--) {
        // Most of the file is data; the pickle stands at its beginning, the directory at its end.
        const at = pick(0, 2) === 0 ? pick(whole.length - 2000, whole.length - 1) : pick(0, 3000);
        damaged[at] = pick(0, 1) ? pick(0, 255) : damaged[at] ^ (1 << pick(0, 7));
      }
      await readAll(damaged).catch((reason) => {
        refused++;
        if (!(reason instanceof EmigmError)) throw reason;
        expect(reason.message).not.toContain('\n');
      });
    }
    expect(refused).toBeGreaterThan(0);
  });
});
