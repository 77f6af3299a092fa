/** The thread that decode_pool.ts starts: reads and decodes files, one message in, one out. */
import { parentPort } from 'node:worker_threads';
import { EmigmError } from '../errors.ts';
import type { DecodeJob, DecodeReply, DecodeRequest } from './decode_pool.ts';
import { toFloat32 } from './dtype.ts';
import { centerCrop, readImage } from './images.ts';
import { readNpz } from './npz.ts';

async function decode(
  job: DecodeJob,
): Promise<{ data: Uint8Array<ArrayBuffer> | Float32Array<ArrayBuffer>; shape: number[] }> {
  if (job.kind === 'picture') {
    const { rgb } = centerCrop(await readImage(job.path), job.size);
    // A picture that needs no resizing may share the decoder's buffer, which cannot be handed over.
    return { data: new Uint8Array(rgb), shape: [job.size, job.size, 3] };
  }
  const arrays = await readNpz(job.path);
  const array = arrays.get(job.array);
  if (!array) {
    const names = [...arrays.keys()].join(', ') || 'none';
    throw new EmigmError(
      'file',
      `${job.path}: has no array "${job.array}" (it has ${names}); not a file of cached latents`,
    );
  }
  return { data: new Float32Array(toFloat32(array.dtype, array.data)), shape: [...array.shape] };
}

parentPort?.on('message', async ({ id, job }: DecodeRequest) => {
  try {
    const { data, shape } = await decode(job);
    parentPort?.postMessage({ id, data, shape } satisfies DecodeReply, [data.buffer]);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    parentPort?.postMessage({
      id,
      error: { code: error instanceof EmigmError ? error.code : 'file', message },
    } satisfies DecodeReply);
  }
});
