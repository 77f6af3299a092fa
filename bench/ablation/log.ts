/** The file of finished measurements, one JSON object a line. */
import { z } from 'zod';
import { EmigmError } from '../../src/errors.ts';
import { machine } from '../../src/measurement/schema.ts';

export const VERSION = 1;

const whole = z.int().min(0);

const options = z.object({
  /** Images seen in each training, its size of a batch included: steps * batch. */
  images: whole,
  /** Images drawn for each point. */
  samples: whole,
  /** Pictures that are trained on, and held-out ones that are compared with. */
  pictures: whole,
  reference: whole,
  imageSize: whole,
  classifierSteps: whole,
  /** Checksum of the configuration of network and training. */
  network: z.string(),
});

const line = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('header'), version: z.literal(VERSION), options }),
  z.object({ kind: z.literal('start'), date: z.string(), command: z.string(), machine }),
  z.object({
    kind: z.literal('judge'),
    features: whole,
    /** On held-out pictures. */
    accuracy: z.number(),
    images: whole,
    /** Distances of as many held-out pictures as a point has samples: what a perfect model would get. */
    floor: z.array(z.number()),
  }),
  z.object({
    kind: z.literal('training'),
    training: z.string(),
    seed: whole,
    steps: whole,
    /** Mean of the last tenth of the steps; differs by its definition between schedules and weightings. */
    loss: z.number(),
    seconds: z.number(),
  }),
  z.object({
    kind: z.literal('point'),
    id: z.string(),
    seed: whole,
    images: whole,
    /** Evaluations an image as counted by the sampler: of the network, and of the head. */
    nfe: z.number(),
    headEvaluations: z.number(),
    /** Fréchet distance on the classifier's features. */
    distance: z.number(),
    /** Share of the images that the classifier takes for what was asked for. */
    agreement: z.number(),
    seconds: z.number(),
  }),
]);

export type Line = z.output<typeof line>;
export type LineOf<Kind extends Line['kind']> = Extract<Line, { kind: Kind }>;
export type StudyOptions = z.output<typeof options>;

export const ofKind = <Kind extends Line['kind']>(lines: readonly Line[], kind: Kind): LineOf<Kind>[] =>
  lines.filter((one): one is LineOf<Kind> => one.kind === kind);

/** @throws EmigmError 'file' naming the line and the field that is wrong */
export function parseLines(values: readonly unknown[], where: string): Line[] {
  return values.map((value, i) => {
    const parsed = line.safeParse(value);
    if (parsed.success) return parsed.data;
    const [issue] = parsed.error.issues;
    const what = `${issue.path.join('.') || 'it'}: ${issue.message}`;
    throw new EmigmError('file', `${where}: line ${i + 1}: ${what}; name another --out folder`);
  });
}

/** @throws EmigmError 'input' when the folder was begun with other options */
export function checkOptions(lines: readonly Line[], now: StudyOptions, where: string): boolean {
  const [header] = ofKind(lines, 'header');
  if (!header) return false;
  for (const [name, value] of Object.entries(now)) {
    const before = header.options[name as keyof StudyOptions];
    if (before === value) continue;
    throw new EmigmError('input', `${where} was begun with ${name} ${before}, now it is ${value}; name another folder`);
  }
  return true;
}
