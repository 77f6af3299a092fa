/** Commands that use a tokenizer: sample --vae, encode, decode, reconstruct; names of repositories. */
import { spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { psnr } from '../../src/cli/reconstruct.ts';
import { centerCrop, readImage, toBytes, toFloats, writePng } from '../../src/formats/images.ts';
import { readNpz, writeNpy } from '../../src/formats/npz.ts';
import { openSafetensors } from '../../src/formats/safetensors.ts';
import { saveModel } from '../../src/models/checkpoint.ts';
import { dcAeShapes } from '../../src/models/dc_ae/config.ts';
import { mirrored } from '../../src/models/encode_folder.ts';
import { loadTokenizer, type Tokenizer } from '../../src/models/tokenizer.ts';
import { openTrainingData } from '../../src/training/data/open.ts';
import { emigm } from '../helpers/cli.ts';
import { pictureSet } from '../helpers/data_sets.ts';
import { serveHub } from '../helpers/hub_server.ts';
import { random } from '../helpers/numbers.ts';
import { toyDcAe, toyKl16, writeToyDcAe, writeToyKl16 } from '../helpers/tokenizer.ts';
import { toyConfig, toySource } from '../helpers/toy.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-tokenizers-'));
const at = (name: string) => join(folder, name);
const model = at('latent.safetensors');
const vae = at('vae.safetensors');
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeAll(async () => {
  const config = { ...toyConfig, vaeStride: 2, imageSize: 16 };
  const read = async (name: string) => new Float32Array(await toySource(config).read(name));
  await saveModel(model, {
    config,
    info: { sampling: { steps: 2, headSteps: 2, cfg: 2 } },
    read,
  });
  await writeToyKl16(vae);
});

describe('sample --vae', () => {
  const draw = (...argv: string[]) => emigm(['sample', '-m', model, '-c', '0,2', '-n', '2', '-b', '3', ...argv]);

  it('decodes what sampling without it writes, whatever goes at once, and says so in sample.json', async () => {
    const plain = await draw('-o', at('a'));
    expect(plain.code, plain.err).toBe(0);
    const result = await draw('-o', at('b'), '--vae', vae, '--save-steps');
    expect(result.code, result.err).toBe(0);
    const pictures = ['0-0000.png', '0-0001.png', '2-0000.png', '2-0001.png'];
    expect(readdirSync(at('b')).sort()).toEqual([...pictures, 'reveal.gif', 'sample.json', 'sheet.png'].sort());
    const sidecar = JSON.parse(readFileSync(at('b/sample.json'), 'utf8'));
    expect(sidecar.vae).toEqual({ file: vae, kind: 'KL-16', scale: 0.2325 });
    expect(sidecar.seconds.parts.decode).toBeGreaterThan(0);
    expect(sidecar.seconds.total).toBeGreaterThan(sidecar.seconds.parts.decode);

    const file = await openSafetensors(at('a/latents.safetensors'));
    const latents = await file.readFloat32('latents');
    await file.close();
    const tokenizer = await loadTokenizer(vae, { batch: 1 });
    let i = 0;
    for await (const image of tokenizer.decode(latents, { height: 8, width: 8 })) {
      const expected = toBytes(image, 16, 16);
      expect(Buffer.from((await readImage(at(`b/${pictures[i++]}`))).rgb).equals(expected.rgb)).toBe(true);
    }
    expect(i).toBe(4);
    tokenizer.dispose();
  });

  it('refuses what does not fit together', async () => {
    await writeToyKl16(at('other.safetensors'), { ...toyKl16, multipliers: [1, 1, 2], attention: [2] });
    const other = await draw('-o', at('x'), '--vae', at('other.safetensors'));
    expect(other.code).toBe(1);
    expect(other.err).toMatch(/3 channels for 4 x 4 pixels; the model needs latents of 3 channels for 2 x 2/);
    const none = await draw('-o', at('x'), '--vae', at('none.ckpt'));
    expect(none.err).toMatch(/none\.ckpt: no such file/);
    const steps = await draw('-o', at('x'), '--save-steps');
    expect(steps.err).toMatch(/name a tokenizer: --vae/);
    expect(existsSync(at('x/sample.json'))).toBe(false);
  });

  it('takes names of repositories from the cache, and downloads only when told to', async () => {
    const hub = await serveHub('someone/kl16', {
      'kl16.safetensors': readFileSync(vae),
      'config.json': Buffer.from('{}'),
    });
    vi.stubEnv('HF_ENDPOINT', hub.url);
    vi.stubEnv('HF_HUB_CACHE', at('hub'));
    try {
      const argv = ['-o', at('c'), '--vae', 'someone/kl16'];
      const refused = await draw(...argv);
      expect(refused.code).toBe(1);
      expect(refused.err).toMatch(/--vae someone\/kl16: .* run: emigm pull someone\/kl16 {2}or add --pull/);
      expect(hub.requests).toEqual([]);
      const pulled = await emigm(['pull', 'someone/kl16']);
      expect(pulled.code, pulled.err).toBe(0);
      const [weights, config] = pulled.out.split('\n');
      expect(readFileSync(weights).equals(readFileSync(vae))).toBe(true);
      expect(readFileSync(config, 'utf8')).toBe('{}');
      const count = hub.requests.length;
      const drawn = await draw(...argv);
      expect(drawn.code, drawn.err).toBe(0);
      expect(hub.requests).toHaveLength(count);
      expect(readFileSync(at('c/0-0000.png')).equals(readFileSync(at('b/0-0000.png')))).toBe(true);
      vi.stubEnv('HF_HUB_CACHE', at('hub2'));
      const both = await draw(...argv, '--pull');
      expect(both.code, both.err).toBe(0);
      expect((await emigm(['pull', 'someone/kl16', '--file', 'x.ckpt'])).err).toMatch(/no file x\.ckpt; it has: kl16/);
      expect((await emigm(['pull', 'kl16'])).err).toMatch(/kl16 is no repository/);
    } finally {
      vi.unstubAllEnvs();
      await hub.close();
    }
  });
});

const moments = { height: 4, width: 4 };

/** Runs on a tokenizer of its own. */
async function withTokenizer<T>(path: string, run: (tokenizer: Tokenizer) => Promise<T>): Promise<T> {
  const tokenizer = await loadTokenizer(path);
  try {
    return await run(tokenizer);
  } finally {
    tokenizer.dispose();
  }
}

describe('encode', () => {
  let pictures: string[];
  beforeAll(async () => {
    pictures = await pictureSet(at('photos'), { hat: 3, shoes: 4 }, random());
  });
  const encode = (out: string, ...argv: string[]) =>
    emigm(['encode', '--data', at('photos'), '--out', at(out), '--vae', vae, '--size', '8', ...argv]);
  const cached = (out: string) => [
    ...[0, 1, 2].map((i) => at(`${out}/hat/00${i}.png.npz`)),
    ...[0, 1, 2, 3].map((i) => at(`${out}/shoes/00${i}.png.npz`)),
  ];

  it('writes what the encoder makes of each picture and its mirror image, in files and as a shard', async () => {
    const result = await encode('latents', '--pack', at('latents.safetensors'), '--vae-batch', '4');
    expect(result.code, result.err).toBe(0);
    expect(result.out).toMatch(/7 pictures of 2 classes encoded; 6 x 4 x 4 of KL-16, [\d.]+ s each/);
    const shard = await openSafetensors(at('latents.safetensors'));
    const [stored, flipped] = [await shard.readFloat32('moments'), await shard.readFloat32('moments_flip')];
    await shard.close();
    await withTokenizer(vae, async (tokenizer) => {
      for (const [i, path] of cached('latents').entries()) {
        const arrays = await readNpz(path);
        expect([...arrays.keys()].sort()).toEqual(['moments', 'moments_flip']);
        const picture = centerCrop(await readImage(pictures[i]), 8);
        for (const [name, image, packed] of [
          ['moments', picture, stored],
          ['moments_flip', mirrored(picture), flipped],
        ] as const) {
          const { dtype, shape, data } = arrays.get(name)!;
          expect([dtype, shape]).toEqual(['F32', [6, 4, 4]]);
          expect(data).toEqual(await tokenizer.encode(toFloats(image), { height: 8, width: 8 }));
          expect(packed.subarray(i * 96, (i + 1) * 96)).toEqual(data);
        }
      }
    });
    // And training reads it.
    const options = { batch: 2, seed: 1, channels: 3, size: 4 };
    for (const path of [at('latents'), at('latents.safetensors')]) {
      const data = await openTrainingData(path, options);
      expect([data.size, data.classes, data.scale]).toEqual([7, ['hat', 'shoes'], 0.2325]);
      expect((await data.batch(0)).images).toHaveLength(2 * 48);
      await data.close();
    }
  });

  it('encodes nothing twice, and does not mix tokenizers or sizes', async () => {
    const before = cached('latents').map((path) => statSync(path).mtimeMs);
    rmSync(cached('latents')[2]);
    const again = await encode('latents');
    expect(again.out).toMatch(/1 pictures of 2 classes encoded, 6 were there/);
    for (const [i, path] of cached('latents').entries()) {
      if (i !== 2) expect(statSync(path).mtimeMs).toBe(before[i]);
    }
    expect((await encode('latents')).out).toMatch(/0 pictures of 2 classes encoded, 7 were there/);
    const size = await emigm(['encode', '-d', at('photos'), '-o', at('latents'), '--vae', vae, '--size', '16']);
    expect(size.err).toMatch(/another tokenizer or size.*name another folder/);
    await writeToyKl16(at('gain.safetensors'), toyKl16, 1.1);
    const other = await encode('latents', '--vae', at('gain.safetensors'));
    expect(other.err).toMatch(/another tokenizer or size/);
  });

  it('that is killed leaves whole files only, and goes on to the same bytes', { timeout: 240_000 }, async () => {
    await pictureSet(at('many'), { a: 60 }, random());
    const argv = [
      'encode',
      '--data',
      at('many'),
      '--out',
      at('killed'),
      '--vae',
      vae,
      '--size',
      '8',
      '--vae-batch',
      '2',
    ];
    const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
    const files = () => (existsSync(at('killed/a')) ? readdirSync(at('killed/a')) : []);
    const whole = () => files().filter((name) => name.endsWith('.npz')).length;
    let kept = 0;
    for (let kills = 0; kills < 2; kills++) {
      const child = spawn(process.execPath, ['--import', 'tsx', main, ...argv], { stdio: 'ignore' });
      const ended = new Promise((resolve) => child.once('exit', resolve));
      while (whole() < kept + 3 && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 2));
      child.kill('SIGKILL');
      await ended;
      kept = whole();
      expect(kept).toBeGreaterThanOrEqual(3 * (kills + 1));
      expect(kept).toBeLessThan(60);
      for (const name of files().filter((one) => one.endsWith('.npz'))) {
        expect((await readNpz(at(`killed/a/${name}`))).size).toBe(2);
      }
    }
    // As a process that is gone leaves it.
    writeFileSync(at('killed/a/059.png.npz.999999999-0123abcd.tmp'), 'half');
    const resumed = await emigm(argv);
    expect(resumed.code, resumed.err).toBe(0);
    expect(resumed.out).toContain(`${60 - kept} pictures of 1 classes encoded, ${kept} were there`);
    expect(files()).toHaveLength(60);
    const straight = await emigm(argv.map((one) => (one === at('killed') ? at('straight') : one)));
    expect(straight.code, straight.err).toBe(0);
    for (const name of files()) {
      expect(readFileSync(at(`killed/a/${name}`)).equals(readFileSync(at(`straight/a/${name}`))), name).toBe(true);
    }
  });

  it('shards write the files of one run, and leave alone what others are writing', async () => {
    const [one, half] = [
      'half/hat/001.png.npz.999999999-0123abcd.tmp',
      'half/shoes/001.png.npz.999999999-0123abcd.tmp',
    ];
    for (const index of [1, 0]) {
      if (index === 0) {
        mkdirSync(at('half/hat'), { recursive: true });
        for (const name of [one, half]) writeFileSync(at(name), 'half');
      }
      const result = await encode('half', '--shard', `${index}/2`);
      expect(result.code, result.err).toBe(0);
      expect(result.out).toContain(`half: shard ${index} of 2: ${index === 0 ? 3 : 4} pictures of 2 classes encoded;`);
    }
    // What the first shard left is its own to remove; a process elsewhere may be writing the other.
    expect([existsSync(at(one)), existsSync(at(half))]).toEqual([false, true]);
    for (const [i, path] of cached('half').entries()) {
      expect(readFileSync(path).equals(readFileSync(cached('latents')[i])), path).toBe(true);
    }
    const early = await encode('half', '--shard', '0/2', '--pack', at('half.safetensors'));
    expect([early.code, early.err]).toEqual([1, expect.stringMatching(/--pack needs all pictures: .*--shard 0\/1/)]);
    const whole = await encode('half', '--shard', '0/1', '--pack', at('half.safetensors'));
    expect(whole.out).toMatch(/half: 0 pictures of 2 classes encoded, 7 were there/);
    expect(readFileSync(at('half.safetensors')).equals(readFileSync(at('latents.safetensors')))).toBe(true);
  });

  it('leaves out what cannot be read only when told to', async () => {
    await pictureSet(at('broken'), { a: 2 }, random());
    writeFileSync(at('broken/a/001.png'), 'no picture');
    const argv = ['encode', '--data', at('broken'), '--out', at('partly'), '--vae', vae, '--size', '8'];
    const failed = await emigm(argv);
    expect(failed.code).toBe(1);
    expect(failed.err).toMatch(/001\.png: not a picture/);
    const result = await emigm([...argv, '--skip-unreadable']);
    expect(result.code, result.err).toBe(0);
    expect(result.err).toMatch(/skipped: .*001\.png/);
    expect(readdirSync(at('partly/a'))).toEqual(['000.png.npz']);
    const size = await emigm(['encode', '-d', at('broken'), '-o', at('y'), '--vae', vae, '--size', '9']);
    expect(size.err).toMatch(/multiples of 2, not 9 x 9/);
  });

  it('caches latents of a tokenizer without a posterior', async () => {
    const dcAe = await writeToyDcAe(at('dc_ae.safetensors'));
    const shard = at('dc_ae_latents.safetensors');
    const argv = ['-d', at('photos'), '-o', at('dc_ae'), '--vae', dcAe, '--size', '16', '--pack', shard];
    const result = await emigm(['encode', ...argv]);
    expect(result.code, result.err).toBe(0);
    for (const path of [at('dc_ae'), shard]) {
      const data = await openTrainingData(path, { batch: 2, seed: 1, channels: 4, size: 4 });
      expect([data.size, data.scale]).toEqual([7, 0.3189]);
      await data.close();
    }
    const back = await emigm(['decode', shard, '--vae', dcAe, '-o', at('dc_ae_back')]);
    expect(back.code, back.err).toBe(0);
    expect(readdirSync(at('dc_ae_back'))).toHaveLength(7);
  });
});

describe('decode', () => {
  const decode = (...argv: string[]) => emigm(['decode', '--vae', vae, ...argv]);

  it('takes cached moments, shards and drawn latents alike', async () => {
    const npz = at('latents/hat/001.png.npz');
    const mean = ((await readNpz(npz)).get('moments')!.data as Float32Array<ArrayBuffer>).slice(0, 48);
    const expected = await withTokenizer(vae, async (tokenizer) => {
      const { value } = await tokenizer.decode(mean, moments, { scale: 1 }).next();
      return Buffer.from(toBytes(value!, 8, 8).rgb);
    });
    await writeNpy(at('scaled.npy'), { dtype: 'F32', shape: [1, 3, 4, 4], data: mean.map((x) => x * 0.5) });
    const from = [npz, at('latents/shoes/001.png.npz'), at('scaled.npy')];
    const result = await decode(...from.slice(0, 2), '-o', at('pictures'));
    expect(result.code, result.err).toBe(0);
    expect(result.out).toMatch(/2 pictures, [\d.]+ s each/);
    expect(readdirSync(at('pictures')).sort()).toEqual(['001-2.png', '001.png']);
    expect((await readImage(at('pictures/001.png'))).rgb).toEqual(new Uint8Array(expected));
    await decode(at('latents.safetensors'), '-o', at('of_shard'), '-n', '2');
    expect(readdirSync(at('of_shard')).sort()).toEqual(['latents-0000.png', 'latents-0001.png']);
    expect((await readImage(at('of_shard/latents-0001.png'))).rgb).toEqual(new Uint8Array(expected));
    await decode(from[2], '--scale', '0.5', '-o', at('of_array'));
    const { rgb } = await readImage(at('of_array/scaled.png'));
    for (const [i, value] of rgb.entries()) expect(Math.abs(value - expected[i])).toBeLessThanOrEqual(1);
    // What sampling wrote is scaled by the tokenizer's factor.
    await decode(at('a/latents.safetensors'), '-o', at('of_sample'));
    expect(readFileSync(at('of_sample/latents-0000.png')).equals(readFileSync(at('b/0-0000.png')))).toBe(true);
  });

  it('says what is wrong', async () => {
    expect((await decode(at('none.npz'))).err).toMatch(/none\.npz: no such file/);
    expect((await decode(vae)).err).toMatch(/holds no latents/);
    await writeNpy(at('flat.npy'), { dtype: 'F32', shape: [4], data: new Float32Array(4) });
    expect((await decode(at('flat.npy'))).err).toMatch(/shape \[4\], not \[n, channels/);
    await writeNpy(at('five.npy'), { dtype: 'F32', shape: [5, 2, 2], data: new Float32Array(20) });
    expect((await decode(at('five.npy'))).err).toMatch(/5 channels, but KL-16 has 3 \(moments: 6\)/);
    expect((await emigm(['decode', at('five.npy')])).err).toMatch(/--vae/);
  });
});

describe('inspect', () => {
  it('tells what a tokenizer holds', async () => {
    const shown = await emigm(['inspect', vae, '--tensors']);
    expect(shown.code, shown.err).toBe(0);
    expect(shown.out).toMatch(/vae\.safetensors, tokenizer KL-16, .* F32/);
    expect(shown.out).toMatch(
      /latents +3 channels, one for 2 x 2 pixels\nencoder gives +mean and log-variance, 6 channels/,
    );
    expect(shown.out).toMatch(/\ndecoder\.conv_in\.bias +F32 +\[64\] +64\n/);
    const path = await writeToyDcAe(at('inspected.safetensors'));
    const json = JSON.parse((await emigm(['inspect', path, '--json'])).out);
    const parameters = [...dcAeShapes(toyDcAe)].filter(([name]) => !/running_|num_batches/.test(name));
    expect(json).toMatchObject({
      kind: 'tokenizer DC-AE',
      tokenizer: { stride: 4, channels: 4, hasPosterior: false, scale: 0.3189 },
    });
    expect(json.tokenizer.parameters).toBe(
      parameters.reduce((sum, [, shape]) => sum + shape.reduce((a, b) => a * b, 1), 0),
    );
  });
});

describe('reconstruct', () => {
  it('writes the picture and its PSNR', async () => {
    const draw = random();
    const photo = { width: 13, height: 10, rgb: Uint8Array.from({ length: 390 }, () => draw.integer(0, 255)) };
    await writePng(at('photo.png'), photo);
    const out = at('again.png');
    const result = await emigm(['reconstruct', at('photo.png'), '--vae', vae, '-o', out]);
    expect(result.code, result.err).toBe(0);
    const again = await readImage(out);
    expect(again).toMatchObject({ width: 12, height: 10 });
    const cut = new Uint8Array(360);
    for (let y = 0; y < 10; y++) cut.set(photo.rgb.subarray(39 * y, 39 * y + 36), 36 * y);
    const value = psnr({ width: 12, height: 10, rgb: cut }, again);
    expect(result.out).toContain(`PSNR ${value.toFixed(2)} dB; 12 x 10 pixels as 3 x 5 x 6 of KL-16`);
    const drawn = await emigm(['reconstruct', at('photo.png'), '--vae', vae, '--size', '8', '--draw', '-o', out]);
    expect(drawn.code, drawn.err).toBe(0);
    expect(await readImage(out)).toMatchObject({ width: 8, height: 8 });
    expect((await emigm(['reconstruct', at('nothing.jpg'), '--vae', vae])).err).toMatch(/nothing\.jpg: no such file/);
  });

  it('PSNR is that of the definition', () => {
    const image = (values: number[]) => ({ width: 1, height: 1, rgb: Uint8Array.from(values) });
    expect(psnr(image([0, 0, 0]), image([255, 255, 255]))).toBeCloseTo(0);
    expect(psnr(image([10, 20, 30]), image([11, 21, 31]))).toBeCloseTo(48.1308, 3);
  });
});
