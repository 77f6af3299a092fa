/** What a sweep leaves behind: the JSON file of `emigm bench nfe`, described in docs/nfe.md. */
import { z } from 'zod';
import { EmigmError } from '../errors.ts';

export const FORMAT = 'emigm-nfe';
/** Rises when a field changes its meaning or goes; new fields alone do not raise it. */
export const VERSION = 1;

const seconds = z.number().min(0);
const count = z.number().min(0);
const byPart = z.record(z.string(), seconds);

const runSeconds = z.object({ total: seconds, firstImage: seconds, host: seconds, parts: byPart });

const summary = z.object({
  median: seconds,
  /** Distance between the quartiles over the median. */
  spread: z.number().min(0),
  samples: z.array(seconds),
});

const kernelTime = z.object({
  kernel: z.string(),
  op: z.string(),
  part: z.string(),
  dispatches: count,
  seconds,
  flops: count,
  bytes: count,
});

const pointFacts = z.object({
  model: z.object({
    name: z.string(),
    weights: z.enum(['random', 'file']),
    parameters: count,
    imageSize: count,
    tokens: count,
    /** Of the codebook, where tokens are codes. */
    codes: count.optional(),
    tokenizer: z.string().optional(),
    /** Where weights come from a file. */
    file: z.object({ name: z.string(), bytes: count }).optional(),
  }),
  preset: z.string().optional(),
  stored: z.enum(['f32', 'f16', 'int8']),
  kernel: z.string(),
  settings: z.looseObject({
    steps: count,
    /** Of the diffusion head; models of codes have none. */
    headSteps: z.union([z.number(), z.string()]).optional(),
    headSampler: z.string().optional(),
    cfg: z.number(),
    cfgInterval: z.tuple([z.number(), z.number()]),
    /** Savings, where they were asked for. */
    headStepsLast: count.optional(),
    shareEarly: count.optional(),
    reuseEncoder: count.optional(),
    counts: z.string().optional(),
  }),
  batch: count,
  nfe: count,
  headEvaluations: count,
  dispatches: count,
  flops: count,
  bytes: count,
  work: z.record(z.string(), z.object({ flops: count, bytes: count })),
  prepare: seconds,
  memory: z.object({ weights: count, activations: count }),
});

const quality = z.object({
  name: z.string(),
  value: z.number(),
  images: count,
  reference: z.string(),
  /** Which network's features; missing in reports of versions that knew Inception alone. */
  extractor: z.string().optional(),
});

const row = pointFacts.extend({
  id: z.string(),
  seconds: z.object({ anImage: summary, firstImage: summary, batch: summary, host: summary }),
  parts: byPart,
  flopsPerSecond: count,
  bytesPerSecond: count,
  shareOfPeak: z.number().min(0),
  process: count,
  kernels: z.array(kernelTime).optional(),
  quality: z.array(quality).optional(),
});

const peak = z.object({
  flops: z.object({ perSecond: count, size: count, stored: z.enum(['f32', 'f16']), kernel: z.string() }),
  bytes: z.object({ perSecond: count, size: count }),
});

export const machine = z.object({
  adapter: z.string(),
  driver: z.string(),
  isCpu: z.boolean(),
  cpu: z.string(),
  versions: z.record(z.string(), z.string()),
  commit: z.string().optional(),
  /** Where the engine's choice of implementations comes from. */
  choice: z.string().optional(),
});

const report = z.object({
  format: z.literal(FORMAT),
  version: z.literal(VERSION),
  date: z.string(),
  command: z.string(),
  machine,
  peak,
  repeats: count,
  rows: z.array(row),
});

export type RunSeconds = z.infer<typeof runSeconds>;
export type Summary = z.infer<typeof summary>;
export type KernelTime = z.infer<typeof kernelTime>;
export type PointFacts = z.infer<typeof pointFacts>;
export type Quality = z.infer<typeof quality>;
export type Row = z.infer<typeof row>;
export type Machine = z.infer<typeof machine>;
export type NfeReport = z.infer<typeof report>;

const header = z.object({ kind: z.literal('header'), version: z.literal(VERSION), machine, peak, options: z.string() });
const line = z.discriminatedUnion('kind', [
  header,
  z.object({
    kind: z.literal('facts'),
    id: z.string(),
    facts: pointFacts,
    kernels: z.array(kernelTime).optional(),
    process: count,
  }),
  z.object({ kind: z.literal('run'), id: z.string(), round: count, date: z.string(), seconds: runSeconds }),
  z.object({ kind: z.literal('quality'), id: z.string(), quality: z.array(quality) }),
]);

/** A line of the file of finished measurements. */
export type Line = z.infer<typeof line>;
export type Header = z.infer<typeof header>;

/** @throws EmigmError 'file' naming the field that is wrong */
export function parseLine(value: unknown, where: string): Line {
  const parsed = line.safeParse(value);
  if (!parsed.success) throw new EmigmError('file', `${where}: ${issueOf(parsed.error)}; name another --out folder`);
  return parsed.data;
}

/** @throws EmigmError 'file' when it is no report, or one of another version */
export function parseReport(value: unknown, where: string): NfeReport {
  const { format, version } = (value ?? {}) as { format?: unknown; version?: unknown };
  if (format !== FORMAT) throw new EmigmError('file', `${where}: no report of emigm bench nfe`);
  if (version !== VERSION) {
    throw new EmigmError('file', `${where}: a report of version ${String(version)}; this program reads ${VERSION}`);
  }
  const parsed = report.safeParse(value);
  if (!parsed.success) throw new EmigmError('file', `${where}: ${issueOf(parsed.error)}`);
  return parsed.data;
}

function issueOf(error: z.ZodError): string {
  const [issue] = error.issues;
  return `${issue.path.join('.') || 'it'}: ${issue.message}`;
}
