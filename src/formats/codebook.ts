/**
 * Codebooks of pixel patches as safetensors files: `codes` F32 [size, channels, patch, patch], numbers as the network sees
 * them. Metadata: `format` "emigm-wgsl codebook", `version` "1", `dataScale` what pixels in [-1, 1] were multiplied by.
 */
import { EmigmError } from '../errors.ts';
import { quote } from './quote.ts';
import { openSafetensors, writeSafetensors } from './safetensors.ts';

const FORMAT = 'emigm-wgsl codebook';
const VERSION = '1';

export interface Codebook {
  /** [size, channels * patch * patch], a code's numbers in the order channel, row, column: that of a token. */
  readonly codes: Float32Array<ArrayBuffer>;
  readonly size: number;
  readonly channels: number;
  /** Pixels of a side of a patch. */
  readonly patch: number;
  /** What pixels in [-1, 1] were multiplied by before they were quantised. */
  readonly dataScale: number;
}

/** Numbers of a code. */
export const codeWidth = ({ channels, patch }: Pick<Codebook, 'channels' | 'patch'>): number =>
  channels * patch * patch;

/** Writes a codebook. @throws EmigmError('shape') when the codes do not fill their shape, 'file' when the disk refuses */
export async function writeCodebook(path: string, codebook: Codebook): Promise<void> {
  const { codes, size, channels, patch, dataScale } = codebook;
  const metadata = { format: FORMAT, version: VERSION, dataScale: String(dataScale) };
  await writeSafetensors(
    path,
    [{ name: 'codes', dtype: 'F32', shape: [size, channels, patch, patch], data: codes }],
    metadata,
  );
}

/** Reads a codebook. @throws EmigmError('file') saying what is wrong with the file */
export async function readCodebook(path: string): Promise<Codebook> {
  const file = await openSafetensors(path);
  const fail = (what: string): never => {
    throw new EmigmError('file', `${path}: ${what}`);
  };
  try {
    const { metadata, tensors } = file;
    if (metadata.format !== FORMAT)
      fail(`is a safetensors file but no codebook (metadata "format" is not "${FORMAT}")`);
    if (metadata.version !== VERSION)
      fail(`is a codebook of version ${quote(metadata.version)}; this reads ${VERSION}`);
    const dataScale = Number(metadata.dataScale);
    if (!(dataScale > 0 && dataScale < Number.POSITIVE_INFINITY)) {
      fail(`metadata "dataScale" is ${quote(metadata.dataScale)}, no positive number`);
    }
    const [size, channels, patch, width, ...rest] = tensors.get('codes')?.shape ?? [];
    if (!(size > 0 && channels > 0 && patch > 0) || width !== patch || rest.length > 0) {
      fail('holds no tensor "codes" of shape [size, channels, patch, patch]');
    }
    const codes = await file.readFloat32('codes');
    if (!codes.every(Number.isFinite)) fail('codes hold numbers that are not finite');
    return { codes, size, channels, patch, dataScale };
  } finally {
    await file.close();
  }
}
