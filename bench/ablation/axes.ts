/** What is compared: trainings that differ from the base in one axis, and ways of sampling from them. */
import type { SampleSettings } from '../../src/sampling/settings.ts';
import type { HyperparameterInput } from '../../src/training/settings.ts';

/** Settings that tell points of one training apart. */
export type Sampling = Readonly<
  Pick<SampleSettings, 'steps' | 'headSteps' | 'headSampler' | 'cfg' | 'cfgInterval' | 'maskSchedule'>
>;

/** A row of an axis: what is told of it, the training it samples from, and how. */
export interface Case {
  readonly values: Readonly<Record<string, string>>;
  readonly training: string;
  readonly sampling: Sampling;
}

export interface StudyAxis {
  readonly name: string;
  readonly title: string;
  /** What the paper (arXiv 2503.07197) has on it. */
  readonly paper: string;
  /** The values that tell the lines of its figure apart; with none it is in no figure. */
  readonly series: readonly string[];
  /** What a line runs along. */
  readonly cost: 'nfe' | 'headEvaluations' | 'cfg';
  /** The value that is written beside the points. */
  readonly label?: string;
  readonly figure: 'training' | 'sampling';
  readonly cases: readonly Case[];
}

export interface Study {
  /** How each training differs from the base. */
  readonly trainings: Readonly<Record<string, HyperparameterInput>>;
  readonly axes: readonly StudyAxis[];
}

/** The base: eMIGM's choices, with guidance over the whole run. */
export const BASE = 'base';
export const BASE_SAMPLING: Sampling = {
  steps: 8,
  headSteps: 8,
  headSampler: 'dpm-solver',
  cfg: 3,
  cfgInterval: [0, 1],
  maskSchedule: 'exp',
};

const STEPS = [4, 8, 16];
const SCHEDULES = ['exp', 'cosine', 'linear'];

const trainings = {
  [BASE]: {},
  'exp elbo': { weighting: 'elbo' },
  'cosine uniform': { maskSchedule: 'cosine' },
  'cosine elbo': { maskSchedule: 'cosine', weighting: 'elbo' },
  'linear uniform': { maskSchedule: 'linear' },
  'linear elbo': { maskSchedule: 'linear', weighting: 'elbo' },
  'single encoder': { network: 'single' },
  't_min 0': { tMin: 0 },
  't_min 0.4': { tMin: 0.4 },
  'fake class': { unconditional: 'fake-class' },
} as const satisfies Record<string, HyperparameterInput>;

type TrainingName = keyof typeof trainings;

const row = (values: Case['values'], training: TrainingName, sampling: Partial<Sampling> = {}): Case => ({
  values,
  training,
  sampling: { ...BASE_SAMPLING, ...sampling },
});

/** A training at every number of steps. */
const atSteps = (values: Case['values'], training: TrainingName, sampling: Partial<Sampling> = {}): Case[] =>
  STEPS.map((steps) => row({ ...values, steps: String(steps) }, training, { ...sampling, steps }));

const WEIGHTINGS = { uniform: '1', elbo: "γ'/γ" } as const;

/** Every schedule by every weighting. */
function byWeighting(rows: (values: Case['values'], training: TrainingName, schedule: string) => Case[]): Case[] {
  return SCHEDULES.flatMap((schedule) =>
    Object.entries(WEIGHTINGS).flatMap(([weighting, w]) => {
      const name = `${schedule} ${weighting}`;
      return rows({ schedule, 'w(t)': w }, (name === 'exp uniform' ? BASE : name) as TrainingName, schedule);
    }),
  );
}

const intervals: [string, [number, number]][] = [
  ['(0, 1]', [0, 1]],
  ['(0, 0.5]', [0, 0.5]],
  ['(0.5, 1]', [0.5, 1]],
  ['(0.1, 0.3]', [0.1, 0.3]],
];

/** The ablation. */
export const study: Study = {
  trainings,
  axes: [
    {
      name: 'schedule-weighting',
      title: 'Mask schedule and weighting of the loss in training',
      paper: 'exp is better than linear and cosine; w(t) = 1, not the γ′/γ of the likelihood bound, is adopted.',
      series: ['schedule', 'w(t)'],
      cost: 'nfe',
      figure: 'training',
      cases: byWeighting((values, training, schedule) => atSteps(values, training, { maskSchedule: schedule })),
    },
    {
      name: 'sampled-alike',
      title: 'The same trainings, all sampled by exp in 8 steps',
      paper: 'as above.',
      series: [],
      cost: 'nfe',
      figure: 'training',
      cases: byWeighting((values, training) => [row(values, training)]),
    },
    {
      name: 'network',
      title: 'MAE or a single encoder',
      paper: 'the MAE encoder-decoder is better than one encoder that sees mask tokens.',
      series: ['network'],
      cost: 'nfe',
      figure: 'training',
      cases: [...atSteps({ network: 'MAE' }, BASE), ...atSteps({ network: 'single encoder' }, 'single encoder')],
    },
    {
      name: 'time-truncation',
      title: 'Time truncation in training',
      paper: 'eMIGM trains with t_min = 0.2.',
      series: ['t_min'],
      cost: 'nfe',
      figure: 'training',
      cases: [
        ...atSteps({ t_min: '0' }, 't_min 0'),
        ...atSteps({ t_min: '0.2' }, BASE),
        ...atSteps({ t_min: '0.4' }, 't_min 0.4'),
      ],
    },
    {
      name: 'guidance-input',
      title: 'Unconditional input of guidance',
      paper: 'the mask token as unconditional input ("CFG with mask") is adopted in place of a learned fake class.',
      series: ['unconditional'],
      cost: 'cfg',
      figure: 'training',
      cases: ([BASE, 'fake class'] as const).flatMap((training) =>
        [1, 2, 3, 5, 8].map((cfg) => {
          return row({ unconditional: training === BASE ? 'mask' : 'fake class', cfg: String(cfg) }, training, { cfg });
        }),
      ),
    },
    {
      name: 'sampling-schedule',
      title: 'Mask schedule in sampling, by steps',
      paper: 'sampling by exp, which reveals few tokens at first, is adopted: good images in 16 steps.',
      series: ['schedule'],
      cost: 'nfe',
      figure: 'sampling',
      cases: SCHEDULES.flatMap((schedule) =>
        [2, ...STEPS].map((steps) => {
          return row({ schedule, steps: String(steps) }, BASE, { maskSchedule: schedule, steps });
        }),
      ),
    },
    {
      name: 'head-sampler',
      title: "The head's sampler: DPM-Solver or DDPM",
      paper: 'DPM-Solver with few steps of the head: 8 at 16 steps, 14 at 128, where MAR takes 100 of DDPM.',
      series: ['head sampler'],
      cost: 'headEvaluations',
      figure: 'sampling',
      cases: [
        ...[3, 4, 8, 16].map((headSteps) => {
          return row({ 'head sampler': 'DPM-Solver', 'head steps': String(headSteps) }, BASE, { headSteps });
        }),
        ...[4, 8, 16, 32, 64].map((headSteps) => {
          const settings = { headSampler: 'ddpm', headSteps } as const;
          return row({ 'head sampler': 'DDPM', 'head steps': String(headSteps) }, BASE, settings);
        }),
      ],
    },
    {
      name: 'guidance-interval',
      title: 'Guidance in an interval of times',
      paper: 'guidance in the later steps alone keeps the quality at fewer evaluations: (0.1, 0.3] makes 19 of 32.',
      series: ['interval'],
      cost: 'nfe',
      label: 'cfg',
      figure: 'sampling',
      cases: [
        row({ interval: 'none', cfg: '1' }, BASE, { steps: 16, cfg: 1 }),
        ...intervals.flatMap(([interval, cfgInterval]) =>
          [3, 6].map((cfg) => row({ interval, cfg: String(cfg) }, BASE, { steps: 16, cfg, cfgInterval })),
        ),
      ],
    },
  ],
};

/** What tells the point from all others in a file of measurements. */
export function pointId({ training, sampling }: Pick<Case, 'training' | 'sampling'>): string {
  const { steps, headSteps, headSampler, cfg, cfgInterval, maskSchedule } = sampling;
  // Without guidance there is no interval of it.
  const guidance = cfg === 1 ? 'cfg=1' : `cfg=${cfg} interval=${cfgInterval.join('..')}`;
  return `${training}: ${maskSchedule} steps=${steps} ${headSampler} head=${headSteps} ${guidance}`;
}
