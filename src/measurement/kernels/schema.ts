/** What `emigm bench kernels` leaves behind, and reads back for `--compare`. */
import { z } from 'zod';
import { EmigmError } from '../../errors.ts';
import { machine } from '../schema.ts';

export const FORMAT = 'emigm-kernels';
/** Rises when a field changes its meaning or goes; new fields alone do not raise it. */
export const VERSION = 1;

const count = z.number().min(0);

const row = z.object({
  op: z.string(),
  pass: z.enum(['forward', 'backward']),
  problem: z.record(z.string(), z.union([z.number(), z.boolean(), z.string()])),
  /** The implementation, or the name of a file given by path. */
  variant: z.string(),
  /** Of a file given by path: the implementation that it stands in for. */
  standsFor: z.string().optional(),
  /** The engine's own choice for this problem. */
  isChoice: z.boolean(),
  /** Kernel files, in the order of their dispatches. */
  kernels: z.array(z.string()),
  dispatches: count,
  flops: count,
  /** Of all operands of each dispatch, each counted once. */
  bytes: count,
  /** Undefined where it was left out; `skipped` says why. */
  seconds: z.object({ median: count, spread: count, samples: z.array(count) }).optional(),
  /** Of what the roofline allows at its FLOP a byte. */
  share: count.optional(),
  /** Largest difference from the float64 oracle over the output's largest value, and what is allowed. */
  check: z.object({ error: z.number().nullable(), tolerance: z.number(), problems: count }).optional(),
  skipped: z.string().optional(),
});

const roofline = z.object({
  /** FLOP/s of multiply-adds alone. */
  f32: count,
  f16: count.optional(),
  /** FLOP/s of the best matmul on matrix units. */
  matrix: count.optional(),
  /** Bytes a second of a copy. */
  bytes: count,
});

const report = z.object({
  format: z.literal(FORMAT),
  version: z.literal(VERSION),
  date: z.string(),
  command: z.string(),
  machine,
  /** Where the engine's choice of implementation comes from. */
  choice: z.string(),
  roofline,
  rows: z.array(row),
});

export type Row = z.infer<typeof row>;
export type Roofline = z.infer<typeof roofline>;
export type KernelReport = z.infer<typeof report>;

/** @throws EmigmError 'file' when it is no report of kernels, or one of another version */
export function parseKernelReport(value: unknown, where: string): KernelReport {
  const { format, version } = (value ?? {}) as { format?: unknown; version?: unknown };
  if (format !== FORMAT) throw new EmigmError('file', `${where}: no report of emigm bench kernels`);
  if (version !== VERSION) {
    throw new EmigmError('file', `${where}: a report of version ${String(version)}; this program reads ${VERSION}`);
  }
  const parsed = report.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new EmigmError('file', `${where}: ${issue.path.join('.') || 'it'}: ${issue.message}`);
}
