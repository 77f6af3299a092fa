/** What a model file holds, told by its metadata alone. */
import { openRangeFile } from '../formats/files.ts';
import { openSafetensors } from '../formats/safetensors.ts';

/** `kind` in the metadata of models of codes. */
export const DISCRETE = 'discrete';

export type ModelKind = 'continuous' | 'discrete' | 'classifier' | 'codebook' | 'training checkpoint';

const FORMATS: Readonly<Record<string, ModelKind>> = {
  'emigm-wgsl classifier': 'classifier',
  'emigm-wgsl codebook': 'codebook',
  'emigm-wgsl training': 'training checkpoint',
};

/** Files that say nothing of themselves, official checkpoints among them, are taken for continuous models. */
export async function modelKind(path: string): Promise<ModelKind> {
  if (await isTorch(path)) return 'continuous';
  const file = await openSafetensors(path);
  await file.close();
  const { format = '', kind } = file.metadata;
  return FORMATS[format] ?? (kind === DISCRETE ? 'discrete' : 'continuous');
}

/** Whether a file is a PyTorch checkpoint, by its first bytes. */
export async function isTorch(path: string): Promise<boolean> {
  const file = await openRangeFile(path);
  try {
    const head = await file.read(0, Math.min(9, file.size));
    if (head[8] === 0x7b) return false; // the { of a safetensors header
    return (head[0] === 0x50 && head[1] === 0x4b) || head[0] === 0x80;
  } finally {
    await file.close();
  }
}
