/**
 * One batch of a model of codes: its reveal loop recorded as one program a step, replayed without any readback. Which
 * tokens are known lies on the device; how many, the host has decided.
 */
import { EmigmError } from '../../errors.ts';
import { bufferBytes } from '../../gpu/device.ts';
import type { Program, Recorder } from '../../gpu/recorder.ts';
import { Session } from '../../gpu/session.ts';
import type { Tensor } from '../../gpu/tensor.ts';
import type { PartTimer } from '../../gpu/timer.ts';
import { latentSize } from '../../models/config.ts';
import type { DiscreteNetwork, DiscreteRows } from '../../models/discrete/network.ts';
import { type CodeFilter, guideLogits, sampleCodes } from '../../ops/categorical.ts';
import { type PositionList, positionList, revealConfident, slotList } from '../../ops/code_lists.ts';
import { gatherRows, type Index, MASKED } from '../../ops/tokens.ts';
import { IndexList } from '../indices.ts';
import type { PreparedBatch } from '../sample.ts';
import type { DiscreteInput, DiscreteStep } from './plan.ts';

/** Logits on the device at a time. */
const MOST_LOGITS = 2 ** 26;

export interface DiscreteOptions extends CodeFilter {
  seed: number | bigint;
  /** Multiplies the pictures when they are read: 1 / data scale for pixel models. */
  outputScale?: number;
  /** Default 2^26. */
  mostLogits?: number;
}

/** Where the lists of a step begin; those of the whole batch are `classes` to `identity`. */
interface StepLayout extends DiscreteStep {
  /** Of the tokens that are asked, in `positions`; of their rows in the decoder. */
  asked: number;
  queryRows: number;
  /** Rows through the output layer at once; `z` lists the conditional rows, then the unconditional ones; -1: all. */
  chunks: { first: number; count: number; z: number }[];
}

interface Layout {
  values: number[];
  /** [batch * tokens] tokens in the order in which they are revealed; nothing where confidence decides. */
  positions: number[];
  offsets: Record<'classes' | 'everyToken' | 'everyPosition' | 'identity', number>;
  steps: StepLayout[];
}

const structureOf = ({ classRows, steps }: DiscreteInput): string =>
  JSON.stringify([classRows.length, steps.map((step) => ({ ...step, positions: step.positions !== undefined }))]);

export class DiscreteSampler implements PreparedBatch<DiscreteInput> {
  readonly model: DiscreteNetwork;
  readonly size: number;
  readonly stepCount: number;
  readonly nfe: number;
  /** Rows through the output layer. */
  readonly headEvaluations: number;
  private readonly options: DiscreteOptions;
  private readonly session: Session;
  private readonly structure: string;
  private readonly programs: { steps: Program[]; finish: Program };
  private readonly tensors: Record<
    'codes' | 'positions' | 'sampled' | 'confidence' | 'index' | 'imageIndices' | 'images',
    Tensor
  >;

  constructor(model: DiscreteNetwork, input: DiscreteInput, options: DiscreteOptions) {
    const { device, config, sequenceLength: tokens } = model;
    this.model = model;
    this.options = options;
    this.size = input.classRows.length;
    this.stepCount = input.steps.length;
    this.structure = structureOf(input);
    const layout = this.layout(input);
    const halves = ({ guidance }: DiscreteStep) => (guidance === undefined ? 1 : 2);
    this.nfe = input.steps.reduce((sum, step) => sum + halves(step), 0);
    this.headEvaluations = this.size * input.steps.reduce((sum, step) => sum + halves(step) * askedOf(step), 0);
    const all = this.size * tokens;
    const side = latentSize(config);
    this.tensors = {
      codes: device.tensor([all], 'u32', 'codes'),
      positions: device.tensor([all], 'u32', 'positions'),
      sampled: device.tensor([all], 'u32', 'sampled codes'),
      confidence: device.tensor([all], 'f32', 'confidence'),
      index: device.tensor([layout.values.length], 'u32', 'row numbers'),
      imageIndices: device.tensor([this.size], 'u32', 'image indices'),
      images: device.tensor([this.size, config.channels, side, side], 'f32', 'images'),
    };
    this.session = new Session(device);
    this.programs = {
      steps: layout.steps.map((step, i) =>
        this.session.record(`step ${i}`, (r) => this.recordStep(r, layout, step, i)),
      ),
      finish: this.session.record('images', (r) => {
        const { codes, images, index } = this.tensors;
        const everyToken = { tensor: index, offset: layout.offsets.everyToken };
        model.pictures(r, codes, everyToken, this.size, options.outputScale ?? 1, images);
      }),
    };
  }

  fits(input: DiscreteInput): boolean {
    return structureOf(input) === this.structure;
  }

  get dispatches(): number {
    return this.allPrograms.reduce((sum, { dispatches }) => sum + dispatches.length, 0);
  }

  /** Every program of a batch, for profiles and FLOP counts; the part `head` is the logits and the choice by them. */
  get allPrograms(): readonly Program[] {
    return [...this.programs.steps, this.programs.finish];
  }

  /** Bytes that the batch takes besides the weights: in all, and its largest buffer. Known before `prepare`. */
  get memory(): { total: number; largest: number } {
    const own = Object.values(this.tensors).map(({ bytes }) => bytes);
    const buffers = [...own, ...this.session.plan()].map(bufferBytes);
    return { total: buffers.reduce((a, b) => a + b, 0), largest: Math.max(...buffers) };
  }

  /** Compiles and takes memory. */
  prepare(): Promise<void> {
    return this.session.prepare();
  }

  load(input: DiscreteInput): void {
    if (!this.fits(input)) throw new EmigmError('shape', 'this batch has another structure than the one recorded');
    const { device } = this.model;
    const { values, positions } = this.layout(input);
    device.write(this.tensors.index, values);
    if (positions.length > 0) device.write(this.tensors.positions, positions);
    device.write(this.tensors.imageIndices, input.imageIndices);
    device.write(this.tensors.codes, new Uint32Array(this.tensors.codes.size).fill(MASKED));
  }

  /** Nothing comes before the first step. */
  begin(): void {}

  step(i: number, timer?: PartTimer): void {
    this.session.run(this.programs.steps[i], timer);
  }

  async images(): Promise<Float32Array<ArrayBuffer>> {
    this.session.run(this.programs.finish);
    const images = await this.model.device.read(this.tensors.images);
    await this.session.checkFinite();
    return images;
  }

  /** The codes as they are now [size * tokens], MASKED where masked. */
  codes(): Promise<Uint32Array> {
    return this.model.device.readIntegers(this.tensors.codes);
  }

  dispose(): void {
    this.session.dispose();
    for (const tensor of Object.values(this.tensors)) tensor.destroy();
  }

  private recordStep(r: Recorder, layout: Layout, step: StepLayout, i: number): void {
    const { model, size: batch, options } = this;
    const { codes, positions: tensor, sampled, confidence, imageIndices: images } = this.tensors;
    const { sequenceLength: seqLen, config } = model;
    const { count, guidance, choiceTemperature } = step;
    const asked = askedOf(step);
    const halves = guidance === undefined ? 1 : 2;
    const positions: Index = { tensor, offset: step.asked };
    if (!step.positions) positionList(r, codes, positions, { batch, seqLen, of: 'masked', count: asked });
    const at = this.rows(r, layout, step, halves);
    const shape = { batch: halves * batch, visible: seqLen - step.masked, queries: asked };
    const z = model.conditions(r, codes, at, shape);
    const index = (offset: number): Index => ({ tensor: this.tensors.index, offset });
    for (const chunk of step.chunks) {
      const rows = halves * chunk.count;
      const part = chunk.z < 0 ? z : gatherRows(r, z, index(chunk.z), rows, config.decoderWidth);
      const logits = model.logits(r, part);
      r.within('head', () => {
        if (guidance !== undefined) guideLogits(r, logits, config.codes, guidance);
        const list = { tensor, offset: positions.offset + chunk.first };
        const of = { positions: list, images, seqLen, rows: chunk.count };
        const { seed, temperature, topK, topP } = options;
        const sampling = { seed, step: i, temperature, topK, topP, choiceTemperature };
        sampleCodes(r, logits, config.codes, of, sampling, { sampled, confidence });
      });
    }
    r.within('head', () => {
      revealConfident(r, { sampled, confidence }, positions, codes, { batch, masked: asked, count });
    });
  }

  /** Row numbers of a step: fixed ones, and those that depend on what is known, which the device lists. */
  private rows(r: Recorder, { offsets }: Layout, step: StepLayout, halves: number): DiscreteRows {
    const { size: batch } = this;
    const { codes, index } = this.tensors;
    const { sequenceLength: seqLen, config } = this.model;
    const { bufferSize: buffer, mae } = config;
    const fixed = (offset: number): Index => ({ tensor: index, offset });
    /** A list for every half, each [batch, count]. */
    const listed = (label: string, count: number, put: (list: Index, half: number) => void): Index => {
      const list = r.temp([halves * batch * count], 'u32', label);
      for (let half = 0; half < halves; half++) put({ tensor: list, offset: half * batch * count }, half);
      return { tensor: list, offset: 0 };
    };
    const count = seqLen - step.masked;
    const visible = (label: string, options: Partial<PositionList>): Index =>
      listed(label, count, (list) => positionList(r, codes, list, { batch, seqLen, of: 'visible', count, ...options }));
    const seen = mae && count > 0;
    const length = buffer + seqLen;
    return {
      classes: fixed(offsets.classes),
      tokenRows: seen ? visible('visible tokens', {}) : fixed(offsets.everyToken),
      visible: seen ? visible('visible positions', { stride: 0 }) : fixed(offsets.everyPosition),
      slot: listed('slots', seqLen, (list) => slotList(r, codes, list, { batch, seqLen, shift: buffer })),
      identity: fixed(offsets.identity),
      queryRows: step.positions
        ? fixed(step.queryRows)
        : listed('asked rows', step.masked, (list, half) => {
            const shift = half * batch * length + buffer;
            const options = { of: 'masked', count: step.masked, stride: length, shift } as const;
            positionList(r, codes, list, { batch, seqLen, ...options });
          }),
    };
  }

  /** All lists of a batch. The same structure gives the same offsets. */
  private layout({ classRows, steps }: DiscreteInput): Layout {
    const { config, sequenceLength: tokens, unconditional } = this.model;
    const { size: batch } = this;
    const length = config.bufferSize + tokens;
    const list = new IndexList();
    const halves = [0, 1];
    const every = (f: (image: number, position: number, half: number) => number): number[] =>
      halves.flatMap((half) => classRows.flatMap((_, b) => Array.from({ length: tokens }, (_, p) => f(b, p, half))));
    const offsets = {
      classes: list.add([...classRows, ...classRows.map(() => unconditional)]),
      everyToken: list.add(every((b, p) => b * tokens + p)),
      everyPosition: list.add(every((_, p) => p)),
      identity: list.add(every((_, p) => config.bufferSize + p)),
    };
    const positions: number[] = [];
    const layouts = steps.map((step): StepLayout => {
      const asked = positions.length;
      const places = step.positions?.map((one) => Array.from(one));
      for (const [b, one] of (places ?? []).entries()) for (const p of one) positions.push(b * tokens + p);
      const rows = (half: number) =>
        (places ?? []).flatMap((one, b) => one.map((p) => (half * batch + b) * length + config.bufferSize + p));
      return { ...step, asked, queryRows: list.add(halves.flatMap(rows)), chunks: this.chunks(list, step) };
    });
    return { values: list.values, positions, offsets, steps: layouts };
  }

  private chunks(list: IndexList, step: DiscreteStep): StepLayout['chunks'] {
    const { device, config } = this.model;
    const guided = step.guidance !== undefined;
    const most = Math.min(this.options.mostLogits ?? MOST_LOGITS, device.limits.maxStorageBufferBindingSize / 4);
    const limit = Math.max(1, Math.floor(most / config.codes / (guided ? 2 : 1)));
    const all = this.size * askedOf(step);
    if (all <= limit) return [{ first: 0, count: all, z: -1 }];
    const chunks: StepLayout['chunks'] = [];
    for (let first = 0; first < all; first += limit) {
      const count = Math.min(limit, all - first);
      const own = Array.from({ length: count }, (_, i) => first + i);
      chunks.push({ first, count, z: list.add(guided ? [...own, ...own.map((row) => all + row)] : own) });
    }
    return chunks;
  }
}

/** Tokens of each image whose logits are wanted: by confidence all masked ones. */
const askedOf = ({ positions, masked, count }: DiscreteStep): number => (positions ? count : masked);
