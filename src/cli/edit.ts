/** `emigm edit`: part of a picture drawn anew. */
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import { writeAtomically } from '../formats/files.ts';
import { contactSheet, type RgbImage, readImage, toFloats, writeGif, writePng } from '../formats/images.ts';
import type { LoadedModel } from '../models/load.ts';
import { checkTokenizer, type Tokenizer } from '../models/tokenizer.ts';
import { axesOfRun, modelAxes } from '../sampling/axes.ts';
import { decodeFloats } from '../sampling/decode.ts';
import { type EditResult, edit } from '../sampling/edit.ts';
import { revealFrame, sheetScale } from '../sampling/pictures.ts';
import { addDeviceFlags } from './device_flags.ts';
import type { Io } from './io.ts';
import { addModelFlags } from './model_flags.ts';
import { makeFolder, type OpenFlags, openForDrawing, shippedModel } from './open.ts';
import { parseClasses, positiveInteger, wholeNumber } from './options.ts';
import { createProgress } from './progress.ts';
import { addSettingsFlags, askedSettings, type SettingsFlags } from './settings_flags.ts';
import { addVaeFlags, openVae, type VaeFlags } from './vae_flags.ts';
import { versions } from './versions.ts';

interface EditFlags extends OpenFlags, SettingsFlags, VaeFlags {
  image: string;
  mask: string;
  class?: string;
  count: number;
  dilate: number;
  feather?: number;
  out: string;
  saveSteps?: boolean;
}

export function registerEdit(program: Command, io: Io): void {
  const option = (flags: string, text: string, parse: (text: string) => unknown) =>
    new Option(flags, text).argParser(parse);
  const command = program
    .command('edit')
    .summary('draw part of a picture anew')
    .description(
      'Draws the part of a picture anew that is bright in the mask; the rest stays as it is, byte for byte. The picture ' +
        'is cropped to the model as for training. Writes PNG files, a sheet and a JSON file with the settings.',
    )
    .requiredOption('-i, --image <file>', 'the picture: JPEG, PNG or WebP')
    .requiredOption('--mask <file>', 'a picture of the same size, bright where to draw')
    .addOption(
      new Option('-m, --model <file>', 'a model file (safetensors, or an official .pth)').default(
        shippedModel(),
        'the shipped clothing32',
      ),
    )
    .option('-c, --class <name>', 'name or number of what is to be seen; default: without a class')
    .addOption(option('-n, --count <n>', 'how many variants', positiveInteger).default(1))
    .addOption(
      option(
        '--dilate <n>',
        'tokens around the masked ones that are drawn too, as they show its edge',
        wholeNumber,
      ).default(1),
    )
    .addOption(
      option(
        '--feather <n>',
        'pixels over which the picture passes into what is drawn; default: 0 for pixel models, half of --dilate for others',
        wholeNumber,
      ),
    )
    .option('-o, --out <folder>', 'where to write', 'out')
    .option('--save-steps', 'also write an animated GIF of the reveal')
    .option('-q, --quiet', 'print nothing but errors')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  emigm edit --image photo.jpg --mask mask.png --class hat -n 4\n' +
        '  emigm edit --image photo.jpg --mask mask.png --class 207 \\\n' +
        '      --model b-256.safetensors --vae kl16.ckpt',
    )
    .action((flags: EditFlags) => editCommand(flags, io));
  addSettingsFlags(command);
  addVaeFlags(command);
  addDeviceFlags(command, { draws: true });
  addModelFlags(command);
}

async function editCommand(flags: EditFlags, io: Io): Promise<void> {
  makeFolder(flags.out);
  const image = await readImage(flags.image, { orient: true });
  const mask = await readImage(flags.mask, { orient: true });
  const model = await openForDrawing(flags, io);
  let tokenizer: Tokenizer | undefined;
  try {
    const { config, info } = model;
    if (flags.vae !== undefined) {
      tokenizer = await openVae(flags, model.device, io);
      checkTokenizer(config, tokenizer, flags.vae);
    } else if (config.vaeStride > 1) {
      throw new EmigmError('input', 'this model draws latents; name its tokenizer: --vae');
    }
    const wanted = flags.class === undefined ? [] : parseClasses(flags.class, config.classes, info.classNames);
    if (wanted.length > 1) throw new EmigmError('input', `--class ${flags.class}: name one class`);
    const frames: RgbImage[][] = [];
    const indices = Array.from({ length: flags.count }, (_, i) => i);
    const progress = createProgress(io, { label: 'drawing', total: flags.count, quiet: flags.quiet });
    let result: EditResult;
    try {
      result = await edit(model, {
        ...askedSettings(flags),
        image,
        mask,
        class: wanted[0],
        tokenizer,
        dilate: flags.dilate,
        feather: flags.feather,
        indices,
        batch: flags.batch,
        signal: io.signal,
        onStep: async ({ imagesDone, step, steps, batch, latents, revealed }) => {
          progress.update(imagesDone + (batch.length * step) / steps, `${imagesDone} of ${flags.count} variants`);
          if (!flags.saveSteps) return;
          frames[step - 1] ??= [];
          frames[step - 1].push(...(await framesOf(model, tokenizer, await latents(), await revealed(), io.signal)));
        },
      });
    } finally {
      progress.stop();
    }
    await writeResult(flags, model, tokenizer, result, frames);
    if (flags.quiet) return;
    const { masked, images } = result;
    const drawn = masked.filter((one) => one === 1).length;
    io.out(
      `${join(flags.out, 'sheet.png')} (${images.length} variants; ${drawn} of ${masked.length} tokens drawn anew, ` +
        `${(result.stats.seconds.total / images.length).toFixed(3)} s each)`,
    );
  } finally {
    tokenizer?.dispose();
    model.dispose();
  }
}

async function framesOf(
  model: LoadedModel,
  tokenizer: Tokenizer | undefined,
  latents: Float32Array,
  revealed: readonly Uint8Array[],
  signal: AbortSignal,
): Promise<RgbImage[]> {
  const size = latents.length / revealed.length;
  let pictures = revealed.map((_, i) => latents.slice(i * size, (i + 1) * size));
  if (tokenizer) {
    const decoded: Float32Array<ArrayBuffer>[] = [];
    for await (const one of decodeFloats(model, tokenizer, pictures, signal)) decoded.push(one);
    pictures = decoded;
  }
  return revealed.map((mask, i) => revealFrame(pictures[i], model.config.imageSize, mask));
}

const variant = (index: number): string => `edit-${String(index).padStart(4, '0')}.png`;

async function writeResult(
  flags: EditFlags,
  model: LoadedModel,
  tokenizer: Tokenizer | undefined,
  { original, masked, images, settings, stats }: EditResult,
  frames: readonly RgbImage[][],
): Promise<void> {
  const { out } = flags;
  for (const { index, image } of images) await writePng(join(out, variant(index)), image);
  const { config, device, info } = model;
  // The picture, what of it was seen, and the variants.
  const seen = hatched(original, masked);
  const all = [original, seen, ...images.map(({ image }) => image)];
  const columns = Math.min(all.length, 6);
  await writePng(join(out, 'sheet.png'), contactSheet(all, columns, { scale: sheetScale(config.imageSize, columns) }));
  if (frames.length > 0) {
    const each = Math.min(images.length, 6);
    const sheets = frames.map((pictures) =>
      contactSheet(pictures, each, { scale: sheetScale(config.imageSize, each) }),
    );
    const delays = sheets.map((_, i) => (i === sheets.length - 1 ? 2000 : 200));
    await writeGif(join(out, 'reveal.gif'), sheets, delays);
  }
  const about = {
    model: { file: flags.model, name: info.name },
    vae: tokenizer && { file: flags.vae, kind: tokenizer.kind },
    image: flags.image,
    mask: flags.mask,
    class: flags.class,
    dilate: flags.dilate,
    feather: flags.feather,
    tokens: { drawn: masked.filter((one) => one === 1).length, all: masked.length },
    config,
    settings: { ...settings, seed: Number(settings.seed) },
    axes: axesOfRun(modelAxes(config, info), settings),
    adapter: device.name,
    driver: device.driver,
    versions: versions(),
    date: new Date().toISOString(),
    seconds: { ...stats.seconds, encode: tokenizer?.seconds.encode, decode: tokenizer?.seconds.decode },
    images: images.map(({ index }) => ({ file: variant(index), index })),
  };
  await writeAtomically(join(out, 'edit.json'), (put) => put(Buffer.from(`${JSON.stringify(about, null, 2)}\n`)));
}

/** The picture as the model sees it: what is drawn anew is hatched. */
function hatched(picture: RgbImage, masked: Uint8Array): RgbImage {
  return revealFrame(
    toFloats(picture),
    picture.width,
    masked.map((one) => 1 - one),
  );
}
