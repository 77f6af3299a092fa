import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, describe, expect, test } from 'vitest';
import { EmigmError } from '../../src/errors.ts';
import {
  centerCrop,
  contactSheet,
  decodeImage,
  encodePng,
  enlarge,
  type RgbImage,
  readImage,
  toBytes,
  toFloats,
  writeGif,
  writePng,
} from '../../src/formats/images.ts';
import { describeGolden, random } from '../helpers/golden.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-images-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function picture(width: number, height: number, seed: number): RgbImage {
  const { integer } = random(seed);
  return { width, height, rgb: Uint8Array.from({ length: width * height * 3 }, () => integer(0, 255)) };
}

const pixel = ({ width, rgb }: RgbImage, x: number, y: number) => [...rgb.slice(3 * (y * width + x)).slice(0, 3)];

describeGolden('image_io', (golden) => {
  const cases = (suffix: string) => golden.names().filter((name) => name.endsWith(suffix));

  test.each(cases('.image').map((name) => name.slice(0, -'.image'.length)))('%s: crop and tensor, exact', (name) => {
    const [height, width] = golden.shape(`${name}.image`);
    const image = { width, height, rgb: golden.get(`${name}.image`) as Uint8Array };
    const cropped = centerCrop(image, golden.shape(`${name}.cropped`)[0]);
    expect([cropped.height, cropped.width, 3]).toEqual(golden.shape(`${name}.cropped`));
    expect(Buffer.from(cropped.rgb).equals(golden.get(`${name}.cropped`) as Uint8Array)).toBe(true);
    expect(toFloats(cropped)).toEqual(golden.f32(`${name}.tensor`));
  });

  test.each(cases('.decoded').map((name) => name.slice(0, -'.decoded'.length)))('%s: bytes, exact', (name) => {
    const [count, , height, width] = golden.shape(`${name}.decoded`);
    const floats = golden.f32(`${name}.decoded`);
    const each = 3 * height * width;
    for (let i = 0; i < count; i++) {
      const { rgb } = toBytes(floats.subarray(i * each, (i + 1) * each), width, height);
      expect([...rgb]).toEqual([...golden.get(`${name}.uint8`).slice(i * each, (i + 1) * each)]);
    }
  });
});

describe('bytes and floats', () => {
  test('every byte comes back', () => {
    const image = { width: 256, height: 1, rgb: Uint8Array.from({ length: 768 }, (_, i) => Math.floor(i / 3)) };
    const floats = toFloats(image);
    expect([floats[0], floats[255]]).toEqual([-1, 1]);
    expect(toBytes(floats, 256, 1)).toEqual(image);
  });

  test('ties go to even, the rest is clipped', () => {
    // (x + 1) / 2 * 255 = 0.5, 1.5, 2.5 exactly is not reachable in float32; 127.5 is, from 0
    const { rgb } = toBytes(new Float32Array([0, 2, -2]), 1, 1);
    expect([...rgb]).toEqual([128, 255, 0]);
  });

  test('sizes are checked', async () => {
    expect(() => toBytes(new Float32Array(4), 1, 1)).toThrow(EmigmError);
    await expect(encodePng(new Uint8Array(4), 1, 1)).rejects.toThrow(/4 bytes are no RGB image of 1 x 1/);
    expect(() => centerCrop(picture(4, 4, 1), 0)).toThrow(EmigmError);
  });
});

describe('files', () => {
  test('PNG is lossless, the same bytes each time, written whole or not at all', async () => {
    const image = picture(13, 7, 2);
    const path = join(folder, 'a.png');
    await writePng(path, image);
    expect(await readImage(path)).toEqual(image);
    expect(readFileSync(path).equals(await encodePng(image.rgb, 13, 7))).toBe(true);
    const before = readdirSync(folder);
    await expect(writePng(join(folder, 'no', 'a.png'), image)).rejects.toThrow(/could not be written: no such file/);
    await expect(writePng(join(folder, 'b.png'), { ...image, width: 14 })).rejects.toThrow(EmigmError);
    expect(readdirSync(folder)).toEqual(before);
  });

  test('JPEG, WebP, grey, transparent and palette pictures become RGB', async () => {
    const smooth = { width: 16, height: 8, rgb: Uint8Array.from({ length: 384 }, (_, i) => 100 + (i % 48)) };
    const source = () => sharp(smooth.rgb, { raw: { width: 16, height: 8, channels: 3 } });
    const lossy = { 'a.jpg': source().jpeg({ quality: 95 }), 'a.webp': source().webp({ quality: 95 }) };
    for (const [name, encoder] of Object.entries(lossy)) {
      await encoder.toFile(join(folder, name));
      const { width, height, rgb } = await readImage(join(folder, name));
      expect([width, height]).toEqual([16, 8]);
      expect(Math.max(...rgb.map((v, i) => Math.abs(v - smooth.rgb[i])))).toBeLessThan(24);
    }
    await sharp(Buffer.from([7, 200]), { raw: { width: 2, height: 1, channels: 1 } })
      .png()
      .toFile(join(folder, 'g.png'));
    expect([...(await readImage(join(folder, 'g.png'))).rgb]).toEqual([7, 7, 7, 200, 200, 200]);
    const rgba = Buffer.from([1, 2, 3, 0, 4, 5, 6, 128]);
    await sharp(rgba, { raw: { width: 2, height: 1, channels: 4 } })
      .png()
      .toFile(join(folder, 't.png'));
    expect([...(await readImage(join(folder, 't.png'))).rgb]).toEqual([1, 2, 3, 4, 5, 6]);
    await sharp(Buffer.from([255, 0, 0, 0, 0, 255]), { raw: { width: 2, height: 1, channels: 3 } })
      .png({ palette: true })
      .toFile(join(folder, 'p.png'));
    expect([...(await readImage(join(folder, 'p.png'))).rgb]).toEqual([255, 0, 0, 0, 0, 255]);
  });

  test('EXIF orientation is ignored unless asked for', async () => {
    const path = join(folder, 'turned.jpg');
    await sharp(picture(8, 4, 3).rgb, { raw: { width: 8, height: 4, channels: 3 } })
      .withMetadata({ orientation: 6 })
      .jpeg()
      .toFile(path);
    expect(await readImage(path)).toMatchObject({ width: 8, height: 4 });
    expect(await readImage(path, { orient: true })).toMatchObject({ width: 4, height: 8 });
  });

  test('animated GIF: frames, delays, endless', async () => {
    const path = join(folder, 'a.gif');
    const flat = (r: number, g: number, b: number) => ({
      width: 5,
      height: 3,
      rgb: Uint8Array.from({ length: 45 }, (_, i) => [r, g, b][i % 3]),
    });
    const frames = [flat(255, 0, 0), flat(0, 255, 0), flat(0, 255, 0), flat(0, 0, 255)];
    await writeGif(path, frames, [100, 50, 50, 1000]);
    const gif = sharp(path, { animated: true });
    expect(await gif.metadata()).toMatchObject({
      pages: 4,
      pageHeight: 3,
      width: 5,
      delay: [100, 50, 50, 1000],
      loop: 0,
    });
    const { data } = await gif.removeAlpha().raw().toBuffer({ resolveWithObject: true });
    expect([...data]).toEqual(frames.flatMap((frame) => [...frame.rgb]));
    await expect(writeGif(join(folder, 'b.gif'), [], 100)).rejects.toThrow(/at least one frame/);
    await expect(writeGif(join(folder, 'b.gif'), frames, [1])).rejects.toThrow(/4 frames but 1 delays/);
    await expect(writeGif(join(folder, 'b.gif'), [frames[0], picture(5, 4, 1)], 1)).rejects.toThrow(/5 x 3 and 5 x 4/);
    expect(existsSync(join(folder, 'b.gif'))).toBe(false);
  });

  test('missing, empty, truncated and foreign files end in EmigmError', async () => {
    await expect(readImage(join(folder, 'absent.png'))).rejects.toThrow(/absent.png: no such file/);
    await writePng(join(folder, 'whole.png'), picture(40, 40, 4));
    const whole = readFileSync(join(folder, 'whole.png'));
    const path = join(folder, 'bad.png');
    for (const bytes of [new Uint8Array(0), Buffer.from('hello'), whole.subarray(0, 30), whole.subarray(0, 2000)]) {
      writeFileSync(path, bytes);
      const failure = await readImage(path).catch((reason) => reason);
      expect(failure).toBeInstanceOf(EmigmError);
      expect(failure.message).toMatch(/bad.png: not a picture that can be read/);
      expect(failure.message).not.toContain('\n');
    }
  });
});

test('bytes of a picture flipped at random end in EmigmError or in a picture', async () => {
  const whole = await encodePng(picture(12, 12, 6).rgb, 12, 12);
  const { integer } = random();
  const until = performance.now() + 500;
  let refused = 0;
  while (performance.now() < until) {
    const damaged = whole.slice();
    for (let n = integer(1, 4); n > 0; n--)
      damaged[integer(0, integer(0, 1) ? 60 : whole.length - 1)] = integer(0, 255);
    await decodeImage(damaged, 'x.png').catch((reason) => {
      refused++;
      if (!(reason instanceof EmigmError)) throw reason;
    });
  }
  expect(refused).toBeGreaterThan(0);
});

describe('contact sheet', () => {
  const flat = (shade: number) => ({ width: 3, height: 2, rgb: new Uint8Array(18).fill(shade) });

  test('places images in rows, enlarged to squares, on white', () => {
    const sheet = contactSheet([flat(10), flat(20), flat(30)], 2, { gap: 1, scale: 2 });
    expect([sheet.width, sheet.height]).toEqual([1 + 2 * 7, 1 + 2 * 5]);
    const grey = (x: number, y: number) => pixel(sheet, x, y);
    expect([grey(0, 0), grey(1, 1), grey(6, 4), grey(7, 1)]).toEqual([255, 10, 10, 255].map((v) => [v, v, v]));
    expect([grey(8, 1), grey(1, 6), grey(8, 6)]).toEqual([20, 30, 255].map((v) => [v, v, v]));
  });

  test('enlargement repeats pixels', () => {
    const image = picture(3, 2, 5);
    const large = enlarge(image, 3);
    for (let y = 0; y < 6; y++) {
      for (let x = 0; x < 9; x++)
        expect(pixel(large, x, y)).toEqual(pixel(image, Math.floor(x / 3), Math.floor(y / 3)));
    }
  });

  test('labels stand beside their rows, each text another picture, without system fonts', () => {
    const images = [picture(16, 16, 1), picture(16, 16, 2)];
    const sheet = (labels: string[]) => contactSheet(images, 1, { scale: 4, labels });
    const a = sheet(['dress', 'hat']);
    const plain = contactSheet(images, 1, { scale: 4 });
    expect(a.height).toBe(plain.height);
    expect(a.width).toBeGreaterThan(plain.width);
    const darkRows = (row: number) => {
      let dark = 0;
      for (let y = 0; y < 64; y++) {
        for (let x = 0; x < a.width - plain.width; x++) if (pixel(a, x, 4 + row * 68 + y)[0] < 100) dark++;
      }
      return dark;
    };
    expect(darkRows(0)).toBeGreaterThan(darkRows(1));
    expect(darkRows(1)).toBeGreaterThan(0);
    expect(sheet(['dress', 'cat']).rgb).not.toEqual(a.rgb);
    expect(sheet(['é✓']).width).toBeGreaterThan(plain.width);
  });

  test('bad requests', () => {
    expect(() => contactSheet([], 2)).toThrow(EmigmError);
    expect(() => contactSheet([flat(1)], 0)).toThrow(EmigmError);
    expect(() => contactSheet([flat(1)], 1, { scale: 1.5 })).toThrow(EmigmError);
    expect(() => contactSheet([flat(1), picture(4, 4, 1)], 1)).toThrow(/3 x 2 and 4 x 4/);
  });
});
