/** `emigm sample`: files, names, reproducibility, and one clear line for every bad input. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readImage } from '../../src/formats/images.ts';
import { openSafetensors } from '../../src/formats/safetensors.ts';
import { saveModel } from '../../src/models/checkpoint.ts';
import { emigm } from '../helpers/cli.ts';
import { toyConfig, toySource } from '../helpers/toy.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-sample-'));
const model = join(folder, 'toy.safetensors');
const latentModel = join(folder, 'latent.safetensors');
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeAll(async () => {
  const read = async (name: string) => new Float32Array(await toySource(toyConfig).read(name));
  const info = {
    name: 'toy',
    classNames: ['dress', 'hat', 't-shirt'],
    dataScale: 2,
    sampling: { steps: 3, headSteps: 3, cfg: 2 },
  };
  await saveModel(model, { config: toyConfig, info, read });
  const config = { ...toyConfig, vaeStride: 2, imageSize: 16 };
  await saveModel(latentModel, { config, info: {}, read });
});

const out = (name: string) => join(folder, name);
const draw = (...argv: string[]) => emigm(['sample', '--model', model, ...argv]);

describe('draws', () => {
  it('one PNG an image, a sheet, and a JSON file that reproduces them', async () => {
    const result = await draw('-c', 'hat,0', '-n', '2', '--seed', '7', '-o', out('a'), '--save-steps');
    expect(result.code, result.err).toBe(0);
    expect(result.out).toMatch(/sheet\.png/);
    expect(result.out).toMatch(/NFE \d+, [\d.]+ s an image/);
    const names = ['dress-0000.png', 'dress-0001.png', 'hat-0000.png', 'hat-0001.png'];
    expect(readdirSync(out('a')).sort()).toEqual([...names, 'reveal.gif', 'sample.json', 'sheet.png'].sort());
    expect(await readImage(join(out('a'), 'hat-0000.png'))).toMatchObject({ width: 8, height: 8 });
    const sidecar = JSON.parse(readFileSync(join(out('a'), 'sample.json'), 'utf8'));
    expect(sidecar.settings).toMatchObject({ seed: 7, steps: 3, headSteps: 3, cfg: 2, maskSchedule: 'exp' });
    expect(sidecar.images.map(({ file }: { file: string }) => file).sort()).toEqual(names);
    expect(sidecar.nfe).toBeGreaterThanOrEqual(3);
    for (const part of ['encoder', 'decoder', 'head', 'rest']) expect(sidecar.seconds.parts[part]).toBeGreaterThan(0);
    expect(sidecar.adapter).toBeTruthy();
    expect(sidecar.kernels).toEqual({ choice: 'the built-in table' });
    const { total, ...parts } = sidecar.seconds.firstImage as Record<string, number>;
    expect(Object.keys(parts)).toEqual(['modules', 'device', 'weights', 'kernels', 'drawing']);
    for (const seconds of Object.values(parts)) expect(seconds).toBeGreaterThan(0);
    expect(Object.values(parts).reduce((a, b) => a + b)).toBeCloseTo(total, 9);
    expect(total).toBeLessThan(performance.now() / 1000);
    expect(result.out.split('\n').at(-1)).toContain(`first image ${total.toFixed(2)} s after the start (modules `);
    // The same image, asked for alone and in another batch.
    const again = await draw('-c', '1', '-n', '1', '--first-index', '1', '--seed', '7', '-b', '1', '-o', out('b'));
    expect(again.code, again.err).toBe(0);
    expect(readFileSync(join(out('b'), 'hat-0001.png')).equals(readFileSync(join(out('a'), 'hat-0001.png')))).toBe(
      true,
    );
  });

  it('cheaper ones, whose JSON file says how', async () => {
    const savings = ['--head-steps-last', '1', '--share-early', '4', '--reuse-encoder', '2', '--cfg', '1'];
    const result = await draw('-c', '0', '-n', '1', '--sheet-only', ...savings, '-o', out('f'));
    expect(result.code, result.err).toBe(0);
    const sidecar = JSON.parse(readFileSync(join(out('f'), 'sample.json'), 'utf8'));
    expect(sidecar.settings).toMatchObject({ headSteps: 3, headStepsLast: 1, shareEarly: 4, reuseEncoder: 2 });
    // 16 tokens, of at least one head step and at most three.
    expect(sidecar.headEvaluations).toBeLessThan(16 * 3);
    expect(sidecar.headEvaluations).toBeGreaterThanOrEqual(16);
  });

  it('latents of a model that needs a tokenizer', async () => {
    const result = await emigm([
      'sample',
      '-m',
      latentModel,
      '-c',
      '0',
      '-n',
      '2',
      '--steps',
      '2',
      '--head-steps',
      '2',
      '-o',
      out('c'),
    ]);
    expect(result.code, result.err).toBe(0);
    const file = await openSafetensors(join(out('c'), 'latents.safetensors'));
    expect(file.tensors.get('latents')?.shape).toEqual([2, 3, 8, 8]);
    await file.close();
  });

  it.each([['matmul=reference'], ['matmul=tiled'], ['attention=flash']])(
    'with %s the same picture within a grey level or two',
    async (rung) => {
      await draw('-c', '0', '-n', '1', '-o', out('d'));
      await draw('-c', '0', '-n', '1', '--kernel', rung, '-o', out('e'));
      const [a, b] = await Promise.all(['d', 'e'].map((name) => readImage(join(out(name), 'dress-0000.png'))));
      for (const [i, value] of a.rgb.entries()) expect(Math.abs(value - b.rgb[i])).toBeLessThanOrEqual(2);
    },
  );
});

describe('bad input ends in one line and a non-zero exit', () => {
  const cases: [string, () => string[], number, RegExp][] = [
    ['missing file', () => ['-m', out('none.safetensors')], 1, /none\.safetensors/],
    ['not a model', () => ['-m', notAModel()], 1, /notes\.txt/],
    ['unknown class', () => ['-m', model, '-c', 'dres'], 1, /dres.*dress/],
    ['class number out of range', () => ['-m', model, '-c', '3'], 1, /3/],
    ['steps 0', () => ['-m', model, '--steps', '0'], 2, /steps.*positive/],
    ['interval reversed', () => ['-m', model, '--cfg-interval', '0.5,0.1'], 2, /reversed.*0\.1,0\.5/],
    ['unknown schedule', () => ['-m', model, '--mask-schedule', 'expo'], 1, /^emigm: --mask-schedule: .*expo/],
    ['unknown flag', () => ['-m', model, '--step', '4'], 2, /--step/],
    ['out is a file', () => ['-m', model, '-o', model], 1, /is a file/],
    ['no such adapter', () => ['-m', model, '--adapter', 'Voodoo2'], 1, /Voodoo2/],
    ['no such kernel', () => ['-m', model, '--kernel', 'matmul=magic'], 2, /matmul=default\|reference\|/],
    ['head steps that rise', () => ['-m', model, '--head-steps-last', '4'], 1, /--head-steps-last: 4 is more than 3/],
    ['head steps of a word', () => ['-m', model, '--head-steps=few'], 1, /^emigm: --head-steps: .* not few$/],
    [
      'respacing',
      () => ['-m', model, '--head-sampler', 'ddpm', '--head-steps', 'ddim7x'],
      1,
      /^emigm: --head-steps: respacing "ddim7x"/,
    ],
    ['order of codes', () => ['-m', model, '--order', 'confidence'], 1, /^emigm: --order: "confidence" needs/],
    ['preset of codes', () => ['-m', model, '--preset', 'maskgit'], 1, /^emigm: --preset maskgit: order "confidence"/],
    ['share above 1', () => ['-m', model, '--top-p', '3'], 1, /^emigm: --top-p: .* not 3$/],
    ['image numbers', () => ['-m', model, '--first-index', '4294967296'], 1, /^emigm: --first-index: /],
    ['a saving of nothing', () => ['-m', model, '--share-early', '0'], 2, /share-early.*positive/],
    ['reveal of latents', () => ['-m', latentModel, '--save-steps'], 1, /--vae/],
  ];
  it.each(cases)('%s', async (_, argv, code, message) => {
    const result = await emigm(['sample', '-n', '1', '-c', '0', '-o', out('bad'), ...argv()]);
    expect(result.code).toBe(code);
    expect(result.err).toMatch(/^emigm: [^\n]+$/);
    expect(result.err).toMatch(message);
  });

  function notAModel(): string {
    const path = out('notes.txt');
    writeFileSync(path, 'not a model, and longer than eight bytes');
    return path;
  }

  it('and leaves no image behind', () => {
    expect(existsSync(join(out('bad'), 'sheet.png'))).toBe(false);
  });
});
