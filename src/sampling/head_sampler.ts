/** Draws tokens from the diffusion head: DPM-Solver++ or DDPM over all rows of a step at once. */
import { type DdpmStep, ddpmPlan } from '../diffusion/ddpm.ts';
import { dpmSolverPlan, type SolverEvaluation } from '../diffusion/dpm_solver.ts';
import type { Recorder } from '../gpu/recorder.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { conditionEmbedding, type Head, headNoise } from '../nn/head.ts';
import { ddpmUpdate, dpmSolverUpdate } from '../ops/diffusion.ts';
import type { SampleSettings } from './settings.ts';

/**
 * Records writing noise for rows `first`.. of step `step` into `out`, twice when `copy`.
 * Head step 0 is the initial noise, k the noise of the k-th DDPM step.
 */
export type NoiseSource = (
  r: Recorder,
  out: Tensor,
  request: { step: number; headStep: number; first: number; count: number; copy: boolean },
) => void;

type HeadSettings = Pick<SampleSettings, 'headSampler' | 'headSteps' | 'temperature'>;

/** Rows `first`.. of a step, their guidance, and where the embeddings of the head's times begin. */
export interface HeadRequest {
  step: number;
  first: number;
  count: number;
  guidance?: number;
  firstTime: number;
}

/** The evaluations of the head that one step needs, and the times given to the network. */
export class HeadSampler {
  readonly netTimes: number[];
  private readonly solver: SolverEvaluation[] | undefined;
  private readonly ancestral: DdpmStep[] | undefined;
  private readonly settings: HeadSettings;

  constructor(settings: HeadSettings) {
    const { headSampler, headSteps } = settings;
    this.settings = settings;
    if (headSampler === 'dpm-solver') this.solver = dpmSolverPlan(Number(headSteps));
    else this.ancestral = ddpmPlan(String(headSteps));
    this.netTimes = (this.solver ?? this.ancestral!).map(({ netT }) => netT);
  }

  /** Evaluations a row; twice as many rows are evaluated when guided. */
  get evaluations(): number {
    return this.netTimes.length;
  }

  /** The same sampler with another number of steps. */
  withSteps(headSteps: number): HeadSampler {
    return new HeadSampler({ ...this.settings, headSteps });
  }

  /**
   * Records drawing `count` tokens conditioned on z: conditional rows, then with `guidance` as many unconditional ones.
   * `times` holds the embeddings of `netTimes`, from row `firstTime` on. Returns the tokens [count (or more), tokenDim].
   */
  record(
    r: Recorder,
    head: Head,
    z: Tensor,
    times: Tensor,
    noise: NoiseSource,
    { step, first, count, guidance, firstTime }: HeadRequest,
  ): Tensor {
    const channels = head.tokenDim;
    const guided = guidance !== undefined;
    const rows = { rows: count, channels, guidance };
    return r.within('head', () => {
      const condition = conditionEmbedding(r, head, z);
      const x = r.temp([guided ? 2 * count : count, channels], 'f32', 'head x');
      noise(r, x, { step, headStep: 0, first, count, copy: guided });
      if (this.solver) {
        const xBase = r.temp([count, channels], 'f32', 'x at the outer step');
        const mBase = r.temp([count, channels], 'f32', 'data prediction at the outer step');
        for (const [index, evaluation] of this.solver.entries()) {
          const net = headNoise(r, head, x, condition, { embeddings: times, index: firstTime + index }, true);
          dpmSolverUpdate(r, net, channels, x, xBase, mBase, rows, evaluation);
        }
      } else {
        for (const [index, plan] of this.ancestral!.entries()) {
          const net = headNoise(r, head, x, condition, { embeddings: times, index: firstTime + index }, false);
          const stepNoise = r.temp([count, channels], 'f32', 'step noise');
          noise(r, stepNoise, { step, headStep: index + 1, first, count, copy: false });
          ddpmUpdate(r, net, stepNoise, x, rows, {
            recip: plan.sqrtRecipAlphaBar,
            recipM1: plan.sqrtRecipm1AlphaBar,
            meanX0: plan.meanCoef1,
            meanX: plan.meanCoef2,
            minLog: plan.minLog,
            maxLog: plan.maxLog,
            deviation: plan.nonzero * this.settings.temperature,
          });
        }
      }
      return x;
    });
  }
}

/** A head sampler, and where the embeddings of its times begin. */
export interface StepHead {
  head: HeadSampler;
  firstTime: number;
}

/** A sampler for each number of head steps among the steps, and the times of all. */
export function headsOf(steps: readonly { headSteps?: number }[], head: HeadSampler) {
  const netTimes: number[] = [];
  const heads = new Map<number | undefined, StepHead>();
  for (const { headSteps } of steps) {
    if (heads.has(headSteps)) continue;
    const own = headSteps === undefined ? head : head.withSteps(headSteps);
    heads.set(headSteps, { head: own, firstTime: netTimes.length });
    netTimes.push(...own.netTimes);
  }
  return { heads, netTimes };
}
