/** A training run on the device: programs recorded once for each count of masked tokens, one optimizer step after another. */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import type { ProfileRow, Program } from '../gpu/recorder.ts';
import { Session } from '../gpu/session.ts';
import type { Tensor } from '../gpu/tensor.ts';
import { fewestMasked } from '../masking/axes.ts';
import { sequenceLength } from '../models/config.ts';
import { dropoutKeys } from '../ops/dropout.ts';
import type { Batch } from './data/types.ts';
import { drawMicroBatch } from './draws.ts';
import { shapeKey } from './inputs.ts';
import { layOutMicroBatch, type MicroBatch, type MicroBatchShape } from './micro_batch.ts';
import { DiffusionObjective, type Objective } from './objective.ts';
import { Optimizer } from './optimizer.ts';
import type { Parameters, ParameterStore } from './parameters.ts';
import type { TrainingSettings } from './settings.ts';
import type { TrunkOptions } from './trunk.ts';

export interface StepResult {
  /** sum(loss * w * mask) / sum(mask) of the step's images, before its update. */
  loss: number;
  /** Global L2 norm of the gradient before clipping. */
  gradient_norm: number;
}

/** Programs that are kept; each is some thousand dispatches on the host. */
const MOST_PROGRAMS = 128;

export class Trainer {
  readonly device: Device;
  readonly settings: TrainingSettings;
  readonly parameters: ParameterStore;
  private readonly objective: Objective;
  private readonly optimizer: Optimizer;
  private readonly dropoutKeys: Tensor;
  private readonly loss: Tensor;
  private session: Session;
  private programs = new Map<string, Program>();

  /** Takes the memory that does not depend on the masks; the parameters stay the caller's, the objective does not. */
  constructor(parameters: ParameterStore, settings: TrainingSettings, objective: Objective) {
    const { device } = parameters;
    this.device = device;
    this.settings = settings;
    this.parameters = parameters;
    this.objective = objective;
    this.optimizer = new Optimizer(parameters, objective, settings);
    this.dropoutKeys = device.tensor([objective.dropoutPlaces, 2], 'u32', 'dropout keys');
    this.loss = device.tensor([1], 'f32', 'loss');
    this.session = new Session(device);
  }

  /** A trainer of continuous tokens. */
  static of(parameters: Parameters, settings: TrainingSettings): Trainer {
    return new Trainer(parameters, settings, new DiffusionObjective(parameters, settings));
  }

  /** Micro-batches of a step. */
  get parts(): number {
    return this.settings.batch / this.settings.microBatch;
  }

  /** Learning rate of step number `step`, counted from 0. */
  learningRate(step: number): number {
    return this.optimizer.learningRate(step);
  }

  /**
   * Records the largest micro-batches: all tokens masked (long head), and as few as the axes give (long encoder). Returns
   * the bytes of each buffer of intermediate results that they need together; nothing is taken yet.
   */
  plan(): number[] {
    const { microBatch: images } = this.settings;
    const { config, repeats } = this.objective;
    const tokens = sequenceLength(config);
    for (const masked of [tokens, fewestMasked(this.settings.axes, tokens)]) {
      this.program({ images, visible: config.mae ? tokens - masked : tokens, rows: images * masked, repeats });
    }
    return [...this.session.plan(), ...this.optimizer.plan()];
  }

  /** Compiles the kernels, takes the memory of the largest micro-batches, and copies the weights for the kernels. */
  async prepare(): Promise<void> {
    this.plan();
    await this.session.prepare();
    await this.optimizer.prepare();
    this.optimizer.refresh();
  }

  private networkOptions(): TrunkOptions {
    const { attentionDropout: attention, projectionDropout: projection, checkpointing } = this.settings;
    const drops = attention > 0 || projection > 0;
    return { checkpointing, ...(drops && { dropout: { keys: this.dropoutKeys, attention, projection } }) };
  }

  private program(shape: MicroBatchShape, session = this.session): Program {
    const key = shapeKey(shape);
    const known = session === this.session ? this.programs.get(key) : undefined;
    if (known) return known;
    const program = session.record(key, (r) => {
      this.objective.record(r, shape, this.loss, this.networkOptions());
    });
    if (session === this.session) this.programs.set(key, program);
    return program;
  }

  /** Draws micro-batch `part` of a step and puts it on the device, behind what was submitted. */
  private load(step: number, part: number, { images, labels }: Batch): MicroBatch {
    const { settings, objective } = this;
    const { config } = objective;
    const { seed, microBatch: count } = settings;
    const tokens = sequenceLength(config);
    const index = step * this.parts + part;
    const draws = drawMicroBatch(settings, { images: count, tokens, mae: config.mae }, index);
    const batch = layOutMicroBatch(config, {
      ...draws,
      labels: labels.subarray(part * count, (part + 1) * count),
      schedule: settings.axes.schedule,
      weighting: settings.axes.weighting,
      repeats: objective.repeats,
      rowsMultiple: objective.rowsMultiple,
      parts: this.parts,
    });
    const size = images.length / settings.batch;
    objective.load(images.subarray(part * count * size, (part + 1) * count * size), batch, draws, index);
    this.device.write(this.dropoutKeys, dropoutKeys(seed, step, objective.dropoutPlaces, part));
    return batch;
  }

  /**
   * Submits a step, counted from 0. Resolves when it is in the queue (kernels may have to be compiled first) to the
   * promise of its result, so that steps can be submitted ahead.
   */
  async submit(step: number, batch: Batch): Promise<{ result: Promise<StepResult> }> {
    if (batch.labels.length !== this.settings.batch) {
      throw new EmigmError('shape', `a batch of ${batch.labels.length} images, ${this.settings.batch} wanted`);
    }
    this.forgetPrograms();
    this.device.write(this.loss, [0]);
    for (let part = 0; part < this.parts; part++) {
      const { shape } = this.load(step, part, batch);
      const program = this.program(shape);
      await this.session.prepare();
      this.session.run(program);
    }
    const norm = this.optimizer.step(step);
    const loss = this.device.read(this.loss);
    const result = (async () => ({ loss: (await loss)[0], gradient_norm: await norm }))();
    result.catch(() => {}); // whoever awaits it gets the error
    return { result };
  }

  /** Device time of every dispatch of the newest micro-batch's program and of the optimizer; changes the weights. */
  async profile(): Promise<ProfileRow[]> {
    const program = [...this.programs.values()].at(-1)!;
    return [...(await this.session.profile(program)), ...(await this.optimizer.profile())];
  }

  /**
   * After a step whose loss or gradient was not finite (the optimizer then changes nothing any more): repeats it with
   * a check behind every op. Returns what came out wrong first, or that nothing did.
   */
  async findNonFinite(step: number, batch: Batch): Promise<string> {
    const guarded = new Session(this.device, { nanGuard: true });
    try {
      for (let part = 0; part < this.parts; part++) {
        const { shape } = this.load(step, part, batch);
        const program = this.program(shape, guarded);
        await guarded.prepare();
        guarded.run(program);
        await guarded.checkFinite();
      }
      return 'every op of the step gives finite numbers when it is repeated';
    } catch (error) {
      if (error instanceof EmigmError && error.code === 'numeric') return error.message;
      throw error;
    } finally {
      guarded.dispose();
    }
  }

  private forgetPrograms(): void {
    if (this.programs.size < MOST_PROGRAMS) return;
    this.session.dispose();
    this.session = new Session(this.device);
    this.programs = new Map();
  }

  /** Frees all but the parameters. */
  dispose(): void {
    this.session.dispose();
    this.optimizer.dispose();
    this.objective.dispose();
    this.dropoutKeys.destroy();
    this.loss.destroy();
  }
}
