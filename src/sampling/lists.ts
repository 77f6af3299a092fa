/** Memory of this process for the lists of a batch: which rows each step gathers and scatters. Bounded, not exact. */
import { EmigmError } from '../errors.ts';
import { mib } from '../gpu/device.ts';
import type { ModelConfig } from '../models/config.ts';
import type { BatchInput } from './batch.ts';
import type { DiscreteInput } from './discrete/plan.ts';

/** Of V8's heap while lists grow and are copied: 36 to 42 measured for batches of 4000 and 8000 images. */
const BYTES_AN_ENTRY = 42;
/** Node gives a process 4 GiB, on machines of 8 GiB or less 2 GiB. */
const MOST_BYTES = 2 ** 31;

/** Entries of all lists for each image of a batch, from the plan of one image; see `addTrunk`. */
export function listEntries(config: ModelConfig, tokens: number, { steps, kept }: BatchInput): number {
  let visible = kept?.masked.filter((masked) => masked === 0).length ?? 0;
  let entries = 0;
  for (const [i, { positions, guidance, reusesEncoder }] of steps.entries()) {
    const asked = positions[0].length;
    const keeps = reusesEncoder || steps[i + 1]?.reusesEncoder;
    const perSequence =
      (config.mae ? 2 * visible : 3 * tokens) + tokens + 3 * asked + (keeps ? 4 * (config.bufferSize + visible) : 0);
    entries += (guidance === undefined ? 1 : 2) * perSequence + 3 * asked;
    visible += asked;
  }
  return entries;
}

/** The same of a model of codes; see `DiscreteSampler.layout`. */
export function discreteListEntries(tokens: number, { steps }: DiscreteInput): number {
  const rows = steps.map(({ masked, count, positions }) => (positions ? 6 * count : 2 * masked));
  return 6 * tokens + rows.reduce((a, b) => a + b, 0);
}

/** Images that may be in a batch for its lists to fit. */
export const mostImages = (entries: number): number => Math.max(1, Math.floor(MOST_BYTES / BYTES_AN_ENTRY / entries));

/** What to say of a batch whose lists do not fit. */
export function listsTooLong(images: number, entries: number, advice: string): EmigmError {
  const needed = `a batch of ${images} needs ${mib(images * entries * BYTES_AN_ENTRY)} of this process's own memory`;
  return new EmigmError('memory', `${needed} for its lists of rows, and ${mib(MOST_BYTES)} are allowed; ${advice}`);
}
