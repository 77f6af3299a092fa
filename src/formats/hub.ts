/**
 * Files of model repositories, through @huggingface/hub and in its standard cache (HF_HOME, HF_HUB_CACHE), which other
 * programs share: blobs named after their checksums, snapshots of links to them. Downloads go on where they were broken
 * off and are checked before they get their names. HF_ENDPOINT names another server, HF_TOKEN an access token.
 */
import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { copyFile, open, readdir, readFile, rename, stat, symlink, unlink } from 'node:fs/promises';
import { dirname, join, relative, resolve, sep } from 'node:path';
import {
  downloadFile,
  getHFHubCachePath,
  getRepoFolderName,
  HubApiError,
  listFiles,
  modelInfo,
} from '@huggingface/hub';
import { EmigmError } from '../errors.ts';
import { reason, writeAtomically } from './files.ts';
import { makeFolders } from './folders.ts';

const MAIN = 'main';
/** Suffixes of files that hold weights. */
const WEIGHTS = /\.(safetensors|pth|pt|ckpt|bin)$/i;

/** `owner/repo` or `owner/repo:path/in/it`. */
export interface HubName {
  readonly repo: string;
  readonly file?: string;
}

export interface RepoFile {
  readonly path: string;
  readonly bytes: number;
  /** SHA-256 of the content of large files. */
  readonly sha256?: string;
  /** Git's id of the file: of its content, or for large files of a pointer to it. */
  readonly oid: string;
}

export interface RepoListing {
  readonly repo: string;
  readonly revision: string;
  readonly commit: string;
  readonly files: readonly RepoFile[];
}

export interface DownloadOptions {
  /** Told the bytes that are there, of `file.bytes`. */
  onProgress?: (bytes: number) => void;
  signal?: AbortSignal;
  /** Milliseconds before a broken connection is tried again the first time; 1000 by default. */
  wait?: number;
}

/** Reads a repository's name, or undefined where `text` cannot be one: a path of a file, by its suffix or its form. */
export function parseHubName(text: string): HubName | undefined {
  const found = /^([\w-][\w.-]*\/[\w-][\w.-]*)(?::(.+))?$/.exec(text);
  if (!found || (found[2] === undefined && WEIGHTS.test(text))) return undefined;
  return { repo: found[1], file: found[2] };
}

/**
 * Which of a repository's files is meant: the one that is named, else the only one with weights.
 * @throws EmigmError 'input' listing the files when it is not clear
 */
export function chooseFile(name: HubName, paths: readonly string[]): string {
  const weights = paths.filter((path) => WEIGHTS.test(path));
  const listed = weights.length > 0 ? weights.join(', ') : 'none with weights';
  if (name.file !== undefined) {
    if (paths.includes(name.file)) return name.file;
    throw new EmigmError('input', `${name.repo} has no file ${name.file}; it has: ${listed}`);
  }
  if (weights.length === 1) return weights[0];
  throw new EmigmError('input', `${name.repo}: say which file: ${listed}`);
}

const folderOf = (repo: string): string => join(getHFHubCachePath(), getRepoFolderName({ type: 'model', name: repo }));
const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

/** The files of a repository that lie in the cache: where, by their path in the repository. */
export async function cachedFiles(repo: string, revision = MAIN): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  const commit = isCommit(revision)
    ? revision
    : await readFile(join(folderOf(repo), 'refs', revision), 'utf8').catch(() => undefined);
  if (commit === undefined) return found;
  const root = join(folderOf(repo), 'snapshots', commit.trim());
  const entries = await readdir(root, { recursive: true, withFileTypes: true }).catch(() => []);
  for (const entry of entries) {
    const path = join(entry.parentPath, entry.name);
    // A link whose blob is gone is no file.
    const isFile = await stat(path).then(
      (one) => one.isFile(),
      () => false,
    );
    if (isFile) found.set(relative(root, path).replaceAll('\\', '/'), path);
  }
  return found;
}

/**
 * Asks the server what a repository holds.
 * @throws EmigmError 'file' when it does not exist, needs a token, or the server cannot be reached; 'aborted'
 */
export async function listRepo(repo: string, revision = MAIN, signal?: AbortSignal): Promise<RepoListing> {
  return asking(repo, signal, async (access) => {
    const { sha } = await modelInfo({ ...access, name: repo, revision, additionalFields: ['sha'] });
    const files: RepoFile[] = [];
    for await (const { type, path, size, oid, lfs } of listFiles({ ...access, repo, revision: sha, recursive: true })) {
      if (type === 'file') files.push({ path, bytes: lfs?.size ?? size, sha256: lfs?.oid, oid: oid ?? '' });
    }
    // They become names of files.
    const ids = [sha, ...files.map(({ sha256, oid }) => sha256 ?? oid)];
    if (!ids.every((id) => /^[0-9a-f]{40,64}$/.test(id))) throw new Error('its answer is not understood');
    return { repo, revision, commit: sha, files };
  });
}

/** Connections that break are tried again so often in a row without getting any further. */
const TRIES = 5;

/**
 * Downloads a file into the cache unless it is there, and returns its path. What is there of a download that was
 * broken off is kept; the content is checked against its checksum.
 * @throws EmigmError 'file' when the server refuses or the content is damaged, 'aborted'
 */
export async function download(listing: RepoListing, file: RepoFile, options: DownloadOptions = {}): Promise<string> {
  const { repo, revision, commit } = listing;
  const folder = folderOf(repo);
  const snapshot = join(folder, 'snapshots', commit);
  const pointer = resolve(snapshot, file.path);
  if (!pointer.startsWith(resolve(snapshot) + sep)) {
    throw new EmigmError('file', `${repo}: file ${JSON.stringify(file.path)} lies outside of it`);
  }
  const blob = join(folder, 'blobs', file.sha256 ?? file.oid);
  try {
    makeFolders(dirname(blob));
    makeFolders(dirname(pointer));
    if (!(await sizeOf(blob).then((size) => size === file.bytes))) {
      const incomplete = `${blob}.incomplete`;
      const resumed = (await sizeOf(incomplete)) ?? 0;
      let good = await fetchAll(listing, file, incomplete, options);
      // A server that ignores ranges, or a damaged beginning.
      if (!good && resumed > 0) good = await fetchAll(listing, file, incomplete, options);
      if (!good) throw new EmigmError('file', `${repo}: ${file.path} does not match its checksum; try again later`);
      await rename(incomplete, blob);
    }
    options.onProgress?.(file.bytes);
    await link(blob, pointer);
    if (revision !== commit) {
      const ref = join(folder, 'refs', revision);
      makeFolders(dirname(ref));
      await writeAtomically(ref, (put) => put(Buffer.from(commit)));
    }
    return pointer;
  } catch (error) {
    if (error instanceof EmigmError) throw error;
    throw new EmigmError('file', `${pointer}: could not be written: ${reason(error)}`, { cause: error });
  }
}

/** Fetches what is missing, over several connections when they break. False, and nothing kept, when damaged. */
async function fetchAll(
  { repo, commit }: RepoListing,
  file: RepoFile,
  path: string,
  { onProgress, signal, wait = 1000 }: DownloadOptions,
): Promise<boolean> {
  // Git's id of a small file is the SHA-1 of this header and the content.
  const hash = file.sha256 ? createHash('sha256') : createHash('sha1').update(`blob ${file.bytes}\0`);
  if (((await sizeOf(path)) ?? 0) > file.bytes) await unlink(path);
  let done = await hashFile(path, hash);
  onProgress?.(done);
  for (let failures = 0; done < file.bytes; ) {
    const before = done;
    try {
      await asking(repo, signal, async (access) => {
        const whole = await downloadFile({ ...access, repo, path: file.path, revision: commit, xet: false });
        if (!whole) throw new EmigmError('file', `${repo} has no file ${file.path}`);
        const handle = await open(path, 'a');
        try {
          for await (const part of whole.slice(done).stream() as unknown as AsyncIterable<Uint8Array>) {
            const bytes = part.subarray(0, file.bytes - done);
            await handle.appendFile(bytes);
            hash.update(bytes);
            done += bytes.length;
            onProgress?.(done);
          }
        } finally {
          await handle.close();
        }
      });
      if (done < file.bytes) throw new EmigmError('file', `${repo}: the connection ended before ${file.path} did`);
    } catch (error) {
      const cause = (error as EmigmError).cause;
      const final = (error as EmigmError).code === 'aborted' || cause instanceof HubApiError || isDisk(cause);
      failures = done > before ? 1 : failures + 1;
      if (final || failures >= TRIES) throw error;
      await pause(wait * 2 ** (failures - 1), signal);
    }
  }
  const good = hash.digest('hex') === (file.sha256 ?? file.oid);
  if (!good) await unlink(path);
  return good;
}

interface Access {
  hubUrl?: string;
  accessToken?: string;
  fetch: typeof fetch;
}

/** Runs requests to the server; what goes wrong becomes one line. */
async function asking<T>(
  repo: string,
  signal: AbortSignal | undefined,
  run: (access: Access) => Promise<T>,
): Promise<T> {
  const hubUrl = process.env.HF_ENDPOINT?.replace(/\/+$/, '') || undefined;
  const accessToken = process.env.HF_TOKEN || undefined;
  const server = hubUrl ?? 'https://huggingface.co';
  const fail = (what: string, cause: unknown): never => {
    throw new EmigmError('file', `${repo}: ${what}`, { cause });
  };
  if (process.env.HF_HUB_OFFLINE && process.env.HF_HUB_OFFLINE !== '0') {
    fail('is not asked for, because HF_HUB_OFFLINE is set', undefined);
  }
  try {
    return await run({ hubUrl, accessToken, fetch: (input, init) => fetch(input, { ...init, signal }) });
  } catch (error) {
    if (signal?.aborted) throw new EmigmError('aborted', 'the download was stopped; the same command goes on with it');
    if (error instanceof EmigmError) throw error;
    if (error instanceof HubApiError) {
      const { statusCode } = error;
      if (statusCode === 404) return fail(`no such repository, revision or file at ${server}`, error);
      if (statusCode === 401 || statusCode === 403) {
        const how = accessToken ? 'the access token in HF_TOKEN is not accepted' : 'needs an access token in HF_TOKEN';
        return fail(`${how}, or does not exist`, error);
      }
      return fail(`${server} answered: ${error.message.split('\n')[0]}`, error);
    }
    if (isDisk(error)) return fail(`could not be written: ${reason(error)}`, error);
    const why = error instanceof Error ? ((error.cause as Error | undefined)?.message ?? error.message) : String(error);
    return fail(`${server} cannot be reached (${why.split('\n')[0]}); HF_ENDPOINT names another server`, error);
  }
}

const isDisk = (error: unknown): boolean => {
  const { code, path, syscall } = (error ?? {}) as NodeJS.ErrnoException;
  return code === 'ENOSPC' || (code !== undefined && path !== undefined) || syscall === 'write';
};

function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const end = () => {
      clearTimeout(timer);
      done();
    };
    const timer = setTimeout(end, milliseconds);
    signal?.addEventListener('abort', end, { once: true });
  });
}

async function sizeOf(path: string): Promise<number | undefined> {
  return stat(path).then(
    ({ size }) => size,
    () => undefined,
  );
}

/** Adds a file's content to a hash; returns its bytes, 0 when it is absent. */
async function hashFile(path: string, hash: Hash): Promise<number> {
  if ((await sizeOf(path)) === undefined) return 0;
  let bytes = 0;
  for await (const part of createReadStream(path)) {
    hash.update(part);
    bytes += part.length;
  }
  return bytes;
}

/** A relative link, or a copy where the file system has none; never half there. */
async function link(blob: string, pointer: string): Promise<void> {
  const temporary = `${pointer}.${process.pid}.tmp`;
  const target = relative(dirname(pointer), resolve(blob));
  await unlink(temporary).catch(() => {});
  await symlink(target, temporary).catch(() => copyFile(blob, temporary));
  await rename(temporary, pointer);
}
