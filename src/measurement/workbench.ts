/** Models, tokenizers and recorded batches that stay on the device between runs, as far as there is room. */
import { EmigmError } from '../errors.ts';
import type { Device, DeviceOptions } from '../gpu/device.ts';
import { openDevice } from '../ops/open_device.ts';
import { PartTimer } from '../gpu/timer.ts';
import { type ModelConfig, presets } from '../models/config.ts';
import { type DiscreteConfig, isDiscrete } from '../models/discrete/config.ts';
import { DiscreteNetwork } from '../models/discrete/network.ts';
import { Emigm } from '../models/emigm.ts';
import type { ModelInfo } from '../models/info.ts';
import { modelKind } from '../models/kind.ts';
import { loadAny } from '../models/load_any.ts';
import { checkTokenizer, loadTokenizer, type Tokenizer } from '../models/tokenizer.ts';
import { recommendedSettings } from '../sampling/axes.ts';
import type { BatchSampler } from '../sampling/batch.ts';
import type { DiscreteSampler } from '../sampling/discrete/batch.ts';
import { planDiscrete } from '../sampling/discrete/plan.ts';
import { prepareDiscrete } from '../sampling/discrete/sample.ts';
import { prepareBatch } from '../sampling/memory.ts';
import { planBatch } from '../sampling/plan.ts';
import { resolveSettings, type SampleSettings } from '../sampling/settings.ts';
import { askedOf, checkPreset, type Point, pointId, rungName, sizeConfig } from './point.ts';
import { randomCodebook, randomWeights } from './random_weights.ts';
import { checkUsed } from './rungs.ts';

export interface WorkbenchOptions {
  adapter?: string;
  /** A tokenizer's file: decoding is then part of what is measured. */
  vae?: string;
  seed?: number;
  /** Bytes of weights and activations that may stay between runs besides those in use. */
  keepBytes?: number;
  onLoading?: (what: string, done: number) => void;
  signal?: AbortSignal;
}

/** A model on its device. */
export interface OpenedModel {
  readonly name: string;
  readonly isRandom: boolean;
  readonly device: Device;
  readonly network: Emigm | DiscreteNetwork;
  readonly config: ModelConfig | DiscreteConfig;
  readonly info: Partial<ModelInfo>;
  readonly tokenizer?: Tokenizer;
  /** On the device. */
  readonly bytes: number;
  dispose(): void;
}

/** A point that can be run again and again. */
export interface Prepared {
  readonly point: Point;
  readonly model: OpenedModel;
  readonly settings: SampleSettings;
  readonly sampler: BatchSampler | DiscreteSampler;
  readonly timer: PartTimer | undefined;
  /** Seconds for recording and compiling. */
  readonly seconds: number;
  /** It has run before, so that memory is in place and code compiled. */
  isWarm: boolean;
  /** Plans the batch and puts its inputs on the device. */
  load(): void;
  dispose(): void;
}

const MIB = 2 ** 20;

export class Workbench {
  private readonly options: WorkbenchOptions;
  /** By implementations chosen: these are a matter of the whole device. */
  private readonly devices = new Map<string, Device>();
  /** The longest unused first, as the next. */
  private readonly models = new Map<string, OpenedModel>();
  private readonly batches = new Map<string, Prepared>();

  constructor(options: WorkbenchOptions = {}) {
    this.options = options;
  }

  /** The device of these implementations. */
  async device(kernel: Point['kernel'] = {}): Promise<Device> {
    const name = rungName(kernel);
    const options: DeviceOptions = { adapter: this.options.adapter, variants: kernel };
    let device = this.devices.get(name);
    if (!device) this.devices.set(name, (device = await openDevice(options)));
    return device;
  }

  /**
   * The point's model, loaded unless it still is.
   * @throws EmigmError 'input' when there is no such model, and as loading does
   */
  async model(point: Point): Promise<OpenedModel> {
    const { model: name, preset, codes, stored, kernel } = point;
    const isRandom = presets[name] !== undefined;
    if (!isRandom) checkPreset(point, (await modelKind(name)) === 'discrete');
    const key = [name, isRandom ? `${preset} ${codes}` : '', stored, rungName(kernel)].join(' ');
    const known = this.models.get(key);
    this.models.delete(key);
    const opened = known ?? (await this.open(name, point));
    this.models.set(key, opened);
    return opened;
  }

  private async open(name: string, point: Point): Promise<OpenedModel> {
    const { stored, kernel } = point;
    const { vae, onLoading, signal } = this.options;
    const device = await this.device(kernel);
    this.makeRoom();
    const before = device.allocated;
    const onProgress = (done: number): void => {
      onLoading?.(name, done);
      if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
    };
    const size = presets[name];
    const config = size && sizeConfig(size, point);
    const options = { stored, onProgress };
    const loaded = config
      ? { config, info: {}, network: await randomNetwork(device, config, options) }
      : await loadAny(name, { device, ...options });
    let tokenizer: Tokenizer | undefined;
    try {
      if (vae !== undefined) {
        tokenizer = await loadTokenizer(vae, { device, stored: stored === 'int8' ? undefined : stored, onProgress });
        checkTokenizer(loaded.config, tokenizer, vae);
      }
      await device.done();
    } catch (error) {
      tokenizer?.dispose();
      loaded.network.dispose();
      throw error;
    }
    const { network } = loaded;
    const dispose = (): void => {
      tokenizer?.dispose();
      network.dispose();
    };
    const bytes = device.allocated - before;
    return { ...loaded, name, isRandom: config !== undefined, device, tokenizer, bytes, dispose };
  }

  /** The point, recorded and compiled, its memory taken. @throws EmigmError 'input', 'memory', 'aborted' */
  async prepared(point: Point): Promise<Prepared> {
    const key = pointId(point);
    const known = this.batches.get(key);
    this.batches.delete(key);
    // Its model becomes the most recent one too.
    const model = await this.model(point);
    const prepared = known ?? (await this.prepare(point, model));
    this.batches.set(key, prepared);
    return prepared;
  }

  private async prepare(point: Point, model: OpenedModel): Promise<Prepared> {
    const { batch } = point;
    const { network, device, config, info, isRandom } = model;
    const settings = settingsOf(point, isRandom ? undefined : info, this.options.seed);
    this.makeRoom(model);
    const classes = Array.from({ length: batch }, (_, i) => i % config.classes);
    const indices = classes.map((_, i) => i);
    const start = performance.now();
    const scale = config.vaeStride === 1 && config.channels === 3 ? 1 / (info.dataScale ?? 1) : undefined;
    const prepared = await record(network, { settings, classes, indices, scale });
    const { sampler } = prepared;
    const seconds = (performance.now() - start) / 1000;
    try {
      const dispatches = sampler.allPrograms.flatMap((program) => program.dispatches);
      checkUsed(point.kernel, dispatches);
    } catch (error) {
      sampler.dispose();
      throw error;
    }
    const timer = device.hasTimestamps ? new PartTimer(device) : undefined;
    const dispose = (): void => {
      sampler.dispose();
      timer?.dispose();
    };
    return { point, model, settings, ...prepared, timer, seconds, isWarm: false, dispose };
  }

  /** Gives back what has not been used for longest, until what is left may stay; never `used` and its batches. */
  private makeRoom(used?: OpenedModel): void {
    const { keepBytes = [...this.devices.values()].some(({ isCpu }) => isCpu) ? 1024 * MIB : 8192 * MIB } =
      this.options;
    const held = () =>
      [...this.models.values()].reduce((sum, { bytes }) => sum + bytes, 0) +
      [...this.batches.values()].reduce((sum, { sampler }) => sum + sampler.memory.total, 0);
    for (const [key, batch] of [...this.batches]) {
      if (held() <= keepBytes) return;
      batch.dispose();
      this.batches.delete(key);
    }
    for (const [key, model] of [...this.models]) {
      if (held() <= keepBytes) return;
      if (model === used) continue;
      model.dispose();
      this.models.delete(key);
    }
  }

  dispose(): void {
    for (const batch of this.batches.values()) batch.dispose();
    for (const model of this.models.values()) model.dispose();
    for (const device of this.devices.values()) device.dispose();
    for (const map of [this.batches, this.models, this.devices]) map.clear();
  }
}

/**
 * Settings of a point: the defaults, what the model file recommends, what the point asks for.
 * @throws EmigmError 'input' naming the first setting that is wrong
 */
export function settingsOf(point: Point, info: Partial<ModelInfo> | undefined, seed?: number): SampleSettings {
  return resolveSettings(recommendedSettings(info ?? {}), askedOf(point), { seed });
}

type LoadOptions = Pick<Point, 'stored'> & { onProgress: (done: number) => void };

const randomNetwork = (
  device: Device,
  config: ModelConfig | DiscreteConfig,
  options: LoadOptions,
): Promise<Emigm | DiscreteNetwork> =>
  isDiscrete(config)
    ? DiscreteNetwork.load(device, config, randomCodebook(config), randomWeights(config), options)
    : Emigm.load(device, config, randomWeights(config), options);

interface Drawing {
  settings: SampleSettings;
  classes: readonly number[];
  indices: readonly number[];
  scale: number | undefined;
}

/** Records the batch for either kind of network. */
async function record(
  network: Emigm | DiscreteNetwork,
  { settings, classes, indices, scale }: Drawing,
): Promise<Pick<Prepared, 'sampler' | 'load'>> {
  if (network instanceof DiscreteNetwork) {
    const plan = () => planDiscrete(network, settings, classes, indices);
    const sampler = await prepareDiscrete(network, settings, plan(), scale);
    return { sampler, load: () => sampler.load(plan()) };
  }
  const plan = () => planBatch(network, settings, classes, indices);
  const sampler = await prepareBatch(network, settings, plan(), scale);
  return { sampler, load: () => sampler.load(plan()) };
}
