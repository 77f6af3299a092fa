/** `--shard i/n`, and what batch systems say instead. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import type { Shard } from '../sampling/shards.ts';

export interface ShardFlags {
  shard?: Shard;
}

/** For commander: `0/8` .. `7/8`. */
function shard(text: string): Shard {
  const match = /^(\d+)\/(\d+)$/.exec(text);
  const [index, count] = [Number(match?.[1]), Number(match?.[2])];
  if (!match || !(count >= 1 && index < count)) {
    throw new InvalidArgumentError('It must be i/n with i from 0 to n - 1: 0/8 to 7/8.');
  }
  return { index, count };
}

export function addShardFlag(command: Command): Command {
  const text =
    'make the i-th of n equal parts, i from 0 (default: from SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX; see docs/scale.md)';
  return command.addOption(new Option('--shard <i/n>', text).argParser(shard));
}

/**
 * The shard that the flag names, else the one that a Slurm array or a Kubernetes Indexed Job gives this process;
 * undefined where there is none of these. EMIGM_SHARD_COUNT says how many there are where the batch system does not.
 * @throws EmigmError 'input' where the count is not known, or cannot be trusted
 */
export function shardOf({ shard }: ShardFlags, env: NodeJS.ProcessEnv = process.env): Shard | undefined {
  if (shard) return shard.count === 1 ? undefined : shard;
  const {
    SLURM_ARRAY_TASK_ID: task,
    JOB_COMPLETION_INDEX: completion,
    EMIGM_SHARD_COUNT: told,
    SLURM_ARRAY_TASK_COUNT,
    SLURM_ARRAY_TASK_MIN,
    SLURM_ARRAY_TASK_MAX,
  } = env;
  const [name, value] = task ? ['SLURM_ARRAY_TASK_ID', task] : ['JOB_COMPLETION_INDEX', completion];
  if (!value) return undefined;
  const index = Number(value);
  const advice = 'set EMIGM_SHARD_COUNT to the number of shards, or give --shard i/n (--shard 0/1: all)';
  if (!told && !(task && SLURM_ARRAY_TASK_COUNT)) {
    throw new EmigmError('input', `${name} is ${value}, but of how many is not known: ${advice}`);
  }
  const count = Number(told ?? SLURM_ARRAY_TASK_COUNT);
  // Part of an array that is submitted again, or one that is not numbered from 0, would make other images.
  const isWhole = Number(SLURM_ARRAY_TASK_MIN ?? 0) === 0 && Number(SLURM_ARRAY_TASK_MAX ?? count - 1) === count - 1;
  if (!told && !isWhole) {
    const range = `${SLURM_ARRAY_TASK_MIN} to ${SLURM_ARRAY_TASK_MAX}`;
    throw new EmigmError('input', `the array's ${count} tasks are numbered ${range}, not from 0 on: ${advice}`);
  }
  if (!(Number.isInteger(index) && Number.isInteger(count) && index >= 0 && index < count)) {
    throw new EmigmError('input', `${name} is ${value}, which is no shard of ${told ?? count}: ${advice}`);
  }
  return count === 1 ? undefined : { index, count };
}
