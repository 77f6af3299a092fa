/** Commands that use a tokenizer: sample --vae, encode, decode, reconstruct; names of repositories. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { readImage, toBytes } from '../../src/formats/images.ts';
import { openSafetensors } from '../../src/formats/safetensors.ts';
import { saveModel } from '../../src/models/checkpoint.ts';
import { loadTokenizer } from '../../src/models/tokenizer.ts';
import { emigm } from '../helpers/cli.ts';
import { serveHub } from '../helpers/hub_server.ts';
import { toyKl16, writeToyKl16 } from '../helpers/tokenizer.ts';
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
