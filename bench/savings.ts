/**
 * What cheaper sampling saves in time, and what it costs: the exact setting beside each saving. In a round every point
 * draws the same batch of images; the seconds are compared with those of the exact setting in the same round.
 */
import { mkdirSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { Command } from 'commander';
import { openExtractor, shippedClassifier } from '../src/cli/classifier_flags.ts';
import type { Io } from '../src/cli/io.ts';
import { shippedModel } from '../src/cli/open.ts';
import { finiteNumber, positiveInteger } from '../src/cli/options.ts';
import { createProgress } from '../src/cli/progress.ts';
import { EmigmError } from '../src/errors.ts';
import { verdicts } from '../src/evaluation/agreement.ts';
import type { ClassifierExtractor } from '../src/evaluation/classifier_extractor.ts';
import { collect } from '../src/evaluation/collect.ts';
import { listClassFolders } from '../src/formats/class_folders.ts';
import { readImages, type RgbImage, toBytes } from '../src/formats/images.ts';
import { openJsonLines } from '../src/formats/json_lines.ts';
import type { Device } from '../src/gpu/device.ts';
import { presets } from '../src/models/config.ts';
import { type LoadedModel, loadModel } from '../src/models/load.ts';
import { recommendedSettings } from '../src/sampling/axes.ts';
import { BatchSampler } from '../src/sampling/batch.ts';
import { HeadSampler } from '../src/sampling/head_sampler.ts';
import { planModel, prepareBatch } from '../src/sampling/memory.ts';
import { planBatch } from '../src/sampling/plan.ts';
import { resolveSettings, type SampleSettings } from '../src/sampling/settings.ts';
import { resultHead, writeRows } from './result.ts';
import {
  type Batch,
  encode,
  EXACT,
  rowsOf,
  type SavingPoint,
  savingsTable,
  type Work,
  workTable,
} from './savings_result.ts';
import { runStoppable } from './main.ts';

/** The exact setting, the savings one by one and together; then what else could be done: other numbers of steps. */
const POINTS: readonly SavingPoint[] = [
  { name: EXACT, settings: {} },
  { name: 'exact, another seed', settings: { seed: 1 } },
  ...[4, 2, 1].map((n) => ({ name: `--head-steps-last ${n}`, settings: { headStepsLast: n } })),
  ...[4, 8, 16].map((n) => ({ name: `--share-early ${n}`, settings: { shareEarly: n } })),
  ...[2, 4, 16].map((n) => ({ name: `--reuse-encoder ${n}`, settings: { reuseEncoder: n } })),
  { name: '--counts expected', settings: { counts: 'expected' } },
  { name: 'last 2, share 4, reuse 4', settings: { headStepsLast: 2, shareEarly: 4, reuseEncoder: 4 } },
  { name: '--head-steps 4', settings: { headSteps: 4 } },
  { name: '--steps 12', settings: { steps: 12 } },
];

interface Flags {
  adapter?: string;
  model: string;
  classifier: string;
  data?: string;
  only?: string;
  batch: number;
  rounds: number;
  minutes?: number;
  state: string;
  out?: string;
  work?: string;
}

function command(): Command {
  return new Command('npx tsx bench/savings.ts')
    .description('Measures what cheaper sampling saves, and its difference from the exact images. Prints a table.')
    .option('--adapter <name>', 'auto, gpu, lavapipe, swiftshader or a part of a name (also EMIGM_ADAPTER)')
    .option('--model <file>', 'a pixel model (default: the shipped one)', shippedModel())
    .option('--classifier <file>', 'judges the images (default: the shipped one)', shippedClassifier())
    .option('--data <folder>', 'class folders of photographs that no model was trained on, for the Fréchet distance')
    .option('--only <pattern>', 'points whose name matches this regular expression, beside the exact one')
    .option('--batch <n>', 'images at once', positiveInteger, 20)
    .option('--rounds <n>', 'batches of each point', positiveInteger, 15)
    .option('--minutes <x>', 'starts no round that would end later; the same command goes on', finiteNumber)
    .option('--state <file>', 'measured batches, to go on from', 'out/savings.jsonl')
    .option('--out <file>', 'where the JSON goes, once all rounds are there')
    .option('--work <size>', 'measures nothing: FLOPs of an official size (b-256) with the official settings')
    .addHelpText(
      'after',
      `
Examples:
  npx tsx bench/savings.ts --adapter lavapipe --data clothing/test --out bench/results/lavapipe-savings.json
  npx tsx bench/savings.ts --work b-256`,
    )
    .exitOverride();
}

/** A point that is recorded and has its memory. */
interface Ready {
  point: SavingPoint;
  settings: SampleSettings;
  sampler: BatchSampler;
}

function workOf(sampler: BatchSampler): Work {
  const parts: Record<string, number> = {};
  for (const { part, flops } of sampler.allPrograms.flatMap(({ dispatches }) => dispatches)) {
    if (flops > 0) parts[part] = (parts[part] ?? 0) + flops / sampler.size / 1e9;
  }
  return {
    nfe: sampler.nfe,
    headEvaluations: sampler.headEvaluations / sampler.size,
    gflops: Object.values(parts).reduce((a, b) => a + b, 0),
    parts,
  };
}

/** FLOPs of one image of each point, by recording alone: needs no driver. */
async function planned(size: string, points: readonly SavingPoint[]): Promise<Map<string, Work>> {
  const config = presets[size];
  if (!config) throw new EmigmError('input', `--work ${size}: one of ${Object.keys(presets).join(', ')}`);
  const { model, dispose } = await planModel(config, 'f32', {});
  try {
    return new Map(
      points.map(({ name, settings: asked }) => {
        const settings = resolveSettings(asked);
        const input = planBatch(model, settings, [0], [0]);
        const sampler = new BatchSampler(model, input, { seed: 0, head: new HeadSampler(settings) });
        const work = workOf(sampler);
        sampler.dispose();
        return [name, work];
      }),
    );
  } finally {
    await dispose();
  }
}

/** Images `first`.. of the point's run: pictures, and the seconds from the first submit to the last read. */
async function draw({ network, config, device }: LoadedModel, { settings, sampler }: Ready, first: number) {
  const indices = Array.from({ length: sampler.size }, (_, i) => first + i);
  const classes = indices.map((index) => index % config.classes);
  sampler.load(planBatch(network, settings, classes, indices));
  const began = performance.now();
  sampler.begin();
  for (let step = 0; step < sampler.stepCount; step++) {
    sampler.step(step);
    await device.done();
  }
  const latents = await sampler.images();
  const seconds = (performance.now() - began) / 1000;
  const each = latents.length / sampler.size;
  const images = indices.map((_, i) =>
    toBytes(latents.subarray(i * each, (i + 1) * each), config.imageSize, config.imageSize),
  );
  return { images, classes, seconds };
}

function difference(images: readonly RgbImage[], exact: readonly RgbImage[]) {
  const sums = { absolute: 0, squared: 0, values: 0 };
  for (const [i, { rgb }] of images.entries()) {
    for (const [at, value] of rgb.entries()) {
      const apart = value - exact[i].rgb[at];
      sums.absolute += Math.abs(apart);
      sums.squared += apart * apart;
    }
    sums.values += rgb.length;
  }
  return sums;
}

async function photographs(extractor: ClassifierExtractor, folder: string, io: Io) {
  const { files } = await listClassFolders(folder);
  const progress = createProgress(io, { label: 'photographs', total: files.length });
  try {
    const images = readImages(files, 64);
    const { moments, count } = await collect(extractor, images, {
      batch: 32,
      onProgress: (done) => progress.update(done),
      signal: io.signal,
    });
    return { statistics: moments.statistics(), count };
  } finally {
    progress.stop();
  }
}

async function measure(flags: Flags, points: readonly SavingPoint[], argv: readonly string[], io: Io): Promise<void> {
  const began = performance.now();
  const minutes = () => (performance.now() - began) / 60_000;
  const model = await loadModel(flags.model, { device: { adapter: flags.adapter } });
  const { device, network, config, info } = model;
  const ready: Ready[] = [];
  mkdirSync(dirname(flags.state), { recursive: true });
  const state = await openJsonLines(flags.state);
  const { extractor } = await openExtractor(device, flags.classifier);
  try {
    if (config.vaeStride !== 1 || config.channels !== 3) {
      throw new EmigmError('input', `${flags.model} makes latents; give a model of pixels`);
    }
    const head = headOf(device, argv, flags);
    const { date: _, command: __, ...about } = { ...head, classifier: basename(flags.classifier) };
    const batches: Batch[] = [];
    for (const line of state.lines) {
      if ('about' in line && JSON.stringify(line.about) !== JSON.stringify(about)) {
        throw new EmigmError(
          'input',
          `${flags.state} is of another run (adapter, commit or batch); name another --state`,
        );
      }
      if ('point' in line) batches.push(line as unknown as Batch);
    }
    if (state.lines.length === 0) state.append({ about });
    const reference = flags.data === undefined ? undefined : await photographs(extractor, flags.data, io);
    for (const point of points) {
      const settings = resolveSettings(recommendedSettings(info), point.settings);
      const indices = Array.from({ length: flags.batch }, (_, i) => i);
      const classes = indices.map((index) => index % config.classes);
      const input = planBatch(network, settings, classes, indices);
      const sampler = await prepareBatch(network, settings, input, 1 / (info.dataScale ?? 1));
      ready.push({ point, settings, sampler });
    }
    const works = new Map(ready.map(({ point, sampler }) => [point.name, workOf(sampler)]));
    const progress = createProgress(io, { label: 'measuring', total: flags.rounds * points.length });
    let slowest = 0;
    let round = 0;
    let isWarm = false;
    for (; round < flags.rounds; round++) {
      const isKnown = (name: string) => batches.some((batch) => batch.round === round && batch.point === name);
      if (points.every(({ name }) => isKnown(name))) continue;
      if (flags.minutes !== undefined && minutes() + slowest > flags.minutes) break;
      if (!isWarm) for (const one of ready) await draw(model, one, 0);
      isWarm = true;
      const start = minutes();
      const exact = await draw(model, ready[0], round * flags.batch);
      // Another order in every round: a machine that grows warm or busy slows all points alike.
      for (let i = 0; i < ready.length; i++) {
        if (io.signal.aborted) throw new EmigmError('aborted', 'stopped; the same command goes on');
        const one = ready[(i + round) % ready.length];
        const { images, classes, seconds } = await draw(model, one, round * flags.batch);
        const { features, logits } = await extractor.extract(images);
        const found = verdicts(logits!, extractor.classes);
        const batch: Batch = {
          point: one.point.name,
          round,
          images: images.length,
          seconds,
          ...difference(images, exact.images),
          right: found.filter(({ label }, image) => label === classes[image]).length,
          features: encode(features),
        };
        if (isKnown(batch.point)) continue;
        state.append({ ...batch });
        batches.push(batch);
        progress.update(round * points.length + i + 1, one.point.name);
      }
      slowest = Math.max(slowest, minutes() - start);
    }
    progress.stop();
    if (round < flags.rounds) return io.out(`${round} of ${flags.rounds} rounds; the same command goes on`);
    const rows = rowsOf(points, works, batches, reference?.statistics, extractor);
    io.out(savingsTable(rows));
    if (!flags.out) return;
    await writeRows(flags.out, { ...head, photographs: reference?.count, rounds: flags.rounds, rows });
    io.out(`\nwritten to ${flags.out}`);
  } finally {
    state.close();
    for (const { sampler } of ready) sampler.dispose();
    extractor.dispose();
    model.dispose();
  }
}

/** What is at the head of the result. */
function headOf(device: Device, argv: readonly string[], { model, batch }: Flags) {
  return { ...resultHead(device, argv, 'npx tsx bench/savings.ts'), model: basename(model), batch };
}

export async function savings(argv: readonly string[], io: Io): Promise<void> {
  const flags = command()
    .configureOutput({ writeOut: (text) => io.out(text.trimEnd()), writeErr: (text) => io.err(text.trimEnd()) })
    .parse([...argv], { from: 'user' })
    .opts<Flags>();
  const pattern = new RegExp(flags.only ?? '');
  const points = POINTS.filter(({ name }) => name === EXACT || pattern.test(name));
  if (flags.work === undefined) return measure(flags, points, argv, io);
  const ofSampling = points.filter(({ settings }) => settings.seed === undefined);
  io.out(workTable(await planned(flags.work, ofSampling)));
}

if (process.argv[1] === import.meta.filename) process.exitCode = await runStoppable('savings', savings);
