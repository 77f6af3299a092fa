/** `emigm train-classifier` and `emigm classify`: learns colours, is measured, judges folders and samples. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writePng } from '../../src/formats/images.ts';
import { emigm } from '../helpers/cli.ts';
import { random } from '../helpers/golden.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-classify-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);
const COLOURS: Record<string, number[]> = { blue: [30, 40, 220], green: [30, 200, 50], red: [220, 40, 30] };

/** Noisy pictures of one colour. */
async function pictures(root: string, count: number): Promise<void> {
  const draw = random();
  for (const [name, colour] of Object.entries(COLOURS)) {
    mkdirSync(join(root, name), { recursive: true });
    for (let i = 0; i < count; i++) {
      const rgb = Uint8Array.from({ length: 3 * 256 }, (_, k) => colour[k % 3] + draw.integer(-30, 30));
      await writePng(join(root, name, `${i}.png`), { rgb, width: 16, height: 16 });
    }
  }
}

const small = ['--image-size', '16', '--stem', '8', '--width', '16', '--depth', '1', '--heads', '2', '--batch', '8'];

beforeAll(async () => {
  await pictures(at('train'), 8);
  await pictures(at('test'), 4);
  const argv = [
    'train-classifier',
    '--data',
    at('train'),
    '--test',
    at('test'),
    '--out',
    at('c.safetensors'),
    ...small,
  ];
  const result = await emigm([...argv, '--steps', '40', '--learning-rate', '5e-3', '--ema-decay', '0.8']);
  expect(result.code, result.err).toBe(0);
  expect(result.out).toMatch(/right on [\d.]+ %.* of 12 photographs/);
}, 300_000);

describe('a trained classifier', () => {
  it('is told by emigm inspect', async () => {
    const { out, err, code } = await emigm(['inspect', at('c.safetensors')]);
    expect(code, err).toBe(0);
    expect(out).toMatch(/c\.safetensors, classifier, [\s\S]*classes +3: blue, green, red[\s\S]*% of 12 photographs/);
    const { out: json } = await emigm(['inspect', at('c.safetensors'), '--json', '--tensors']);
    expect(JSON.parse(json)).toMatchObject({ kind: 'classifier', config: { imageSize: 16, width: 16 } });
  });

  it('tells the colours of pictures that it has not seen', async () => {
    const result = await emigm(['classify', '-m', at('c.safetensors'), '--data', at('test'), '--json']);
    expect(result.code, result.err).toBe(0);
    const text = await emigm(['classify', '-m', at('c.safetensors'), '--data', at('test')]);
    expect(Number(/^([\d.]+) %/m.exec(text.out.split('\n').at(-1)!)?.[1])).toBeGreaterThan(90);
    expect(JSON.parse(result.out)).toBeTypeOf('object');
    const one = await emigm(['classify', '-m', at('c.safetensors'), join(at('test'), 'red', '0.png')]);
    expect(one.out).toMatch(/red/);
  });

  it('that is trained again is the same file', async () => {
    for (const name of ['a', 'b']) {
      const argv = ['train-classifier', '--data', at('train'), '--out', at(`${name}.safetensors`), ...small];
      expect((await emigm([...argv, '--steps', '3', '--seed', '5', '-q'])).code).toBe(0);
    }
    expect(readFileSync(at('b.safetensors')).equals(readFileSync(at('a.safetensors')))).toBe(true);
  });
});

describe('one clear line for', () => {
  it.each([
    ['a folder of other classes', ['--data', 'other'], /circle/],
    ['an absent file', ['-m', 'absent.safetensors', '--data', 'test'], /absent\.safetensors: no such file/],
    ['a file that is no classifier', ['-m', 'text.safetensors', '--data', 'test'], /text\.safetensors/],
  ])('%s', async (_, argv, message) => {
    mkdirSync(at('other/circle'), { recursive: true });
    await writePng(at('other/circle/0.png'), { rgb: new Uint8Array(3 * 256), width: 16, height: 16 });
    writeFileSync(at('text.safetensors'), 'no tensors');
    const model = argv.includes('-m') ? [] : ['-m', at('c.safetensors')];
    const result = await emigm(['classify', ...model, ...argv.map((word) => (word.startsWith('-') ? word : at(word)))]);
    expect(result.code).toBe(1);
    expect(result.err.split('\n')).toHaveLength(1);
    expect(result.err).toMatch(message);
  });
});
