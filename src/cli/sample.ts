/** `emigm sample`: images from a model file. */
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import { writeAtomically } from '../formats/files.ts';
import { contactSheet, type RgbImage, writeGif, writePng } from '../formats/images.ts';
import { writeSafetensors } from '../formats/safetensors.ts';
import { type GeneratedImage, sampleStream, settingsFor } from '../index.ts';
import { listAxes } from '../masking/axes.ts';
import { isDiscrete } from '../models/discrete/config.ts';
import type { DrawingModel } from '../models/load_any.ts';
import { checkTokenizer } from '../models/tokenizer.ts';
import { axesOfRun, modelAxes } from '../sampling/axes.ts';
import { decodeFloats } from '../sampling/decode.ts';
import { revealFrame, sheetScale } from '../sampling/pictures.ts';
import { precompile } from '../sampling/memory.ts';
import { emptyStats } from '../sampling/sample.ts';
import { refuseSavings } from '../sampling/savings.ts';
import type { SampleSettings } from '../sampling/settings.ts';
import { type Shard, shardRange } from '../sampling/shards.ts';
import { addDeviceFlags } from './device_flags.ts';
import type { Io } from './io.ts';
import { addModelFlags } from './model_flags.ts';
import { makeFolder, openAnyForDrawing, shippedModel } from './open.ts';
import { parseClasses, positiveInteger, wholeNumber } from './options.ts';
import { createProgress, duration } from './progress.ts';
import { type Decoding, describe, fileName, type Job, type SampleFlags, withPictures } from './sample_files.ts';
import { checkShard, drawShard } from './sample_shard.ts';
import { StartClock, startText } from './sample_start.ts';
import { addSettingsFlags, askedSettings } from './settings_flags.ts';
import { addShardFlag, shardOf } from './shard_flags.ts';
import { addVaeFlags, openVae } from './vae_flags.ts';

export function registerSample(program: Command, io: Io): void {
  const option = (flags: string, text: string, parse: (text: string) => unknown) =>
    new Option(flags, text).argParser(parse);
  const command = program
    .command('sample')
    .summary('draw images')
    .description(
      'Draws images: one PNG each, a contact sheet and a JSON file with every setting that makes them again. ' +
        'Settings that are not given come from the model file, else they are the official ones at 256 px.',
    )
    .addOption(
      new Option('-m, --model <file>', 'a model file (safetensors, or an official .pth)').default(
        shippedModel(),
        'the shipped clothing32',
      ),
    )
    .option('-c, --class <list>', 'names or numbers, or all: dress,hat  3,7  all', 'all')
    .addOption(option('-n, --count <n>', 'images a class', positiveInteger).default(4))
    .addOption(
      option(
        '--first-index <n>',
        'number of the first image of each class, to go on from an earlier run',
        wholeNumber,
      ).default(0),
    )
    .option('-o, --out <folder>', 'where to write', 'out')
    .option('--save-steps', 'also write an animated GIF of the reveal')
    .option('--sheet-only', 'write the contact sheet and the JSON file, no single images')
    .option('-q, --quiet', 'print nothing but errors')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  emigm sample --class dress,hat -n 8\n' +
        '  emigm sample --model b-256.safetensors --vae kl16.ckpt --class 207 \\\n' +
        '      --cfg 4 --cfg-interval 0.1,0.3\n' +
        '  emigm sample --preset mar --steps 32\n' +
        '  emigm sample --steps 32 --head-steps 14 --seed 7 --save-steps',
    )
    .action((flags: SampleFlags) => sampleCommand(flags, io));
  addSettingsFlags(command);
  addShardFlag(command);
  addVaeFlags(command);
  addDeviceFlags(command, { draws: true });
  addModelFlags(command);
}

interface Drawn extends Job {
  image: GeneratedImage;
}

const isPixelModel = ({ vaeStride, channels }: DrawingModel['config']) => vaeStride === 1 && channels === 3;

/** What is to be drawn, known once the model file is open. */
interface Plan {
  settings: SampleSettings;
  chosen: number[];
  jobs: Job[];
}

/** @throws EmigmError 'input' for settings, classes or a reveal that cannot be */
function planOf(flags: SampleFlags, model: Pick<DrawingModel, 'config' | 'info'>): Plan {
  if (flags.saveSteps && !isPixelModel(model.config) && !flags.vae) {
    throw new EmigmError('input', '--save-steps needs pictures, and this model makes latents; name a tokenizer: --vae');
  }
  const head = (['headSteps', 'headSampler'] as const).find((name) => flags[name] !== undefined);
  if (head && isDiscrete(model.config)) {
    throw new EmigmError(
      'input',
      `--${head === 'headSteps' ? 'head-steps' : 'head-sampler'} is of a diffusion head; this model draws codes`,
    );
  }
  if (isDiscrete(model.config)) refuseSavings(flags);
  const last = flags.firstIndex + flags.count - 1;
  if (last >= 2 ** 32)
    throw new EmigmError(
      'input',
      `--first-index: images are numbered up to ${2 ** 32 - 1}, and -n ${flags.count} go up to ${last}`,
    );
  const chosen = parseClasses(flags.class, model.config.classes, model.info.classNames);
  const jobs = chosen.flatMap((classNumber) =>
    Array.from({ length: flags.count }, (_, i) => ({ classNumber, number: flags.firstIndex + i })),
  );
  return { settings: settingsFor(model, askedSettings(flags)), chosen, jobs };
}

function ownJobs({ jobs }: Plan, shard: Shard | undefined): Job[] {
  if (!shard) return jobs;
  const { first, end } = shardRange(jobs.length, shard);
  return jobs.slice(first, end);
}

async function sampleCommand(flags: SampleFlags, io: Io): Promise<void> {
  const began = performance.now();
  const start = new StartClock();
  const shard = shardOf(flags);
  if (shard) checkShard(flags);
  makeFolder(flags.out);
  let plan: Plan | undefined;
  const model = await openAnyForDrawing(flags, io, (early) => {
    plan = planOf(flags, early);
    const first = ownJobs(plan, shard).slice(0, flags.batch);
    if (first.length === 0) return;
    const [classes, indices] = [first.map(({ classNumber }) => classNumber), first.map(({ number }) => number)];
    const { network } = early;
    const { settings } = plan;
    start.recording(() => precompile(network, settings, classes, indices));
  });
  let vae: Decoding | undefined;
  try {
    const { settings, chosen, jobs } = plan ?? planOf(flags, model);
    const { config, info } = model;
    if (flags.vae !== undefined) {
      vae = { tokenizer: await openVae(flags, model.device, io), file: flags.vae, seconds: 0 };
      checkTokenizer(config, vae.tokenizer, flags.vae);
    }
    start.loaded(model.device.secondsToOpen);
    const name = (number: number) => info.classNames?.[number] ?? String(number);
    if (shard) return await drawShard({ flags, model, vae, settings, jobs, name, shard, start }, io);
    if (!flags.quiet) io.out(`axes: ${listAxes(axesOfRun(modelAxes(config, info), settings))}`);
    const stats = emptyStats();
    const frames: RgbImage[][] = [];
    const drawn: Drawn[] = [];
    const progress = createProgress(io, { label: 'drawing', total: jobs.length * settings.steps, quiet: flags.quiet });
    try {
      const stream = sampleStream(
        model,
        {
          ...settings,
          classes: jobs.map(({ classNumber }) => classNumber),
          indices: jobs.map(({ number }) => number),
          batch: flags.batch,
          signal: io.signal,
          onStep: async ({ imagesDone, images, step, steps, batch, latents, revealed }) => {
            progress.update(
              (imagesDone + (batch.length * step) / steps) * settings.steps,
              `${imagesDone} of ${images} images`,
            );
            if (!flags.saveSteps) return;
            const now = await latents();
            const size = now.length / batch.length;
            const each = batch.map((_, i) => now.slice(i * size, (i + 1) * size));
            const pictures = vae ? await all(decodeFloats(model, vae.tokenizer, each, io.signal)) : each;
            frames[step - 1] ??= [];
            frames[step - 1].push(
              ...(await revealed()).map((mask, i) => revealFrame(pictures[i], config.imageSize, mask)),
            );
          },
        },
        stats,
      );
      for await (const batch of stream) {
        for await (const image of withPictures(batch, model, vae, io)) {
          const job = jobs[drawn.length];
          drawn.push({ ...job, image });
          if (image.image && !flags.sheetOnly)
            await writePng(join(flags.out, fileName(name(job.classNumber), job.number)), image.image);
          start.image(stats.seconds.prepare);
        }
      }
    } finally {
      progress.stop();
    }
    const written =
      isPixelModel(config) || vae
        ? await writePictures(flags, drawn, chosen.map(name), frames)
        : await writeLatents(flags, drawn, [
            config.channels,
            Math.sqrt(drawn[0].image.latents.length / config.channels),
          ]);
    const sidecar = join(flags.out, 'sample.json');
    await writeAtomically(sidecar, (put) =>
      put(
        Buffer.from(
          `${JSON.stringify(describe(flags, model, settings, stats, drawn, name, vae, start.first), null, 2)}\n`,
        ),
      ),
    );
    if (flags.quiet) return;
    const each = (stats.seconds.total + (vae?.seconds ?? 0)) / stats.images;
    io.out(`${written} (${stats.images} image${stats.images === 1 ? '' : 's'}; ${sidecar} has every setting)`);
    io.out(
      `${model.device.name}: NFE ${stats.nfe}, ${each.toFixed(3)} s an image at batch ${Math.min(flags.batch, jobs.length)}, ` +
        `${duration((performance.now() - began) / 1000)} in all`,
    );
    if (start.first) io.out(startText(start.first));
  } finally {
    vae?.tokenizer.dispose();
    model.dispose();
  }
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

async function writePictures(
  flags: SampleFlags,
  drawn: Drawn[],
  labels: string[],
  frames: RgbImage[][],
): Promise<string> {
  const sheet = join(flags.out, 'sheet.png');
  const options = { labels, scale: sheetScale(drawn[0].image.image!.width, flags.count) };
  await writePng(
    sheet,
    contactSheet(
      drawn.map(({ image }) => image.image!),
      flags.count,
      options,
    ),
  );
  if (frames.length > 0) {
    const sheets = frames.map((images) => contactSheet(images, flags.count, options));
    await writeGif(
      join(flags.out, 'reveal.gif'),
      sheets,
      sheets.map((_, i) => (i === sheets.length - 1 ? 2000 : 200)),
    );
  }
  return sheet;
}

/** Models of latents need a tokenizer to make pictures; the latents are kept for it. */
async function writeLatents(flags: SampleFlags, drawn: Drawn[], [channels, side]: number[]): Promise<string> {
  const path = join(flags.out, 'latents.safetensors');
  const latents = new Float32Array(drawn.length * channels * side * side);
  for (const [i, { image }] of drawn.entries()) latents.set(image.latents, i * channels * side * side);
  const labels = Int32Array.from(drawn, ({ classNumber }) => classNumber);
  await writeSafetensors(
    path,
    [
      { name: 'latents', dtype: 'F32', shape: [drawn.length, channels, side, side], data: latents },
      { name: 'labels', dtype: 'I32', shape: [drawn.length], data: labels },
    ],
    {},
  );
  return path;
}
