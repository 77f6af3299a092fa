/** Downloads from a local server that speaks the same API: cache layout, resumption, checksums, errors. */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { cachedFiles, chooseFile, download, listRepo, parseHubName } from '../../src/formats/hub.ts';
import { type HubServer, gitId, serveHub, sha256 } from '../helpers/hub_server.ts';
import { random } from '../helpers/numbers.ts';

const repo = 'GSAI-ML/eMIGM';
const bytes = (count: number) => {
  const draw = random();
  return Uint8Array.from({ length: count }, () => draw.integer(0, 255));
};
const files = {
  'README.md': Buffer.from('# eMIGM'),
  'config.json': Buffer.from('{}'),
  'b/emigm.pth': bytes(300_000),
};

let cache: string;
let hub: HubServer;
beforeEach(async () => {
  cache = mkdtempSync(join(tmpdir(), 'emigm-hub-'));
  hub = await serveHub(repo, files);
  vi.stubEnv('HF_ENDPOINT', `${hub.url}/`);
  vi.stubEnv('HF_HOME', cache);
  vi.stubEnv('HF_HUB_CACHE', undefined);
  vi.stubEnv('HF_TOKEN', undefined);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await hub.close();
  rmSync(cache, { recursive: true, force: true });
});

const folder = () => join(cache, 'hub', 'models--GSAI-ML--eMIGM');
const weights = 'b/emigm.pth';
const blob = () => join(folder(), 'blobs', sha256(files[weights]));
async function pull(path: string, options = {}) {
  const listing = await listRepo(repo);
  return download(listing, listing.files.find((file) => file.path === path)!, { wait: 1, ...options });
}

describe('download', () => {
  it('fills the standard cache: blobs by checksum, snapshots of links, the branch', async () => {
    const path = await pull(weights);
    expect(path).toBe(join(folder(), 'snapshots', hub.commit, weights));
    expect(lstatSync(path).isSymbolicLink()).toBe(true);
    expect(readFileSync(path).equals(files[weights])).toBe(true);
    expect(readdirSync(join(folder(), 'blobs'))).toEqual([sha256(files[weights])]);
    expect(readFileSync(join(folder(), 'refs', 'main'), 'utf8')).toBe(hub.commit);
    await pull('config.json');
    expect(existsSync(join(folder(), 'blobs', gitId(files['config.json'])))).toBe(true);
    expect([...(await cachedFiles(repo)).keys()].sort()).toEqual([weights, 'config.json']);
    expect([...(await cachedFiles(repo, hub.commit)).keys()]).toHaveLength(2);
    // A second time nothing is fetched.
    const before = hub.requests.length;
    await pull(weights);
    expect(hub.requests.slice(before).filter((request) => /resolve|storage/.test(request))).toEqual([]);
  });

  it('goes on over connections that break, without fetching a byte twice', async () => {
    hub.cut = { after: 70_000, times: 3 };
    const seen: number[] = [];
    const path = await pull(weights, { onProgress: (done: number) => seen.push(done) });
    expect(readFileSync(path).equals(files[weights])).toBe(true);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    const ranges = hub.requests.filter((request) => /storage/.test(request) && !/0-0$/.test(request));
    expect(ranges).toHaveLength(4);
    for (const request of ranges.slice(1)) expect(request).toMatch(/bytes=[1-9]\d*-299999$/);
  });

  it('goes on with what an earlier process left', async () => {
    mkdirSync(dirname(blob()), { recursive: true });
    writeFileSync(`${blob()}.incomplete`, files[weights].subarray(0, 123_456));
    expect(readFileSync(await pull(weights)).equals(files[weights])).toBe(true);
    expect(hub.requests.some((request) => request.endsWith('bytes=123456-299999'))).toBe(true);
    expect(readdirSync(dirname(blob()))).toEqual([sha256(files[weights])]);
  });

  it.each([
    ['a damaged beginning', () => Buffer.alloc(1000), false],
    ['a server that ignores ranges', () => Buffer.from(files[weights].subarray(0, 1000)), true],
    ['more than there should be', () => Buffer.alloc(400_000), false],
  ])('starts again after %s', async (_, left, ignoresRanges) => {
    mkdirSync(dirname(blob()), { recursive: true });
    writeFileSync(`${blob()}.incomplete`, left());
    hub.ignoresRanges = ignoresRanges;
    expect(readFileSync(await pull(weights)).equals(files[weights])).toBe(true);
  });

  it('refuses content that does not match its checksum, and keeps nothing of it', async () => {
    hub.damages = true;
    await expect(pull(weights)).rejects.toThrow(/emigm\.pth does not match its checksum/);
    await expect(pull('README.md').then(() => 'small')).resolves.toBe('small'); // too small to be damaged
    expect(readdirSync(dirname(blob()))).toEqual([gitId(files['README.md'])]);
    expect(existsSync(join(folder(), 'snapshots', hub.commit, weights))).toBe(false);
  });

  it('stops when told to and can go on', async () => {
    const stop = new AbortController();
    await expect(
      pull(weights, { signal: stop.signal, onProgress: (done: number) => done > 0 && stop.abort() }),
    ).rejects.toThrow(/stopped; the same command goes on/);
    expect(readFileSync(await pull(weights)).equals(files[weights])).toBe(true);
  });

  it('gives up when nothing comes any more', async () => {
    hub.cut = { after: 0, times: 100 };
    await expect(pull(weights)).rejects.toThrow(/cannot be reached|ended before/);
  });
});

describe('one line for', () => {
  it('what is not there, is closed, or cannot be reached', async () => {
    await expect(listRepo('nobody/nothing')).rejects.toThrow(/nobody\/nothing: no such repository/);
    await expect(listRepo(repo, 'v9')).rejects.toThrow(/no such repository, revision/);
    hub.token = 'hf_secret';
    await expect(listRepo(repo)).rejects.toThrow(/needs an access token in HF_TOKEN/);
    vi.stubEnv('HF_TOKEN', 'hf_wrong');
    await expect(listRepo(repo)).rejects.toThrow(/HF_TOKEN is not accepted/);
    vi.stubEnv('HF_TOKEN', 'hf_secret');
    expect((await listRepo(repo)).files).toHaveLength(3);
    vi.stubEnv('HF_ENDPOINT', 'http://127.0.0.1:1');
    await expect(listRepo(repo)).rejects.toThrow(/http:\/\/127\.0\.0\.1:1 cannot be reached.*HF_ENDPOINT/);
    vi.stubEnv('HF_HUB_OFFLINE', '1');
    await expect(listRepo(repo)).rejects.toThrow(/HF_HUB_OFFLINE/);
  });
});

describe('names', () => {
  it.each([
    ['GSAI-ML/eMIGM', { repo: 'GSAI-ML/eMIGM', file: undefined }],
    ['GSAI-ML/eMIGM:b/x.pth', { repo: 'GSAI-ML/eMIGM', file: 'b/x.pth' }],
    ['weights/b.safetensors', undefined],
    ['./weights/b', undefined],
    ['kl16.ckpt', undefined],
    ['/tmp/a/b', undefined],
  ])('%s', (text, name) => expect(parseHubName(text)).toEqual(name));

  it('choose the only weights, or ask which', () => {
    expect(chooseFile({ repo }, ['README.md', 'model.safetensors'])).toBe('model.safetensors');
    expect(() => chooseFile({ repo }, ['a.pth', 'b.pth'])).toThrow(/say which file: a\.pth, b\.pth/);
    expect(() => chooseFile({ repo, file: 'c.pth' }, ['a.pth', 'b.pth'])).toThrow(/no file c\.pth; it has: a\.pth, b/);
  });
});
