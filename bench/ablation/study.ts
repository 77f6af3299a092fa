/** The runner: trains what is asked for, samples from it, judges the samples, and keeps all it has measured. */
import { existsSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from '../../src/formats/crc32.ts';
import { openJsonLines } from '../../src/formats/json_lines.ts';
import { writePictureFolder } from '../../src/formats/picture_folder.ts';
import { type RgbImage, toBytes } from '../../src/formats/rgb.ts';
import type { Device } from '../../src/gpu/device.ts';
import { EmigmError } from '../../src/errors.ts';
import type { Machine } from '../../src/measurement/schema.ts';
import { type LoadedModel, loadModel } from '../../src/models/load.ts';
import { recommendedSettings } from '../../src/sampling/axes.ts';
import { emptyStats, sampleBatches } from '../../src/sampling/sample.ts';
import { resolveSettings } from '../../src/sampling/settings.ts';
import { packFolder } from '../../src/training/data/pack.ts';
import { drawShape, SHAPE_CLASSES } from '../../src/training/data/shapes.ts';
import { parseRunConfig } from '../../src/training/run_config.ts';
import { type Case, pointId, type Study } from './axes.ts';
import { Judge, type JudgeOptions, PICTURE_SEEDS, trainJudge } from './judge.ts';
import { checkOptions, type Line, ofKind, parseLines, type StudyOptions, VERSION } from './log.ts';
import { trainOnce } from './training.ts';

export interface RunOptions {
  study: Study;
  /** Where data, classifier, runs and measurements lie. */
  out: string;
  seeds: readonly number[];
  /** Images seen in each training. */
  images: number;
  /** Images drawn for each point, as many of each class. */
  samples: number;
  /** Text of the configuration of network and training. */
  network: string;
  /** Pictures that are trained on. */
  pictures: number;
  /** Held-out pictures that are compared with. */
  reference: number;
  classifierSteps: number;
  command: string;
  machine: Machine;
  /** The share of the work that is done since the start, and what is being done. */
  onProgress?: (done: number, what: string) => void;
  signal?: AbortSignal;
}

/** The file of measurements in the folder of a study. */
export const measurementsFile = (out: string) => join(out, 'measurements.jsonl');

/** Sets of held-out pictures that tell the floor of the distance. */
const FLOOR_SETS = 3;
/** Images drawn at once. */
const DRAW_BATCH = 50;

type Job = { kind: 'training'; training: string; seed: number } | { kind: 'point'; point: Case; seed: number };

/**
 * Measures what the folder does not have yet: all of a seed before the next, each training before its points. Returns
 * all lines. @throws EmigmError 'input' for options that do not fit each other or the folder, 'aborted', 'numeric'
 */
export async function runStudy(device: Device, options: RunOptions): Promise<Line[]> {
  const { study, out, samples, reference, command, machine, signal } = options;
  const config = parseRunConfig(options.network, {}, 'network.json');
  const { imageSize } = config.model;
  const { batch } = config.hyperparameters;
  const multiple = (name: string, value: number, of: number, what: string) => {
    if (value % of !== 0) throw new EmigmError('input', `${name} ${value} is no multiple of ${of}, ${what}`);
  };
  multiple('--images', options.images, batch, 'the size of a batch');
  for (const count of [samples, reference]) multiple('--samples', count, SHAPE_CLASSES.length, 'the classes');
  const file = await openJsonLines(measurementsFile(out));
  try {
    const lines = parseLines(file.lines, file.path);
    const add = (line: Line): void => {
      file.append(line);
      lines.push(line);
    };
    const facts = studyOptions(options, imageSize);
    if (!checkOptions(lines, facts, out)) add({ kind: 'header', version: VERSION, options: facts });
    const jobs = jobsOf(study, options.seeds, lines);
    if (jobs.length === 0) return lines;
    add({ kind: 'start', date: new Date().toISOString(), command, machine });
    await new Runner(device, options, imageSize, batch, lines, add).run(jobs);
    options.onProgress?.(1, '');
    return lines;
  } finally {
    file.close();
    if (signal?.aborted) rmSync(join(out, 'pictures.part.safetensors'), { force: true });
  }
}

function studyOptions(options: RunOptions, imageSize: number): StudyOptions {
  const { images, samples, pictures, reference, classifierSteps, network } = options;
  const checksum = crc32(new TextEncoder().encode(network)).toString(16).padStart(8, '0');
  return { images, samples, pictures, reference, imageSize, classifierSteps, network: checksum };
}

/** What is left to do. */
function jobsOf({ axes }: Study, seeds: readonly number[], lines: readonly Line[]): Job[] {
  const points = new Map(axes.flatMap(({ cases }) => cases.map((point) => [pointId(point), point])));
  const trainings = [...new Set([...points.values()].map(({ training }) => training))];
  const trained = new Set(ofKind(lines, 'training').map(({ training, seed }) => `${seed} ${training}`));
  const measured = new Set(ofKind(lines, 'point').map(({ id, seed }) => `${seed} ${id}`));
  return seeds.flatMap((seed) =>
    trainings.flatMap((training): Job[] => {
      const left = [...points].filter(([id, point]) => point.training === training && !measured.has(`${seed} ${id}`));
      const own: Job[] = trained.has(`${seed} ${training}`) ? [] : [{ kind: 'training', training, seed }];
      return [...own, ...left.map(([, point]): Job => ({ kind: 'point', point, seed }))];
    }),
  );
}

class Runner {
  private readonly device: Device;
  private readonly options: RunOptions;
  private readonly imageSize: number;
  private readonly batch: number;
  private readonly lines: readonly Line[];
  private readonly add: (line: Line) => void;

  constructor(
    device: Device,
    options: RunOptions,
    imageSize: number,
    batch: number,
    lines: readonly Line[],
    add: (line: Line) => void,
  ) {
    this.device = device;
    this.options = options;
    this.imageSize = imageSize;
    this.batch = batch;
    this.lines = lines;
    this.add = add;
  }

  private path(name: string): string {
    return join(this.options.out, name);
  }

  private folder(training: string, seed: number): string {
    return join(this.options.out, 'runs', `${training.replaceAll(' ', '-')}-${seed}`);
  }

  async run(jobs: readonly Job[]): Promise<void> {
    const { onProgress, signal } = this.options;
    const clock = new Costs(this.options, this.lines);
    onProgress?.(0, 'data and classifier');
    await this.makeData();
    const judge = await this.openJudge();
    let model: { path: string; loaded: LoadedModel } | undefined;
    try {
      for (const [i, job] of jobs.entries()) {
        if (signal?.aborted) throw new EmigmError('aborted', 'stopped; the same command goes on');
        const rest = jobs.slice(i);
        const start = performance.now();
        if (job.kind === 'training') {
          const what = `training ${job.training}, seed ${job.seed}`;
          await this.train(job, (done) => onProgress?.(clock.share(rest, done), what));
        } else {
          onProgress?.(clock.share(rest), `${pointId(job.point)}, seed ${job.seed}`);
          const path = join(this.folder(job.point.training, job.seed), 'model.safetensors');
          if (model?.path !== path) {
            model?.loaded.dispose();
            model = undefined;
            model = { path, loaded: await loadModel(path, { device: this.device }) };
          }
          await this.measure(model.loaded, judge, job);
        }
        clock.spent(job, (performance.now() - start) / 1000);
      }
    } finally {
      model?.loaded.dispose();
      judge.dispose();
    }
  }

  /** Pictures as `emigm data shapes` draws them, and the same packed. */
  private async makeData(): Promise<void> {
    const { pictures, signal } = this.options;
    const [folder, shard, part] = ['pictures', 'pictures.safetensors', 'pictures.part.safetensors'].map((name) =>
      this.path(name),
    );
    if (existsSync(shard)) return;
    const size = this.imageSize;
    const draw = (index: number) => drawShape(index, size, PICTURE_SEEDS.training);
    await writePictureFolder(folder, 'train', { classes: SHAPE_CLASSES, count: pictures, force: true, draw, signal });
    await packFolder(folder, part, { size, signal });
    renameSync(part, shard);
  }

  private async openJudge(): Promise<Judge> {
    const { pictures, reference, samples, classifierSteps: steps, signal, onProgress } = this.options;
    const file = this.path('classifier.safetensors');
    const options: JudgeOptions = { imageSize: this.imageSize, pictures, reference, steps, signal };
    if (!existsSync(file)) {
      const onStep = (done: number) => onProgress?.(0, `classifier, ${Math.floor(100 * done)}%`);
      await trainJudge(this.device, this.path('pictures'), file, { ...options, onStep });
    }
    const judge = await Judge.open(this.device, file, options);
    if (ofKind(this.lines, 'judge').length > 0) return judge;
    const floor = await judge.floor(samples, FLOOR_SETS);
    this.add({ kind: 'judge', features: judge.features, accuracy: judge.accuracy, images: reference, floor });
    return judge;
  }

  private async train({ training, seed }: Job & { kind: 'training' }, onShare: (done: number) => void): Promise<void> {
    const { study, images, network, signal } = this.options;
    const steps = images / this.batch;
    const start = performance.now();
    const loss = await trainOnce(this.device, {
      folder: this.folder(training, seed),
      data: this.path('pictures.safetensors'),
      network,
      changes: { ...study.trainings[training], steps, seed },
      signal,
      onStep: (step) => onShare(step / steps),
    });
    this.add({ kind: 'training', training, seed, steps, loss, seconds: (performance.now() - start) / 1000 });
  }

  /** Draws the images 0 .. samples - 1 of the training's own seed, in turn of each class, and judges them. */
  private async measure(model: LoadedModel, judge: Judge, { point, seed }: Job & { kind: 'point' }): Promise<void> {
    const { samples, signal } = this.options;
    const { network, config, info } = model;
    const stats = emptyStats();
    const asked = { ...point.sampling, cfgInterval: [...point.sampling.cfgInterval] as [number, number], seed };
    const request = {
      ...resolveSettings(recommendedSettings(info), asked),
      classes: Array.from({ length: samples }, (_, i) => i % config.classes),
      batch: Math.min(DRAW_BATCH, samples),
      outputScale: 1 / info.dataScale!,
      signal,
    };
    async function* pictures(): AsyncGenerator<RgbImage> {
      for await (const images of sampleBatches(network, request, stats)) {
        for (const { latents } of images) yield toBytes(latents, config.imageSize, config.imageSize);
      }
    }
    const start = performance.now();
    const verdict = await judge.judge(pictures());
    const seconds = (performance.now() - start) / 1000;
    const { nfe, headEvaluations } = stats;
    const counted = { images: samples, nfe, headEvaluations: headEvaluations / samples };
    this.add({ kind: 'point', id: pointId(point), seed, ...counted, ...verdict, seconds });
  }
}

/** How long the rest will take: jobs of a kind take as long as those before, by their size. */
class Costs {
  private readonly images: number;
  private readonly samples: number;
  private readonly known: Record<Job['kind'], { size: number; seconds: number }>;
  private done = 0;

  constructor({ images, samples }: RunOptions, lines: readonly Line[]) {
    this.images = images;
    this.samples = samples;
    // At first: what two cores do.
    this.known = { training: { size: images, seconds: images / 200 }, point: { size: 600, seconds: 2 } };
    for (const { seconds } of ofKind(lines, 'training')) this.learn('training', images, seconds);
  }

  private learn(kind: Job['kind'], size: number, seconds: number): void {
    this.known[kind].size += size;
    this.known[kind].seconds += seconds;
  }

  private size(job: Job): number {
    if (job.kind === 'training') return this.images;
    const { steps, headSteps, cfg } = job.point.sampling;
    return this.samples * (steps + Number(headSteps)) * (cfg === 1 ? 1 : 2);
  }

  spent(job: Job, seconds: number): void {
    this.done += seconds;
    this.learn(job.kind, this.size(job), seconds);
  }

  /** Of the time since the start; `begun`: the share of the first of `left` that is done. */
  share(left: readonly Job[], begun = 0): number {
    const cost = (job: Job) => (this.size(job) * this.known[job.kind].seconds) / this.known[job.kind].size;
    const now = begun * cost(left[0]);
    const all = left.reduce((sum, job) => sum + cost(job), 0);
    return (this.done + now) / (this.done + all);
  }
}
