import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { listClassFolders } from '../../src/formats/class_folders.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-folders-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let made = 0;
/** A folder with these (empty) files. */
function tree(...files: string[]): string {
  const root = join(folder, String(made++));
  mkdirSync(root);
  for (const file of files) {
    mkdirSync(dirname(join(root, file)), { recursive: true });
    writeFileSync(join(root, file), '');
  }
  return root;
}

describe('order', () => {
  test('classes by code points, files as torchvision takes them', async () => {
    // sorted(os.walk('b')): the folder itself, then its folders by path
    const names = [
      'b/sub/1.JPG',
      'b/9.png',
      'b/10.jpeg',
      'b/sub-2/0.webp',
      'B/x.jpg',
      'b\u{1f600}/x.jpg',
      'b\uffee/x.jpg',
    ];
    const root = tree(...names, 'b/notes.txt', 'README.md', '.cache/x.jpg', 'b/.hidden.jpg');
    const found = await listClassFolders(root);
    expect(found.classes).toEqual(['B', 'b', 'b\uffee', 'b\u{1f600}']);
    expect(found.files.map((path) => path.slice(root.length + 1))).toEqual([
      'B/x.jpg',
      'b/10.jpeg',
      'b/9.png',
      'b/sub/1.JPG',
      'b/sub-2/0.webp',
      'b\uffee/x.jpg',
      'b\u{1f600}/x.jpg',
    ]);
    expect([...found.labels]).toEqual([0, 1, 1, 1, 1, 2, 3]);
    expect([found.kind, found.ignored]).toEqual(['pictures', 2]);
  });

  test('a folder that holds train stands for it; links are followed', async () => {
    const root = tree('train/a/1.png', 'validation/a/2.png');
    symlinkSync(join(root, 'validation', 'a'), join(root, 'train', 'linked'));
    const found = await listClassFolders(root);
    expect(found.root).toBe(join(root, 'train'));
    expect(found.classes).toEqual(['a', 'linked']);
    expect(found.files).toEqual([join(root, 'train/a/1.png'), join(root, 'train/linked/2.png')]);
  });

  test('a class may be called train', async () => {
    expect((await listClassFolders(tree('train/1.png', 'bus/1.png'))).classes).toEqual(['bus', 'train']);
  });

  test('cached latents', async () => {
    expect((await listClassFolders(tree('a/1.npz', 'b/1.npz'))).kind).toBe('latents');
  });
});

describe('nothing to train on', () => {
  test.each([
    [[], /is empty; put the files of each class into a folder of its own/],
    [['1.png', '2.png'], /has files but no class folders; put/],
    [['a/1.png', 'b/notes.txt'], /b: a class folder without a file \(\.jpg, .*\.npz\); remove it/],
    [['a/1.png', 'b/1.npz'], /holds both pictures \(.*1\.png\) and cached latents \(.*1\.npz\)/],
  ])('%s', async (files, message) => {
    const root = tree(...(files as string[]));
    await expect(listClassFolders(root)).rejects.toMatchObject({
      code: 'file',
      message: expect.stringMatching(message),
    });
  });

  test('absent, or a file', async () => {
    await expect(listClassFolders(join(folder, 'absent'))).rejects.toThrow(/absent: no such file/);
    const root = tree('file.png');
    await expect(listClassFolders(join(root, 'file.png'))).rejects.toThrow(/file\.png: is not a folder/);
  });

  test('a link to a folder above ends', async () => {
    const root = tree('a/1.png');
    symlinkSync(root, join(root, 'a', 'loop'));
    await expect(listClassFolders(root)).rejects.toThrow(/nested too deep/);
  });
});
