/** `emigm reconstruct`: a picture through the tokenizer and back, to see what latents keep of it. */
import type { Command } from 'commander';
import { EmigmError } from '../errors.ts';
import { centerCrop, type RgbImage, readImage, toBytes, toFloats, writePng } from '../formats/images.ts';
import { addDeviceFlags, type DeviceFlags, deviceOptions } from './device_flags.ts';
import type { Io } from './io.ts';
import { positiveInteger, wholeNumber } from './options.ts';
import { addVaeFlags, openVae, type VaeFlags } from './vae_flags.ts';

interface ReconstructFlags extends VaeFlags, DeviceFlags {
  out: string;
  size?: number;
  draw?: boolean;
  seed: number;
}

export function registerReconstruct(program: Command, io: Io): void {
  const command = program
    .command('reconstruct')
    .summary('a picture to latents and back')
    .description('Encodes a picture, decodes it again, writes the result and prints the PSNR.')
    .argument('<image>', 'a JPEG, PNG or WebP file')
    .option('-o, --out <file>', 'the PNG file to write', 'reconstruction.png')
    .option(
      '--size <n>',
      'crop to a square of so many pixels first; default: as it is, cut to whole latents',
      positiveInteger,
    )
    .option('--draw', 'draw from the posterior, as training does, instead of its mean')
    .option('--seed <n>', 'of the draw', wholeNumber, 0)
    .option('-q, --quiet', 'print nothing but errors')
    .addHelpText('after', '\nExample:\n  emigm reconstruct photo.jpg --vae kl16.ckpt --size 256')
    .action((image: string, flags: ReconstructFlags) => reconstructCommand(image, flags, io));
  addDeviceFlags(addVaeFlags(command, { required: true }));
}

async function reconstructCommand(path: string, flags: ReconstructFlags, io: Io): Promise<void> {
  const photo = await readImage(path, { orient: true });
  const tokenizer = await openVae(flags, deviceOptions(flags), io);
  try {
    const image = flags.size === undefined ? cut(photo, tokenizer.stride, path) : centerCrop(photo, flags.size);
    const draw = flags.draw ? { seed: flags.seed, indices: [0] } : undefined;
    const latents = await tokenizer.latents(toFloats(image), image, { draw, signal: io.signal });
    const size = tokenizer.latentSize(image);
    const { value } = await tokenizer.decode(latents, size, { signal: io.signal }).next();
    const decoded = toBytes(value as Float32Array, image.width, image.height);
    await writePng(flags.out, decoded);
    if (flags.quiet) return;
    const { encode, decode } = tokenizer.seconds;
    io.out(
      `${flags.out}: PSNR ${psnr(image, decoded).toFixed(2)} dB; ${image.width} x ${image.height} pixels as ` +
        `${tokenizer.channels} x ${size.height} x ${size.width} of ${tokenizer.kind}; ` +
        `encoded in ${encode.toFixed(2)} s, decoded in ${decode.toFixed(2)} s`,
    );
  } finally {
    tokenizer.dispose();
  }
}

/** The middle of an image, its sides multiples of `unit`. */
function cut(image: RgbImage, unit: number, path: string): RgbImage {
  const [width, height] = [image.width, image.height].map((side) => side - (side % unit));
  if (width === 0 || height === 0) {
    throw new EmigmError('input', `${path}: ${image.width} x ${image.height} pixels; at least ${unit} are needed`);
  }
  const top = Math.floor((image.height - height) / 2);
  const left = Math.floor((image.width - width) / 2);
  const rgb = new Uint8Array(3 * width * height);
  for (let y = 0; y < height; y++) {
    const from = 3 * ((top + y) * image.width + left);
    rgb.set(image.rgb.subarray(from, from + 3 * width), 3 * y * width);
  }
  return { width, height, rgb };
}

/** Peak signal-to-noise ratio in decibels: 10 log10(255^2 / mean squared difference of bytes). */
export function psnr(a: RgbImage, b: RgbImage): number {
  const squares = a.rgb.reduce((sum, value, i) => sum + (value - b.rgb[i]) ** 2, 0);
  return 10 * Math.log10((255 ** 2 * a.rgb.length) / squares);
}
