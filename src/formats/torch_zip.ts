/** The zip form of PyTorch checkpoints: ROOT/data.pkl, and each storage a stored member ROOT/data/KEY. */
import { EmigmError } from '../errors.ts';
import type { RangeFile } from './files.ts';
import { unpickle } from './pickle.ts';
import { quote } from './quote.ts';
import { torchMeaning } from './torch_globals.ts';
import { memberStart, readZipDirectory, type ZipMember } from './zip_directory.ts';

/** A pickle of weights is a few megabytes at most, even for large models. */
const MAX_PICKLE_BYTES = 1 << 28;

/** Reads the pickle of a zip checkpoint; its tensors stay in the file. Throws EmigmError('file'). */
export async function readTorchZip(file: RangeFile): Promise<unknown> {
  const members = await readZipDirectory(file);
  const pickles = [...members.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (pickles.length !== 1) {
    throw new EmigmError('file', `${file.path}: a zip file with ${pickles.length} data.pkl, so no PyTorch checkpoint`);
  }
  const root = pickles[0].slice(0, -'data.pkl'.length);
  const start = async (member: ZipMember) => {
    if (member.method !== 0) {
      throw new EmigmError(
        'file',
        `${file.path}: member ${quote(member.name)} is compressed; torch.save stores its members`,
      );
    }
    return memberStart(file, member);
  };
  const small = async (member: ZipMember) => {
    if (member.size > MAX_PICKLE_BYTES) {
      throw new EmigmError(
        'file',
        `${file.path}: ${quote(member.name)} has ${member.size} bytes; at most ${MAX_PICKLE_BYTES} are read`,
      );
    }
    return file.read(await start(member), member.size);
  };
  const order = members.get(`${root}byteorder`);
  if (order && new TextDecoder().decode(await small(order)) !== 'little') {
    throw new EmigmError('file', `${file.path}: was written on a big-endian machine; only little-endian is read`);
  }
  const source = {
    file,
    async locate(storage: { key: string }, bytes: number) {
      const member = members.get(`${root}data/${storage.key}`);
      if (!member) throw new EmigmError('file', `${file.path}: storage ${storage.key} is missing from the zip file`);
      if (member.size < bytes) {
        throw new EmigmError(
          'file',
          `${file.path}: storage ${storage.key} needs ${bytes} bytes but has ${member.size}`,
        );
      }
      return start(member);
    },
  };
  return unpickle(await small(members.get(pickles[0])!), 0, torchMeaning(file.path, source)).value;
}
