/** `emigm pull`: model files from a repository into the shared cache; and names of repositories where files are asked for. */
import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import { EmigmError } from '../errors.ts';
import type { RepoFile, RepoListing } from '../formats/hub.ts';
import type { Io } from './io.ts';
import { megabytes } from './options.ts';
import { createProgress } from './progress.ts';

/** Takes time to load, and most commands name a file that is there. */
const hub = () => import('../formats/hub.ts');

interface PullFlags {
  file?: string[];
  revision: string;
  quiet?: boolean;
}

export function registerPull(program: Command, io: Io): void {
  program
    .command('pull')
    .summary('download a model or tokenizer')
    .description(
      'Downloads files of a model repository into the Hugging Face cache (HF_HOME, HF_HUB_CACHE), checks them and ' +
        'prints where they are. A download that was stopped goes on where it was. Afterwards --model and --vae take ' +
        'the name of the repository. HF_ENDPOINT names another server, HF_TOKEN an access token.',
    )
    .argument('<repository>', 'owner/name, or owner/name:file')
    .option('-f, --file <path...>', 'which files; default: the one with weights, and config.json')
    .option('--revision <name>', 'branch, tag or commit', 'main')
    .option('-q, --quiet', 'print nothing but paths and errors')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  emigm pull GSAI-ML/eMIGM --file emigm_b.pth\n' +
        '  emigm pull mit-han-lab/dc-ae-f32c32-in-1.0\n' +
        '  emigm sample --model GSAI-ML/eMIGM:emigm_b.pth --vae owner/kl16',
    )
    .action((repository: string, flags: PullFlags) => pullCommand(repository, flags, io));
}

async function pullCommand(repository: string, { file, revision, quiet }: PullFlags, io: Io): Promise<void> {
  const { chooseFile, listRepo, parseHubName } = await hub();
  const name = parseHubName(repository);
  if (!name) throw new EmigmError('input', `${repository} is no repository; write owner/name or owner/name:file`);
  const listing = await listRepo(name.repo, revision, io.signal);
  const paths = listing.files.map(({ path }) => path);
  const asked = [...(name.file === undefined ? [] : [name.file]), ...(file ?? [])];
  const chosen = asked.length > 0 ? asked.map((one) => chooseFile({ ...name, file: one }, paths)) : defaults();

  function defaults(): string[] {
    const weights = chooseFile(name!, paths);
    const config = weights.replace(/[^/]*$/, 'config.json');
    return paths.includes(config) ? [weights, config] : [weights];
  }
  for (const path of chosen) {
    const one = listing.files.find((candidate) => candidate.path === path)!;
    io.out(await fetchFile(listing, one, io, quiet));
  }
}

async function fetchFile(listing: RepoListing, file: RepoFile, io: Io, quiet?: boolean) {
  const { download } = await hub();
  const progress = createProgress(io, { label: `downloading ${file.path}`, total: file.bytes, quiet });
  const began = performance.now();
  let first: number | undefined;
  try {
    return await download(listing, file, {
      signal: io.signal,
      onProgress: (bytes) => {
        first ??= bytes;
        const speed = (bytes - first) / Math.max(0.001, (performance.now() - began) / 1000);
        progress.update(bytes, `${megabytes(bytes)} of ${megabytes(file.bytes)}, ${megabytes(speed)}/s`);
      },
    });
  } finally {
    progress.stop();
  }
}

export interface ResolveOptions {
  /** Flag that named it, for messages: `--model`. */
  flag: string;
  /** Download what is not in the cache. */
  pull?: boolean;
  quiet?: boolean;
}

/**
 * The path of a file that is named by its path, or by a repository in the cache: `owner/name`, `owner/name:file`.
 * @throws EmigmError 'input' when the repository was not downloaded, saying how to
 */
export async function resolveFile(text: string, io: Io, { flag, pull, quiet }: ResolveOptions): Promise<string> {
  if (existsSync(text)) return text;
  const { cachedFiles, chooseFile, listRepo, parseHubName } = await hub();
  const name = parseHubName(text);
  if (!name) return text; // whoever opens it says what is wrong with it
  const cached = await cachedFiles(name.repo);
  const paths = [...cached.keys()];
  if (name.file === undefined ? paths.length > 0 : cached.has(name.file)) return cached.get(chooseFile(name, paths))!;
  if (!pull) {
    const command = `emigm pull ${name.repo}${name.file === undefined ? '' : ` --file ${name.file}`}`;
    throw new EmigmError(
      'input',
      `${flag} ${text}: neither a file nor a repository that has been downloaded; run: ${command}  or add --pull`,
    );
  }
  const listing = await listRepo(name.repo, undefined, io.signal);
  const path = chooseFile(
    name,
    listing.files.map((file) => file.path),
  );
  return fetchFile(listing, listing.files.find((file) => file.path === path)!, io, quiet);
}
