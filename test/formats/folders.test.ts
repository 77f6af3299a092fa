import { existsSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { makeFolders } from '../../src/formats/folders.ts';

const root = mkdtempSync(join(tmpdir(), 'emigm-folders-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

function refused(path: string): string {
  try {
    makeFolders(path);
  } catch (error) {
    expect(error).toMatchObject({ name: 'EmigmError', code: 'file', message: expect.not.stringContaining('\n') });
    return (error as Error).message;
  }
  throw new Error(`${path} was made`);
}

describe('folders', () => {
  it('are made with those above, and left where they are', () => {
    const path = join(root, 'a', 'b', 'c');
    makeFolders(path);
    const { ino } = statSync(path);
    makeFolders(path);
    expect(statSync(path).ino).toBe(ino);
    symlinkSync(path, join(root, 'link'));
    makeFolders(join(root, 'link', 'd'));
    expect(existsSync(join(path, 'd'))).toBe(true);
  });

  it('are not made below a file', () => {
    const file = join(root, 'file');
    writeFileSync(file, '');
    const why = 'it is a file, not a folder; name another';
    expect(refused(file)).toBe(`${file}: the folder cannot be made: ${why}`);
    expect(refused(join(file, 'x', 'y'))).toBe(`${file}/x/y: the folder cannot be made: ${file}: ${why}`);
  });

  it('are not made in place of a link to nothing', () => {
    symlinkSync(join(root, 'nothing'), join(root, 'dangling'));
    expect(refused(join(root, 'dangling', 'x'))).toContain(`${root}/dangling: `);
  });

  it.runIf(existsSync('/proc/self'))('are not made in /proc, without a hang', () => {
    const why = 'no folder can be made in /proc; name another';
    expect(refused('/proc/x')).toBe(`/proc/x: the folder cannot be made: ${why}`);
    expect(refused('/proc/x/y')).toBe(`/proc/x/y: the folder cannot be made: /proc/x: ${why}`);
  });
});
