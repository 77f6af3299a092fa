/**
 * Shards: a data set split as one safetensors file, read by ranges.
 *
 *     labels        I32 [n]            class numbers
 *     images        U8 [n, H, W, 3]    pictures, cropped: rows from the top, red, green, blue
 * or, for models of latents,
 *     moments       F16 or F32 [n, 2C, H, W]   mean, then log-variance, of the tokenizer's posterior
 *     moments_flip  the same of the mirrored images; may be absent
 * or, for tokenizers that are not random,
 *     latents       F16 or F32 [n, C, H, W]
 *     latents_flip  the same of the mirrored images; may be absent
 *
 * Metadata: `format` "emigm-wgsl data", `version` "1", `classes` a JSON list of class names, the place of a name
 * being its number. Labels are in the order of the items, which is that of the folder that was packed.
 */
import { EmigmError } from '../errors.ts';
import { type DType, ELEMENT_BYTES, storedArray, toFloat32 } from './dtype.ts';
import { openRangeFile, writeAtomically } from './files.ts';
import { headerLength, parseHeader, type TensorInfo } from './safetensors_parse.ts';

const FORMAT = 'emigm-wgsl data';
const VERSION = '1';

/** Tensors that hold the items, and those of the mirrored items. */
const CONTENTS = {
  images: undefined,
  moments: 'moments_flip',
  latents: 'latents_flip',
} as const;

export type ShardContent = keyof typeof CONTENTS;

export interface Shard {
  readonly path: string;
  readonly content: ShardContent;
  readonly dtype: 'U8' | 'F16' | 'F32';
  /** Of one item: [H, W, 3] or [channels, H, W]. */
  readonly shape: readonly number[];
  readonly classes: readonly string[];
  readonly labels: Int32Array<ArrayBuffer>;
  /** Whether mirrored items are stored too. */
  readonly mirrored: boolean;
  /** One item: bytes of a picture as they are, others as float32. */
  read(index: number, mirrored?: boolean): Promise<Uint8Array<ArrayBuffer> | Float32Array<ArrayBuffer>>;
  close(): Promise<void>;
}

/** Opens and checks a shard; items are read one by one. Throws EmigmError('file') saying what is wrong with it. */
export async function openShard(path: string): Promise<Shard> {
  const file = await openRangeFile(path);
  const fail = (what: string): never => {
    throw new EmigmError('file', `${path}: ${what}`);
  };
  try {
    const length = headerLength(await file.read(0, Math.min(8, file.size)), file.size, path);
    const { metadata, tensors, dataStart } = parseHeader(await file.read(8, length), file.size, path);
    if (metadata.format !== FORMAT) {
      fail(
        `is a safetensors file but no data shard (metadata "format" is not "${FORMAT}"); make one by: emigm data pack`,
      );
    }
    if (metadata.version !== VERSION) fail(`is a shard of version ${metadata.version}; ${VERSION} is read`);
    const content = (Object.keys(CONTENTS) as ShardContent[]).find((name) => tensors.has(name));
    const labelsInfo = tensors.get('labels');
    if (!content || !labelsInfo) return fail(`has no ${content ? 'labels' : Object.keys(CONTENTS).join(' or ')}`);
    const info = tensors.get(content)!;
    const flip = CONTENTS[content];
    const mirroredInfo = flip === undefined ? undefined : tensors.get(flip);
    const classes = checkClasses(metadata.classes, fail);
    checkItems(content, info, labelsInfo, mirroredInfo, fail);
    const labelBytes = await file.read(dataStart + labelsInfo.begin, labelsInfo.end - labelsInfo.begin);
    const labels = new Int32Array(labelBytes.buffer);
    const wrong = labels.findIndex((label) => label < 0 || label >= classes.length);
    if (wrong >= 0) fail(`label ${labels[wrong]} of item ${wrong} is none of the ${classes.length} classes`);
    const { dtype, shape } = info;
    const rowBytes = (info.end - info.begin) / shape[0];
    return {
      path,
      content,
      dtype: dtype as Shard['dtype'],
      shape: shape.slice(1),
      classes,
      labels,
      mirrored: mirroredInfo !== undefined,
      async read(index, mirrored = false) {
        const part = mirrored ? mirroredInfo : info;
        if (!part || !Number.isInteger(index) || index < 0 || index >= shape[0]) {
          throw new EmigmError(
            'shape',
            `${path}: there is no ${part ? `item ${index} of ${shape[0]}` : 'mirrored item'}`,
          );
        }
        const bytes = await file.read(dataStart + part.begin + index * rowBytes, rowBytes);
        return dtype === 'U8'
          ? bytes
          : toFloat32(dtype, storedArray(dtype, bytes.buffer, 0, rowBytes / ELEMENT_BYTES[dtype]));
      },
      close: file.close,
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

function checkClasses(json: string | undefined, fail: (what: string) => never): string[] {
  let classes: unknown;
  try {
    classes = JSON.parse(json ?? '');
  } catch {
    // told below
  }
  if (!Array.isArray(classes) || classes.length === 0 || !classes.every((name) => typeof name === 'string')) {
    return fail('the metadata has no list of class names');
  }
  return classes;
}

function checkItems(
  content: ShardContent,
  info: TensorInfo,
  labels: TensorInfo,
  mirrored: TensorInfo | undefined,
  fail: (what: string) => never,
): void {
  const { dtype, shape } = info;
  const types: readonly DType[] = content === 'images' ? ['U8'] : ['F16', 'F32'];
  if (!types.includes(dtype)) fail(`${content} are ${dtype}; they must be ${types.join(' or ')}`);
  if (shape.length !== 4 || shape.some((size) => size < 1)) fail(`${content} have shape [${shape}], not four sizes`);
  if (content === 'images' && shape[3] !== 3) fail(`images have ${shape[3]} channels, not 3`);
  if (content === 'moments' && shape[1] % 2 !== 0) fail(`moments have ${shape[1]} channels, not mean and log-variance`);
  if (labels.dtype !== 'I32' || labels.shape.length !== 1 || labels.shape[0] !== shape[0]) {
    fail(`labels are ${labels.dtype} [${labels.shape}], not I32 [${shape[0]}]`);
  }
  if (mirrored && (mirrored.dtype !== dtype || mirrored.shape.join() !== shape.join())) {
    fail(`the mirrored ${content} are ${mirrored.dtype} [${mirrored.shape}], not ${dtype} [${shape}]`);
  }
}

export interface ShardToWrite {
  readonly content: ShardContent;
  readonly dtype: 'U8' | 'F16' | 'F32';
  /** Of one item. */
  readonly shape: readonly number[];
  readonly classes: readonly string[];
  readonly labels: Int32Array<ArrayBuffer>;
  readonly mirrored: boolean;
  /** All items in order, in the stored type; asked for once, and once more with `mirrored`. */
  items(mirrored: boolean): AsyncIterable<Uint8Array | Uint16Array | Float32Array>;
}

/**
 * Writes a shard item by item, under a temporary name first; one item is held at a time.
 * @throws EmigmError 'shape' when the items are too few, too many or of the wrong size, 'file' when the disk refuses
 */
export async function writeShard(path: string, shard: ShardToWrite): Promise<void> {
  const { content, dtype, shape, classes, labels, mirrored } = shard;
  const flip = CONTENTS[content];
  if (mirrored && flip === undefined)
    throw new EmigmError('shape', `${path}: ${content} are mirrored when they are read`);
  const count = labels.length;
  const rowBytes = shape.reduce((a, b) => a * b, ELEMENT_BYTES[dtype]);
  const offsets = [0, 4 * count, 4 * count + count * rowBytes, 4 * count + 2 * count * rowBytes];
  const header = JSON.stringify({
    __metadata__: { classes: JSON.stringify(classes), format: FORMAT, version: VERSION },
    labels: { dtype: 'I32', shape: [count], data_offsets: [offsets[0], offsets[1]] },
    [content]: { dtype, shape: [count, ...shape], data_offsets: [offsets[1], offsets[2]] },
    ...(mirrored && { [flip as string]: { dtype, shape: [count, ...shape], data_offsets: [offsets[2], offsets[3]] } }),
  });
  const text = new TextEncoder().encode(header);
  const head = new Uint8Array(Math.ceil((8 + text.length) / 8) * 8).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(head.length - 8), true);
  head.set(text, 8);
  await writeAtomically(path, async (put) => {
    await put(head);
    await put(new Uint8Array(labels.buffer, labels.byteOffset, labels.byteLength));
    for (const variant of mirrored ? [false, true] : [false]) {
      let items = 0;
      for await (const item of shard.items(variant)) {
        if (item.byteLength !== rowBytes || ++items > count) {
          throw new EmigmError(
            'shape',
            `${path}: item ${items} has ${item.byteLength} bytes; expected ${count} of ${rowBytes}`,
          );
        }
        await put(new Uint8Array(item.buffer, item.byteOffset, item.byteLength));
      }
      if (items !== count) throw new EmigmError('shape', `${path}: got ${items} items for ${count} labels`);
    }
  });
}
