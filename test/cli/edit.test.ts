/** `emigm edit`: files, bytes that stay, names of classes, latent models, and one line for bad input. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { centerCrop, readImage, writePng } from '../../src/formats/images.ts';
import { saveModel } from '../../src/models/checkpoint.ts';
import { emigm } from '../helpers/cli.ts';
import { random } from '../helpers/numbers.ts';
import { writeToyKl16 } from '../helpers/tokenizer.ts';
import { toyConfig, toySource } from '../helpers/toy.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-edit-cli-'));
const at = (name: string) => join(folder, name);
const [width, height] = [20, 16];
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeAll(async () => {
  const draw = random();
  const bytes = (value: (x: number, y: number) => number) =>
    Uint8Array.from({ length: 3 * width * height }, (_, i) => {
      const pixel = Math.floor(i / 3);
      return value(pixel % width, Math.floor(pixel / width));
    });
  await writePng(at('photo.png'), { width, height, rgb: bytes(() => draw.integer(0, 255)) });
  // The crop takes columns 2 to 18; its lower right quarter is bright.
  await writePng(at('mask.png'), { width, height, rgb: bytes((x, y) => (x >= 14 && y >= 12 ? 255 : 0)) });
  await writePng(at('black.png'), { width, height, rgb: bytes(() => 0) });
  const save = (name: string, config: typeof toyConfig) => {
    const read = async (tensor: string) => new Float32Array(await toySource(config).read(tensor));
    const info = { classNames: ['dress', 'hat', 't-shirt'], sampling: { steps: 2, headSteps: 2, cfg: 2 } };
    return saveModel(at(name), { config, info, read });
  };
  await save('pixels.safetensors', { ...toyConfig, imageSize: 16, patchSize: 4 });
  await save('latents.safetensors', { ...toyConfig, imageSize: 16, vaeStride: 2 });
  await writeToyKl16(at('vae.safetensors'));
});

const edit = (model: string, ...argv: string[]) =>
  emigm(['edit', '-i', at('photo.png'), '--mask', at('mask.png'), '-m', at(model), ...argv]);

describe.each([
  ['pixels.safetensors', []],
  ['latents.safetensors', ['--vae', at('vae.safetensors')]],
])('edit with %s', (model, argv) => {
  it('writes variants that agree with the picture outside of the region to the byte', async () => {
    const out = at(`out-${model}`);
    const result = await edit(model, ...argv, '-c', 'hat', '-n', '2', '--seed', '3', '--save-steps', '-o', out);
    expect(result.code, result.err).toBe(0);
    // Of 4 x 4 tokens the last one, and the three that touch it.
    expect(result.out).toMatch(/sheet\.png \(2 variants; 4 of 16 tokens drawn anew, [\d.]+ s each\)/);
    const files = ['edit-0000.png', 'edit-0001.png', 'edit.json', 'reveal.gif', 'sheet.png'];
    expect(readdirSync(out).sort()).toEqual(files);
    const original = centerCrop(await readImage(at('photo.png')), 16);
    const variants = await Promise.all(files.slice(0, 2).map((file) => readImage(join(out, file))));
    for (const { rgb } of variants) {
      let changed = 0;
      for (const [i, byte] of rgb.entries()) {
        const [x, y] = [Math.floor(i / 3) % 16, Math.floor(i / 48)];
        if (x < 8 || y < 8) expect(byte).toBe(original.rgb[i]);
        else if (byte !== original.rgb[i]) changed++;
      }
      expect(changed).toBeGreaterThan(0);
    }
    const about = JSON.parse(readFileSync(join(out, 'edit.json'), 'utf8'));
    expect(about).toMatchObject({ class: 'hat', dilate: 1, tokens: { drawn: 4, all: 16 }, settings: { seed: 3 } });
    expect(about.vae?.kind).toBe(argv.length > 0 ? 'KL-16' : undefined);
    expect(about.seconds.total).toBeGreaterThan(0);
    // Without the token around it only the last one.
    const alone = await edit(model, ...argv, '--dilate', '0', '-o', at(`alone-${model}`));
    expect(alone.out).toMatch(/1 of 16 tokens/);
  });
});

describe('one line for', () => {
  const cases: [string, string[], number, RegExp][] = [
    ['no bright pixel', ['--mask', at('black.png')], 1, /no bright pixel/],
    ['a mask of another size', ['--mask', at('small.png')], 1, /4 x 4 pixels, the picture 20 x 16/],
    ['an absent mask', ['--mask', at('none.png')], 1, /none\.png: no such file/],
    ['an unknown class', ['-c', 'sofa'], 1, /class "sofa" is unknown/],
    ['several classes', ['-c', 'hat,dress'], 1, /name one class/],
    ['latents without a tokenizer', ['-m', at('latents.safetensors')], 1, /name its tokenizer: --vae/],
    ['pixels with a tokenizer', ['--vae', at('vae.safetensors')], 1, /needs no tokenizer/],
    ['a negative number', ['--dilate', '-1'], 2, /--dilate/],
  ];
  it.each(cases)('%s', async (_, argv, code, message) => {
    await writePng(at('small.png'), { width: 4, height: 4, rgb: new Uint8Array(48).fill(255) });
    const result = await edit('pixels.safetensors', ...argv, '-o', at('x'));
    expect(result.code).toBe(code);
    expect(result.err).toMatch(/^emigm: [^\n]+$/);
    expect(result.err).toMatch(message);
    expect(readdirSync(folder).includes('x') ? readdirSync(at('x')) : []).toEqual([]);
  });
});
