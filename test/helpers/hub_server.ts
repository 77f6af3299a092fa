/** A local server that speaks the part of the Hugging Face API that downloads use. */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface HubServer {
  /** What HF_ENDPOINT is to be. */
  readonly url: string;
  readonly commit: string;
  /** Requests so far: `GET /path`, with the range of content. */
  readonly requests: string[];
  /** Content connections are cut after so many bytes, so many times. */
  cut: { after: number; times: number };
  /** Ranges of content are answered with all of it. */
  ignoresRanges: boolean;
  /** Content is sent with a wrong byte. */
  damages: boolean;
  /** Token that is asked for. */
  token?: string;
  close(): Promise<void>;
}

const hex = (algorithm: string, ...parts: (string | Uint8Array)[]) => {
  const hash = createHash(algorithm);
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
};

/** Git's id of a file with this content. */
export const gitId = (content: Uint8Array): string => hex('sha1', `blob ${content.length}\0`, content);
export const sha256 = (content: Uint8Array): string => hex('sha256', content);

/** Serves one repository; files of more than 100 bytes are stored as large ones (LFS). */
export async function serveHub(repo: string, files: Record<string, Uint8Array>): Promise<HubServer> {
  const commit = hex('sha1', repo);
  const isLarge = (content: Uint8Array) => content.length > 100;
  const server = createServer((request, response) => void answer(request, response));
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const hub: HubServer = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    commit,
    requests: [],
    cut: { after: 0, times: 0 },
    ignoresRanges: false,
    damages: false,
    close: () =>
      new Promise((done) => {
        server.closeAllConnections();
        server.close(() => done());
      }),
  };

  function json(response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void {
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
  }

  function answer(request: IncomingMessage, response: ServerResponse): unknown {
    const url = new URL(request.url!, hub.url);
    const path = decodeURIComponent(url.pathname);
    const { range } = request.headers;
    hub.requests.push(`${request.method} ${path}${range ? ` ${range}` : ''}`);
    if (hub.token && request.headers.authorization !== `Bearer ${hub.token}`) {
      return json(response, 401, { error: 'Invalid credentials' });
    }
    const known = (revision: string) => revision === 'main' || revision === commit;
    const info = path.match(/^\/api\/models\/([^/]+\/[^/]+)\/revision\/(.+)$/);
    if (info?.[1] === repo && known(info[2])) {
      const lastModified = new Date(0).toISOString();
      return json(response, 200, {
        _id: '1',
        id: repo,
        sha: commit,
        private: false,
        downloads: 0,
        likes: 0,
        lastModified,
      });
    }
    const tree = path.match(/^\/api\/models\/([^/]+\/[^/]+)\/tree\/([^/]+)$/);
    if (tree?.[1] === repo && known(tree[2])) return listTree(url, response);
    const content = path.match(/^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/);
    if (content?.[1] === repo && known(content[2])) {
      const file = files[content[3]];
      if (!file) return json(response, 404, { error: 'Entry not found' }, { 'x-error-code': 'EntryNotFound' });
      if (!isLarge(file)) return sendContent(response, file, range, gitId(file));
      response.writeHead(302, {
        location: `${hub.url}/storage/${sha256(file)}`,
        'x-linked-size': String(file.length),
        'x-linked-etag': `"${sha256(file)}"`,
      });
      return response.end();
    }
    const stored = Object.values(files).find((file) => path === `/storage/${sha256(file)}`);
    if (stored) return sendContent(response, stored, range, sha256(stored));
    return json(response, 404, { error: 'Repository not found' });
  }

  /** Two entries a page, as long listings are sent. */
  function listTree(url: URL, response: ServerResponse): void {
    const all = Object.entries(files).map(([path, content]) => ({
      type: 'file',
      path,
      size: content.length,
      oid: isLarge(content) ? hex('sha1', path) : gitId(content),
      ...(isLarge(content) && { lfs: { oid: sha256(content), size: content.length, pointerSize: 130 } }),
    }));
    const first = Number(url.searchParams.get('cursor') ?? 0);
    const headers: Record<string, string> = {};
    if (first + 2 < all.length) {
      url.searchParams.set('cursor', String(first + 2));
      headers.link = `<${url.href}>; rel="next"`;
    }
    json(response, 200, all.slice(first, first + 2), headers);
  }

  function sendContent(response: ServerResponse, file: Uint8Array, range: string | undefined, etag: string): void {
    const asked = /^bytes=(\d+)-(\d+)$/.exec(range ?? '');
    const probe = range === 'bytes=0-0';
    const [first, last] =
      asked && (probe || !hub.ignoresRanges) ? [Number(asked[1]), Number(asked[2])] : [0, file.length - 1];
    const body = Uint8Array.from(file.subarray(first, last + 1));
    if (hub.damages && body.length > 10) body[5] ^= 1;
    response.writeHead(asked && (probe || !hub.ignoresRanges) ? 206 : 200, {
      'content-length': String(body.length),
      'content-range': `bytes ${first}-${last}/${file.length}`,
      etag: `"${etag}"`,
    });
    if (!probe && hub.cut.times > 0 && body.length > hub.cut.after) {
      hub.cut.times--;
      response.write(body.subarray(0, hub.cut.after), () => setTimeout(() => response.destroy(), 20));
    } else {
      response.end(body);
    }
  }
  return hub;
}
