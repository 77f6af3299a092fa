/** `emigm decode`: pictures of files of latents. */
import { basename, join } from 'node:path';
import { type Command, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import { toBytes, writePng } from '../formats/images.ts';
import { type LatentFile, openLatentFile } from '../formats/latent_file.ts';
import type { Tokenizer } from '../models/tokenizer.ts';
import { addDeviceFlags, type DeviceFlags, deviceOptions } from './device_flags.ts';
import type { Io } from './io.ts';
import { makeFolder } from './open.ts';
import { finiteNumber, grouped, positiveInteger } from './options.ts';
import { createProgress } from './progress.ts';
import { addVaeFlags, openVae, type VaeFlags } from './vae_flags.ts';

interface DecodeFlags extends VaeFlags, DeviceFlags {
  out: string;
  scale?: number;
  count?: number;
}

export function registerDecode(program: Command, io: Io): void {
  const command = program
    .command('decode')
    .summary('pictures of cached or drawn latents')
    .description(
      'Decodes latents to PNG files: those of emigm sample (.safetensors), cached ones (.npz with moments, of which ' +
        'the mean is taken), shards, or arrays [n, channels, height, width] (.npy, .npz).',
    )
    .argument('<latents...>', 'files of latents')
    .option('-o, --out <folder>', 'where to write', 'out')
    .addOption(
      new Option(
        '--scale <x>',
        "what the latents were multiplied by; default: 1 for cached ones, else the tokenizer's (0.2325 KL-16, 0.3189 DC-AE)",
      ).argParser(finiteNumber),
    )
    .option('-n, --count <n>', 'only so many of each file', positiveInteger)
    .option('-q, --quiet', 'print nothing but errors')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  emigm decode out/latents.safetensors --vae kl16.ckpt\n' +
        '  emigm decode latents/hat/*.npz --vae kl16.ckpt --out hats',
    )
    .action((files: string[], flags: DecodeFlags) => decodeCommand(files, flags, io));
  addDeviceFlags(addVaeFlags(command, { required: true }));
}

async function decodeCommand(paths: string[], flags: DecodeFlags, io: Io): Promise<void> {
  const { out, quiet } = flags;
  makeFolder(out);
  const tokenizer = await openVae(flags, deviceOptions(flags), io);
  const progress = createProgress(io, { label: 'decoding', total: paths.length, quiet });
  const taken = new Set<string>();
  let pictures = 0;
  try {
    for (const [f, path] of paths.entries()) {
      const file = await openLatentFile(path);
      try {
        const scale = flags.scale ?? (file.isCached ? 1 : tokenizer.scale);
        if (scale === 0) throw new EmigmError('input', '--scale cannot be 0');
        const count = Math.min(file.count, flags.count ?? file.count);
        const stem = unique(basename(path).replace(/(\.(jpe?g|png|webp))?\.[^.]+$/i, ''), taken);
        let i = 0;
        for await (const image of decodeFile(tokenizer, file, path, count, scale, io.signal)) {
          const name = file.count === 1 ? stem : `${stem}-${String(i).padStart(4, '0')}`;
          await writePng(join(out, `${name}.png`), image);
          progress.update(f + ++i / count, `${grouped(++pictures)} pictures`);
        }
      } finally {
        await file.close();
      }
    }
    progress.stop();
    if (quiet) return;
    const each = tokenizer.seconds.decode / pictures;
    io.out(`${out}: ${grouped(pictures)} pictures, ${each.toFixed(3)} s each`);
  } finally {
    progress.stop();
    tokenizer.dispose();
  }
}

/** `name`, or `name-2` where it is taken already. */
function unique(name: string, taken: Set<string>): string {
  let free = name;
  for (let i = 2; taken.has(free); i++) free = `${name}-${i}`;
  taken.add(free);
  return free;
}

async function* decodeFile(
  tokenizer: Tokenizer,
  file: LatentFile,
  path: string,
  count: number,
  scale: number,
  signal: AbortSignal,
) {
  const [channels, height, width] = file.shape;
  const isMoments = tokenizer.hasPosterior && channels === 2 * tokenizer.channels;
  if (!isMoments && channels !== tokenizer.channels) {
    throw new EmigmError(
      'input',
      `${path}: latents of ${channels} channels, but ${tokenizer.kind} has ${tokenizer.channels}` +
        (tokenizer.hasPosterior ? ` (moments: ${2 * tokenizer.channels})` : ''),
    );
  }
  const size = tokenizer.channels * height * width;
  const { stride } = tokenizer;
  const batch = Math.max(1, tokenizer.largestBatch({ height: stride * height, width: stride * width }));
  for (let first = 0; first < count; first += batch) {
    const latents = new Float32Array(Math.min(batch, count - first) * size);
    for (let i = 0; i * size < latents.length; i++) {
      // The mean comes first.
      latents.set((await file.read(first + i)).subarray(0, size), i * size);
    }
    for await (const image of tokenizer.decode(latents, { height, width }, { scale, signal })) {
      yield toBytes(image, stride * width, stride * height);
    }
  }
}
