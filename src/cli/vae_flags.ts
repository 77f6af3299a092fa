/** Flags of every command that encodes or decodes images. */
import { type Command, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import type { Device, DeviceOptions } from '../gpu/device.ts';
import { loadTokenizer, type Tokenizer } from '../models/tokenizer.ts';
import type { Stored } from '../ops/matmul_kernels.ts';
import type { Io } from './io.ts';
import { positiveInteger } from './options.ts';
import { createProgress } from './progress.ts';
import { resolveFile } from './pull.ts';

export interface VaeFlags {
  vae?: string;
  vaeBatch?: number;
  pull?: boolean;
  quiet?: boolean;
  stored?: Stored;
}

export function addVaeFlags(command: Command, { required = false } = {}): Command {
  const text = 'the tokenizer: a KL-16 or DC-AE file (.ckpt, .safetensors), or a repository that was pulled';
  return command
    .addOption(new Option('--vae <file>', text).makeOptionMandatory(required))
    .addOption(new Option('--vae-batch <n>', 'images encoded or decoded at once').argParser(positiveInteger))
    .option('--pull', 'download repositories that --model or --vae name and the cache lacks');
}

/** Loads the tokenizer that the flags name, with progress. @throws EmigmError as loadTokenizer and resolveFile */
export async function openVae(flags: VaeFlags, device: Device | DeviceOptions, io: Io): Promise<Tokenizer> {
  const path = await resolveFile(flags.vae!, io, { flag: '--vae', pull: flags.pull, quiet: flags.quiet });
  const progress = createProgress(io, { label: 'loading the tokenizer', total: 1, quiet: flags.quiet });
  try {
    return await loadTokenizer(path, {
      device,
      stored: flags.stored === 'int8' ? undefined : flags.stored, // it is of models that draw
      batch: flags.vaeBatch,
      onProgress: (done) => {
        progress.update(done);
        if (io.signal.aborted) throw new EmigmError('aborted', 'stopped');
      },
    });
  } finally {
    progress.stop();
  }
}
