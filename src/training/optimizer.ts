/** The optimizer's step as one recorded program: gradient norm, AdamW with clipping and averaging, new weight copies. */
import type { ProfileRow, Program, Recorder } from '../gpu/recorder.ts';
import { Session } from '../gpu/session.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { adamw, adamwSchedule, gradNorm } from '../ops/optimizer.ts';
import { type ParameterStore, STATES, type State } from './parameters.ts';
import { learningRate } from './schedule.ts';
import type { TrainingSettings } from './settings.ts';

/** No gradient is longer than this. */
const NO_CLIP = 3e38;

/** The settings that the optimizer reads. */
export type OptimizerSettings = Pick<
  TrainingSettings,
  | 'steps'
  | 'learningRate'
  | 'minLearningRate'
  | 'learningRateSchedule'
  | 'warmupSteps'
  | 'beta1'
  | 'beta2'
  | 'weightDecay'
  | 'gradientClip'
  | 'emaDecay'
>;

export class Optimizer {
  private readonly parameters: ParameterStore;
  private readonly settings: OptimizerSettings;
  private readonly session: Session;
  private readonly norm: Tensor;
  private readonly schedule: Tensor;
  private readonly update: Program;
  private readonly copies: Program;

  /** `network.refresh` renews what the network keeps of the weights beside the parameters. */
  constructor(parameters: ParameterStore, network: { refresh(r: Recorder): void }, settings: OptimizerSettings) {
    const { device } = parameters;
    this.parameters = parameters;
    this.settings = settings;
    this.session = new Session(device);
    this.norm = device.tensor([1], 'f32', 'gradient norm');
    this.schedule = device.tensor([4], 'f32', 'optimizer schedule');
    const { beta1, beta2, weightDecay, gradientClip } = settings;
    const clip = { maxNorm: gradientClip > 0 ? gradientClip : NO_CLIP, norm: this.norm };
    this.update = this.session.record('optimizer', (r) =>
      r.within('optimizer', () => {
        gradNorm(r, parameters.states.gradient, this.norm);
        parameters.chunks.forEach(({ decayed, size }, i) => {
          const state = Object.fromEntries(STATES.map((name) => [name, parameters.states[name][i]])) as Record<
            State,
            Tensor
          >;
          const common = { beta1, beta2, clip, schedule: this.schedule };
          if (decayed > 0) adamw(r, state, { ...common, weightDecay, range: { offset: 0, count: decayed } });
          if (decayed < size) {
            adamw(r, state, { ...common, weightDecay: 0, range: { offset: decayed, count: size - decayed } });
          }
        });
      }),
    );
    this.copies = this.session.record('weight copies', (r) => network.refresh(r));
  }

  /** Bytes of each buffer of intermediate results. */
  plan(): number[] {
    return this.session.plan();
  }

  prepare(): Promise<void> {
    return this.session.prepare();
  }

  /** Submits the renewal of the weights' copies after the parameters were loaded. */
  refresh(): void {
    this.session.run(this.copies);
  }

  /** Learning rate of step number `step`, counted from 0. */
  learningRate(step: number): number {
    const { learningRateSchedule: kind, learningRate: peak, minLearningRate: least } = this.settings;
    return learningRate({ kind, peak, least, warmup: this.settings.warmupSteps, total: this.settings.steps }, step);
  }

  /**
   * Submits the update of step number `step`, counted from 0; gradients are zero afterwards. Returns the gradient's
   * norm before clipping. While it is not finite nothing changes.
   */
  step(step: number): Promise<number> {
    const { beta1, beta2, emaDecay } = this.settings;
    const learningRate = this.learningRate(step);
    this.parameters.device.write(
      this.schedule,
      adamwSchedule(step + 1, { learningRate, beta1, beta2, averageDecay: emaDecay }),
    );
    this.session.run([this.update, this.copies]);
    return this.parameters.device.read(this.norm).then(([norm]) => norm);
  }

  /** Device time of every dispatch; takes a step. */
  async profile(): Promise<ProfileRow[]> {
    return [...(await this.session.profile(this.update)), ...(await this.session.profile(this.copies))];
  }

  dispose(): void {
    this.session.dispose();
    this.norm.destroy();
    this.schedule.destroy();
  }
}
