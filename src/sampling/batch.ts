/** One batch of images: its reveal loop recorded as one program a step, replayed without any readback. */
import { EmigmError } from '../errors.ts';
import { bufferBytes } from '../gpu/device.ts';
import type { Program, Recorder } from '../gpu/recorder.ts';
import { Session } from '../gpu/session.ts';
import type { Tensor } from '../gpu/tensor.ts';
import type { PartTimer } from '../gpu/timer.ts';
import { gridSize, type ModelConfig } from '../models/config.ts';
import type { EncoderCache, Emigm, TrunkShape } from '../models/emigm.ts';
import { headRowLimit, timeEmbedding } from '../nn/head.ts';
import { gatherRows, patchify, scatterRows, unpatchify } from '../ops/tokens.ts';
import { type HeadSampler, headsOf, type NoiseSource, type StepHead } from './head_sampler.ts';
import { addTrunk, IndexList, type SequenceRows, type TrunkOffsets, trunkIndices } from './indices.ts';
import { addNoise, type ChunkNoise, recordNoise } from './noise.ts';

/** A step of the reveal loop, as the host has decided it. */
export interface PlannedStep {
  /** Grid positions to reveal in each image of the batch; equally many in each. */
  positions: ArrayLike<number>[];
  /** Guidance scale; undefined: the unconditional half is not evaluated. */
  guidance?: number;
  /** In the order of `positions`: the numbers of the steps that its noise is drawn for, and tokens an image of each. */
  parts?: { step: number; count: number }[];
  /** Steps of the head; undefined: the sampler's. */
  headSteps?: number;
  /** The encoder runs over the tokens of the step before alone; see `Trunk.encode`. Not in the first two steps. */
  reusesEncoder?: boolean;
}

/** What is known of every image of a batch from the start: the rest of a picture that is edited. */
export interface KeptTokens {
  /** [tokens]: 0 where the token is kept, 1 where it is to be drawn. */
  masked: Uint8Array;
  /** [channels, side, side], as images are read: times the output scale. */
  latents: Float32Array;
}

export interface BatchInput {
  /** Row of the model's class inputs for each image. */
  classRows: number[];
  /** Index of each image in the run: what its noise depends on. */
  imageIndices: number[];
  steps: PlannedStep[];
  kept?: KeptTokens;
}

export interface BatchOptions {
  seed: number | bigint;
  head: HeadSampler;
  /** Multiplies the latents when they are read: 1 / data scale for pixel models. */
  outputScale?: number;
  /** Noise from elsewhere (recorded draws). Default: counter-based, by (seed, image, position, step). */
  noise?: NoiseSource;
}

interface StepLayout {
  shape: TrunkShape;
  trunk: TrunkOffsets;
  usesCache: boolean;
  /** Rows through the head at once; `z` lists the chunk's conditional rows, then its unconditional ones; -1: all, as they are. */
  chunks: (Chunk & { noise: ChunkNoise[] })[];
  /** Row of the token state of each new token. */
  outRows: number;
  count: number;
  guidance?: number;
  headSteps?: number;
}

interface Chunk {
  first: number;
  count: number;
  z: number;
}

interface Layout {
  values: number[];
  noiseRows: number[];
  steps: StepLayout[];
}

/** What the recording depends on; batches of equal structure share one. */
function structureOf(input: BatchInput): string {
  const perStep = input.steps.map(({ positions, guidance, ...rest }) => [positions[0].length, guidance ?? null, rest]);
  const perClass = [...countBy(input.classRows).values()];
  const kept = input.kept?.masked.filter((masked) => masked === 0).length ?? 0;
  return JSON.stringify([input.classRows.length, perStep, perClass.length, Math.max(...perClass), kept]);
}

function countBy(values: readonly number[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return counts;
}

export class BatchSampler {
  readonly model: Emigm;
  readonly size: number;
  readonly stepCount: number;
  /** Of one batch: sequences through the trunk a step count 1, guided steps 2 (what papers call NFE). */
  readonly nfe: number;
  /** Rows through the diffusion head, summed over its evaluations. */
  readonly headEvaluations: number;
  private readonly session: Session;
  private readonly structure: string;
  private readonly programs: { kept?: Program; times: Program; steps: Program[]; finish: Program };
  private readonly tensors: Record<'tokens' | 'index' | 'noiseRows' | 'netTimes' | 'times' | 'images', Tensor>;
  private readonly cache: EncoderCache | undefined;

  constructor(model: Emigm, input: BatchInput, options: BatchOptions) {
    const { device, config, tokenDim, sequenceLength } = model;
    this.model = model;
    this.size = input.classRows.length;
    this.stepCount = input.steps.length;
    this.structure = structureOf(input);
    this.session = new Session(device);
    const layout = this.layout(input);
    const { heads, netTimes } = headsOf(input.steps, options.head);
    this.nfe = input.steps.reduce((sum, { guidance }) => sum + (guidance === undefined ? 1 : 2), 0);
    this.headEvaluations = layout.steps.reduce(
      (sum, { count, guidance, headSteps }) =>
        sum + count * heads.get(headSteps)!.head.evaluations * (guidance === undefined ? 1 : 2),
      0,
    );
    const { channels, patchSize: patch } = config;
    const side = gridSize(config);
    const { outputScale = 1 } = options;
    this.tensors = createAll({
      tokens: () => device.tensor([this.size * sequenceLength, tokenDim], 'f32', 'tokens'),
      index: () => device.tensor([Math.max(1, layout.values.length)], 'u32', 'indices'),
      noiseRows: () => device.tensor([layout.noiseRows.length / 2, 2], 'u32', 'noise rows'),
      netTimes: () => device.tensor([netTimes.length], 'f32', 'head times', netTimes),
      times: () => device.tensor([netTimes.length, model.head.width], 'f32', 'time embeddings'),
      images: () => device.tensor([this.size, channels, side * patch, side * patch], 'f32', 'images'),
    });
    const kept = layout.steps.filter(({ usesCache }) => usesCache).map(({ shape }) => shape.batch);
    this.cache = kept.length > 0 ? model.encoderCache(Math.max(...kept)) : undefined;
    const noise: NoiseSource =
      options.noise ??
      ((r, out, { step, headStep, first, copy }) => {
        const { noise: parts } = layout.steps[step].chunks.find((chunk) => chunk.first === first)!;
        const { noiseRows: rows, index } = this.tensors;
        recordNoise(r, { rows, index }, parts, { seed: options.seed, headStep, channels: tokenDim, copy }, out);
      });
    this.programs = {
      kept:
        input.kept &&
        this.session.record('kept tokens', (r) => {
          const { tokens, images } = this.tensors;
          patchify(r, images, { channels, side, patch, scale: 1 / outputScale }, tokens);
        }),
      times: this.session.record('times', (r) => {
        timeEmbedding(r, model.head, this.tensors.netTimes, this.tensors.times);
      }),
      steps: layout.steps.map((step, i) =>
        this.session.record(`step ${i}`, (r) => this.recordStep(r, step, i, heads.get(step.headSteps)!, noise)),
      ),
      finish: this.session.record('images', (r) => {
        const { tokens, images } = this.tensors;
        unpatchify(r, tokens, { channels, side, patch, scale: outputScale }, images);
      }),
    };
  }

  /** Whether another batch can use this recording. */
  fits(input: BatchInput): boolean {
    return structureOf(input) === this.structure;
  }

  /** Dispatches of a whole batch. */
  get dispatches(): number {
    return this.allPrograms.reduce((sum, { dispatches }) => sum + dispatches.length, 0);
  }

  /** Every program of a batch, for profiles and FLOP counts. */
  get allPrograms(): readonly Program[] {
    const { kept, times, steps, finish } = this.programs;
    return [...(kept ? [kept] : []), times, ...steps, finish];
  }

  /** Compiles and takes memory. */
  prepare(): Promise<void> {
    return this.session.prepare();
  }

  /** Bytes that the batch takes besides the weights: in all, and its largest buffer. Known before `prepare`. */
  get memory(): { total: number; largest: number } {
    const own = this.ownTensors.map(({ bytes }) => bytes);
    const buffers = [...own, ...this.session.plan()].map(bufferBytes);
    return { total: buffers.reduce((a, b) => a + b, 0), largest: Math.max(...buffers) };
  }

  /** Puts a batch's labels, orders and indices on the device. Its structure must fit. */
  load(input: BatchInput): void {
    const { index, noiseRows, tokens, images } = this.tensors;
    if (!this.fits(input)) throw new EmigmError('shape', 'this batch has another structure than the one recorded');
    const { values, noiseRows: rows } = this.layout(input);
    this.model.device.write(index, values);
    this.model.device.write(noiseRows, rows);
    this.model.device.write(tokens, new Float32Array(tokens.size));
    if (!input.kept || !this.programs.kept) return;
    const latents = withoutMasked(input.kept, this.model.config);
    for (let i = 0; i < this.size; i++) this.model.device.write(images, latents, i * latents.length);
    this.session.run(this.programs.kept);
  }

  /** Submits what comes before the first step. */
  begin(timer?: PartTimer): void {
    this.session.run(this.programs.times, timer);
  }

  /** Submits step `i`. */
  step(i: number, timer?: PartTimer): void {
    this.session.run(this.programs.steps[i], timer);
  }

  /** The latents as they are now, [size, channels, side, side], times the output scale. */
  async images(): Promise<Float32Array<ArrayBuffer>> {
    this.session.run(this.programs.finish);
    const images = await this.model.device.read(this.tensors.images);
    await this.session.checkFinite();
    return images;
  }

  dispose(): void {
    this.session.dispose();
    for (const tensor of this.ownTensors) tensor.destroy();
  }

  private get ownTensors(): Tensor[] {
    const { tensors, cache } = this;
    return [...Object.values(tensors), ...(cache ? [...cache.keysValues, cache.encoded] : [])];
  }

  private recordStep(
    r: Recorder,
    step: StepLayout,
    i: number,
    { head, firstTime }: StepHead,
    noise: NoiseSource,
  ): void {
    const { model } = this;
    const { tokens, index, times } = this.tensors;
    const { shape, guidance } = step;
    const at = trunkIndices(index, step.trunk);
    const encoded = model.encode(r, tokens, at, shape, step.usesCache ? this.cache : undefined);
    const z = model.decode(r, encoded, at, shape);
    const width = model.config.decoderWidth;
    for (const chunk of step.chunks) {
      const rows = (guidance === undefined ? 1 : 2) * chunk.count;
      const part = chunk.z < 0 ? z : gatherRows(r, z, { tensor: index, offset: chunk.z }, rows, width);
      const x = head.record(r, model.head, part, times, noise, {
        step: i,
        guidance,
        first: chunk.first,
        count: chunk.count,
        firstTime,
      });
      scatterRows(r, x, { tensor: index, offset: step.outRows + chunk.first }, chunk.count, model.tokenDim, tokens);
    }
  }

  /** All index lists of a batch. The same structure gives the same offsets. */
  private layout({ classRows, imageIndices, steps, kept }: BatchInput): Layout {
    const { config, sequenceLength: n, unconditional } = this.model;
    const limit = headRowLimit(this.model.device, this.model.head);
    const list = new IndexList();
    const noiseRows: number[] = [];
    const known = classRows.map(() => Uint8Array.from({ length: n }, (_, p) => (kept?.masked[p] === 0 ? 1 : 0)));
    const layouts = steps.map((planned, step): StepLayout => {
      const { positions, guidance, headSteps, reusesEncoder } = planned;
      const guided = guidance !== undefined;
      const isShared = step === 0 && !kept;
      const usesCache = !isShared && (reusesEncoder || steps[step + 1]?.reusesEncoder === true);
      const visible = known.map((mask) => Array.from({ length: n }, (_, p) => p).filter((p) => mask[p] === 1));
      const conditional = classRows.map((classRow, image): SequenceRows => {
        const fresh = reusesEncoder ? steps[step - 1].positions[image] : undefined;
        return { classRow, image, visible: visible[image], asked: positions[image], fresh };
      });
      const { rows, zRows } = isShared
        ? sharedFirstStep(conditional, guided ? unconditional : undefined)
        : {
            rows: guided
              ? [...conditional, ...conditional.map((row) => ({ ...row, classRow: unconditional }))]
              : conditional,
            zRows: undefined,
          };
      const { shape, offsets } = addTrunk(list, config, rows, usesCache);
      const count = positions.length * positions[0].length;
      const layout = {
        shape,
        trunk: offsets,
        usesCache,
        chunks: addChunks(list, zRows, count, guided, limit).map((chunk) => ({
          ...chunk,
          noise: addNoise({ list, noiseRows }, planned, step, imageIndices, chunk),
        })),
        outRows: list.add(positions.flatMap((asked, image) => Array.from(asked, (p) => image * n + p))),
        count,
        guidance,
        headSteps,
      };
      for (const [image, asked] of positions.entries()) {
        for (const position of Array.from(asked)) known[image][position] = 1;
      }
      return layout;
    });
    return { values: list.values, noiseRows, steps: layouts };
  }
}

/** The latents with 0 where tokens are masked. */
function withoutMasked({ masked, latents }: KeptTokens, config: ModelConfig): Float32Array {
  const { patchSize: patch } = config;
  const side = gridSize(config) * patch;
  return latents.map((value, at) => {
    const row = Math.floor((Math.floor(at / side) % side) / patch);
    return masked[row * gridSize(config) + Math.floor((at % side) / patch)] === 0 ? value : 0;
  });
}

/** Creates tensors in order; when one does not fit, frees those before it. */
function createAll<Name extends string>(make: Record<Name, () => Tensor>): Record<Name, Tensor> {
  const tensors = {} as Record<Name, Tensor>;
  try {
    for (const name of Object.keys(make) as Name[]) tensors[name] = make[name]();
    return tensors;
  } catch (error) {
    for (const tensor of Object.values<Tensor>(tensors)) tensor.destroy();
    throw error;
  }
}

/**
 * Large batches go through the head in chunks, which bounds the memory of its modulations.
 * `zRows`: where z has the conditional rows, then the unconditional; undefined: in just this order.
 */
function addChunks(
  list: IndexList,
  zRows: readonly number[] | undefined,
  count: number,
  guided: boolean,
  limit: number,
): Chunk[] {
  const most = Math.max(1, Math.floor(limit / (guided ? 2 : 1)));
  if (!zRows && count <= most) return [{ first: 0, count, z: -1 }];
  const chunks: Chunk[] = [];
  for (let first = 0; first < count; first += most) {
    const rows = Math.min(most, count - first);
    const own = Array.from({ length: rows }, (_, i) => first + i);
    const wanted = guided ? [...own, ...own.map((row) => count + row)] : own;
    chunks.push({ first, count: rows, z: list.add(wanted.map((row) => zRows?.[row] ?? row)) });
  }
  return chunks;
}

/**
 * With everything masked the network sees the class alone, so the first step is evaluated once for each distinct
 * class, for the asked positions of all its images; classes with fewer images repeat their first image's.
 */
function sharedFirstStep(images: readonly SequenceRows[], unconditional: number | undefined) {
  const groups = new Map<number, number[]>();
  const add = (classRow: number, image: number) => groups.set(classRow, [...(groups.get(classRow) ?? []), image]);
  for (const [image, { classRow }] of images.entries()) add(classRow, image);
  const conditional = [...groups.values()];
  if (unconditional !== undefined)
    groups.set(
      -1,
      images.map((_, image) => image),
    );
  const longest = Math.max(...[...groups.values()].map((members) => members.length));
  const asked = images[0].asked.length;
  const rows: SequenceRows[] = [...groups].map(([classRow, members]) => ({
    classRow: classRow < 0 ? unconditional! : classRow,
    image: 0,
    visible: [],
    asked: Array.from({ length: longest }, (_, i) => Array.from(images[members[i] ?? members[0]].asked)).flat(),
  }));
  const place = (group: number, member: number) =>
    Array.from({ length: asked }, (_, i) => (group * longest + member) * asked + i);
  const where = new Map<number, number[]>();
  for (const [group, members] of conditional.entries()) {
    for (const [member, image] of members.entries()) where.set(image, place(group, member));
  }
  const own = images.flatMap((_, image) => where.get(image)!);
  if (unconditional === undefined) return { rows, zRows: own };
  return { rows, zRows: [...own, ...images.flatMap((_, image) => place(conditional.length, image))] };
}
