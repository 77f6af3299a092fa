/** A data set of pictures as one of codes: each batch is quantised on the device while the one before it is trained on. */
import { EmigmError } from '../../errors.ts';
import type { Codebook } from '../../formats/codebook.ts';
import type { Device } from '../../gpu/device.ts';
import type { Batch, TrainingData } from '../data/types.ts';
import { imagePatches, NearestCodes } from '../quantise.ts';

/** Batches whose codes are asked for before they are wanted: more than steps are in the queue. */
const AHEAD = 4;

/**
 * The batches of `data`, of `images` images, with maps of codes [batch, 1, grid, grid] in place of images. Closing it closes `data`.
 * @throws EmigmError 'input' when the codebook's patches do not tile the images, or were scaled otherwise
 */
export async function quantisedData(
  device: Device,
  data: TrainingData,
  codebook: Codebook,
  images: number,
): Promise<TrainingData> {
  const { channels, patch, dataScale } = codebook;
  const { shape, size, scale } = data;
  const side = shape.height / patch;
  if (shape.channels !== channels || shape.height !== shape.width || !Number.isInteger(side)) {
    throw new EmigmError(
      'input',
      `a codebook for ${channels} channels and patches of ${patch} x ${patch} does not fit images of ` +
        `${shape.channels} x ${shape.height} x ${shape.width}`,
    );
  }
  if (Math.abs(scale - dataScale) > 1e-6 * dataScale) {
    throw new EmigmError('input', `the codebook was fitted on images scaled by ${dataScale}, these are by ${scale}`);
  }
  const nearest = await NearestCodes.of(device, codebook, images * side ** 2);
  const ready = new Map<number, Promise<Batch>>();
  let last: Promise<unknown> = Promise.resolve();
  const encode = async (step: number, before: Promise<unknown>): Promise<Batch> => {
    const batch = await data.batch(step);
    await before.catch(() => {}); // whoever wants that batch gets its error
    const codes = await nearest.encode(imagePatches(batch.images, { channels, side, patch }));
    return { ...batch, images: Float32Array.from(codes) };
  };
  const ask = (step: number): Promise<Batch> => {
    let asked = ready.get(step);
    if (!asked) {
      asked = encode(step, last);
      asked.catch(() => {});
      last = asked;
      ready.set(step, asked);
    }
    return asked;
  };
  return {
    size,
    classes: data.classes,
    scale,
    stepsPerEpoch: data.stepsPerEpoch,
    shape: { channels: 1, height: side, width: side },
    description: `${data.description}; ${side} x ${side} codes of ${codebook.size}`,
    batch: async (step) => {
      const wanted = ask(step);
      for (let next = step + 1; next <= step + AHEAD; next++) ask(next);
      const batch = await wanted;
      for (const known of ready.keys()) if (known < step || known > step + AHEAD) ready.delete(known);
      return batch;
    },
    close: async () => {
      await last.catch(() => {});
      nearest.dispose();
      await data.close();
    },
  };
}
