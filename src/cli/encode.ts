/** `emigm encode`: the latents of an image folder, once and for all. */
import { existsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { type Command, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import { encodeFolder } from '../models/encode_folder.ts';
import { type Shard, shardRange } from '../sampling/shards.ts';
import { packFolder } from '../training/data/pack.ts';
import { addDeviceFlags, type DeviceFlags, deviceOptions } from './device_flags.ts';
import type { Io } from './io.ts';
import { grouped, megabytes, oneOf, positiveInteger } from './options.ts';
import { createProgress, type Progress } from './progress.ts';
import { resolveFile } from './pull.ts';
import { addShardFlag, type ShardFlags, shardOf } from './shard_flags.ts';
import { addVaeFlags, openVae, type VaeFlags } from './vae_flags.ts';

interface EncodeFlags extends VaeFlags, DeviceFlags, ShardFlags {
  data: string;
  out: string;
  size: number;
  pack?: string;
  dtype: 'f32' | 'f16';
  skipUnreadable?: boolean;
  threads?: number;
}

export function registerEncode(program: Command, io: Io): void {
  const command = program
    .command('encode')
    .summary('cache the latents of an image folder')
    .description(
      'Encodes every picture of a folder of class folders, and its mirror image, into a .npz file each (moments, ' +
        'moments_flip), as emigm train and the official code read them. A run that was stopped or killed goes on ' +
        'where it was when it is started again.',
    )
    .requiredOption('-d, --data <folder>', 'class folders of pictures, or a folder with such a folder named train')
    .requiredOption('-o, --out <folder>', 'where the latents go, in class folders')
    .option('--size <n>', 'pixels of a side that pictures are cropped to', positiveInteger, 256)
    .option('--pack <file>', 'pack all of them into this .safetensors file, too')
    .addOption(
      new Option('--dtype <type>', 'in the packed file: f32 or f16').argParser(oneOf(['f32', 'f16'])).default('f32'),
    )
    .option('--skip-unreadable', 'leave out pictures that cannot be read, with a warning')
    .option('--threads <n>', 'decoding threads; default: all cores but one', positiveInteger)
    .option('-q, --quiet', 'print nothing but errors and warnings')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  emigm encode --data imagenet --out latents --vae kl16.ckpt\n' +
        '  emigm encode --data photos --out latents512 --size 512 \\\n' +
        '      --vae mit-han-lab/dc-ae-f32c32-in-1.0 --pack photos.safetensors\n' +
        '  emigm encode --data imagenet --out latents --vae kl16.ckpt --shard 3/8\n' +
        '  emigm train --config configs/emigm-xs-256.json --data latents --out run',
    )
    .action((flags: EncodeFlags) => encodeCommand(flags, io));
  addShardFlag(command);
  addDeviceFlags(addVaeFlags(command, { required: true }));
}

async function encodeCommand(flags: EncodeFlags, io: Io): Promise<void> {
  const { data, out, size, pack, dtype, quiet } = flags;
  const shard = shardOf(flags);
  if (pack !== undefined) checkPack(pack, shard);
  const vae = await resolveFile(flags.vae!, io, { flag: '--vae', pull: flags.pull, quiet });
  const tokenizer = await openVae({ ...flags, vae }, deviceOptions(flags), io);
  let progress: Progress | undefined;
  const show = (label: string) => (done: number, total: number) => {
    progress ??= createProgress(io, { label, total, quiet });
    progress.update(done, `${grouped(done)} of ${grouped(total)}`);
  };
  const onWarning = (message: string) => io.err(message);
  try {
    const { encoded, kept, skipped, classes, shape } = await encodeFolder(tokenizer, data, out, {
      size,
      tokenizerFile: vae,
      skipUnreadable: flags.skipUnreadable,
      part: shard && ((pictures) => shardRange(pictures, shard)),
      threads: flags.threads,
      onWarning,
      onProgress: show('encoding'),
      signal: io.signal,
    });
    progress?.stop();
    if (!quiet) {
      const which = shard ? `shard ${shard.index} of ${shard.count}: ` : '';
      const already = kept > 0 ? `, ${grouped(kept)} were there` : '';
      const without = skipped > 0 ? `, ${grouped(skipped)} left out` : '';
      const speed = encoded > 0 ? `, ${(tokenizer.seconds.encode / encoded).toFixed(3)} s each` : '';
      io.out(
        `${out}: ${which}${grouped(encoded)} pictures of ${classes.length} classes encoded${already}${without}; ` +
          `${shape.join(' x ')} of ${tokenizer.kind}${speed}`,
      );
    }
    if (pack === undefined) return;
    progress = undefined;
    await packFolder(out, pack, {
      dtype,
      latents: tokenizer.hasPosterior ? 'moments' : 'latents',
      threads: flags.threads,
      onWarning,
      onProgress: show('packing'),
      signal: io.signal,
    });
    progress = progress as Progress | undefined;
    progress?.stop();
    if (!quiet) io.out(`${pack}: ${megabytes(statSync(pack).size)}`);
  } finally {
    progress?.stop();
    tokenizer.dispose();
  }
}

/** Said before hours are spent. */
function checkPack(path: string, shard: Shard | undefined): void {
  if (!path.toLowerCase().endsWith('.safetensors')) {
    throw new EmigmError('input', `--pack ${path}: the file's name must end in .safetensors`);
  }
  if (!existsSync(dirname(path))) {
    throw new EmigmError('input', `--pack ${path}: its folder ${dirname(path)} does not exist; make it first`);
  }
  if (shard) {
    throw new EmigmError('input', '--pack needs all pictures: run it with --shard 0/1 when all shards are done');
  }
}
