/** A classifier's training on the device: one recorded step, replayed. */
import { EmigmError } from '../../errors.ts';
import type { Device } from '../../gpu/device.ts';
import type { Program } from '../../gpu/recorder.ts';
import { Session } from '../../gpu/session.ts';
import type { Tensor } from '../../gpu/tensor.ts';
import type { ClassifierConfig } from '../../models/classifier.ts';
import { Tape } from '../../nn/tape.ts';
import type { WeightSource } from '../../nn/weights.ts';
import { crossEntropy, crossEntropyBackward } from '../../ops/cross_entropy.ts';
import { dropoutKeys } from '../../ops/dropout.ts';
import type { Batch } from '../data/types.ts';
import { Optimizer } from '../optimizer.ts';
import { ParameterStore } from '../parameters.ts';
import type { StepResult } from '../trainer.ts';
import { classifierParameters, ClassifierTrainingNetwork, initialClassifier } from './network.ts';
import type { ClassifierSettings } from './settings.ts';

export class ClassifierTrainer {
  readonly device: Device;
  readonly config: ClassifierConfig;
  readonly settings: ClassifierSettings;
  readonly parameters: ParameterStore;
  private readonly network: ClassifierTrainingNetwork;
  private readonly optimizer: Optimizer;
  private readonly session: Session;
  private readonly program: Program;
  private readonly images: Tensor;
  private readonly labels: Tensor;
  private readonly weights: Tensor;
  private readonly keys: Tensor;
  private readonly loss: Tensor;

  private constructor(device: Device, config: ClassifierConfig, settings: ClassifierSettings) {
    const { batch } = settings;
    this.device = device;
    this.config = config;
    this.settings = settings;
    this.parameters = new ParameterStore(device, classifierParameters(config));
    this.network = new ClassifierTrainingNetwork(this.parameters, config, batch);
    this.optimizer = new Optimizer(this.parameters, this.network, settings);
    this.images = device.tensor([batch, 3, config.imageSize, config.imageSize], 'f32', 'images');
    this.labels = device.tensor([batch], 'u32', 'labels');
    this.weights = device.tensor([batch], 'f32', 'loss weights', new Float32Array(batch).fill(1 / batch));
    this.keys = device.tensor([this.network.dropoutPlaces, 2], 'u32', 'dropout keys');
    this.loss = device.tensor([1], 'f32', 'loss');
    this.session = new Session(device);
    this.program = this.record(this.session);
  }

  /** Takes the memory, draws the initial weights and compiles the kernels. @throws EmigmError 'memory' */
  static async create(
    device: Device,
    config: ClassifierConfig,
    settings: ClassifierSettings,
  ): Promise<ClassifierTrainer> {
    const trainer = new ClassifierTrainer(device, config, settings);
    try {
      await trainer.parameters.load(initialClassifier(config, settings.seed));
      await trainer.session.prepare();
      await trainer.optimizer.prepare();
      trainer.optimizer.refresh();
      return trainer;
    } catch (error) {
      trainer.dispose();
      throw error;
    }
  }

  /** Forward pass, mean cross-entropy with label smoothing, backward pass. */
  private record(session: Session): Program {
    const { labels, weights, loss: total } = this;
    const { dropout: probability, labelSmoothing: smoothing } = this.settings;
    const { classes } = this.config;
    return session.record('step', (r) => {
      const tape = new Tape(r);
      const drop = probability > 0 ? { keys: this.keys, probability } : undefined;
      const logits = this.network.logits(tape, this.images, drop);
      const dLogits = r.within('loss', () => {
        const inputs = { logits, labels, weights };
        return crossEntropyBackward(r, inputs, classes, crossEntropy(r, inputs, classes, { smoothing, total }));
      });
      tape.seed(logits, dLogits);
      tape.backward();
    });
  }

  /** Learning rate of step number `step`, counted from 0. */
  learningRate(step: number): number {
    return this.optimizer.learningRate(step);
  }

  private load(step: number, { images, labels }: Batch): void {
    if (labels.length !== this.settings.batch) {
      throw new EmigmError('shape', `a batch of ${labels.length} images, ${this.settings.batch} wanted`);
    }
    this.device.write(this.images, images);
    this.device.write(this.labels, labels);
    this.device.write(this.keys, dropoutKeys(this.settings.seed, step, this.network.dropoutPlaces));
  }

  /** Submits a step, counted from 0; resolves when it is in the queue to the promise of its result. */
  async submit(step: number, batch: Batch): Promise<{ result: Promise<StepResult> }> {
    this.load(step, batch);
    this.session.run(this.program);
    const norm = this.optimizer.step(step);
    const loss = this.device.read(this.loss);
    const result = (async () => ({ loss: (await loss)[0], gradient_norm: await norm }))();
    result.catch(() => {}); // whoever awaits it gets the error
    return { result };
  }

  /** Repeats a step whose loss was not finite, with a check behind every op: what came out wrong first. */
  async findNonFinite(step: number, batch: Batch): Promise<string> {
    const guarded = new Session(this.device, { nanGuard: true });
    try {
      this.load(step, batch);
      const program = this.record(guarded);
      await guarded.prepare();
      guarded.run(program);
      await guarded.checkFinite();
      return 'every op of the step gives finite numbers when it is repeated';
    } catch (error) {
      if (error instanceof EmigmError && error.code === 'numeric') return error.message;
      throw error;
    } finally {
      guarded.dispose();
    }
  }

  /** The averaged weights, for the network in use and for files. */
  average(): WeightSource {
    return {
      shape: (name) => this.parameters.find(name).shape,
      read: (name) => this.parameters.read(name, 'average'),
    };
  }

  dispose(): void {
    this.session.dispose();
    this.optimizer.dispose();
    this.network.dispose();
    this.parameters.dispose();
    for (const tensor of [this.images, this.labels, this.weights, this.keys, this.loss]) tensor.destroy();
  }
}
