/** `emigm convert`: PyTorch checkpoints of eMIGM's and MAR's code to model files of ours. */
import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { type Command, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import { reason } from '../formats/files.ts';
import { type AxisPreset, axisPresets } from '../masking/axes.ts';
import { type ModelInfo, openModel, saveModel } from '../models/checkpoint.ts';
import { parameterCounts } from '../models/config.ts';
import type { Io } from './io.ts';
import { addModelFlags, type ModelFlags, openOptions } from './model_flags.ts';
import { grouped, megabytes, oneOf } from './options.ts';
import { createProgress } from './progress.ts';

const DTYPES = { f32: 'F32', f16: 'F16', bf16: 'BF16' } as const;

export interface ConvertFlags extends ModelFlags {
  dtype?: keyof typeof DTYPES;
  info?: string;
  preset?: AxisPreset;
  quiet?: boolean;
}

export function registerConvert(program: Command, io: Io): void {
  const command = program
    .command('convert')
    .summary('turn a PyTorch checkpoint into a model file')
    .description(
      "Turns a PyTorch checkpoint (.pth) of eMIGM's or MAR's code into a safetensors file that carries its configuration. " +
        'The configuration comes from the checkpoint, what it lacks from the shapes of its tensors or from flags.',
    )
    .argument('<in>', 'a .pth checkpoint, or a model file in safetensors')
    .argument('<out>', 'the safetensors file to write')
    .addOption(new Option('--dtype <type>', 'f32, f16 or bf16').argParser(oneOf(['f32', 'f16', 'bf16'])).default('f32'))
    .addOption(
      new Option('--preset <name>', 'what it was trained as, where the file does not say').argParser(
        oneOf(Object.keys(axisPresets) as AxisPreset[]),
      ),
    )
    .option('--info <file>', 'JSON: name, classNames, dataScale, sampling, source, license, training, ...')
    .option('-q, --quiet', 'print nothing but errors')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  emigm convert emigm_base.pth b-256.safetensors --dtype f16\n' +
        '  emigm convert mar_base/checkpoint-last.pth mar-b.safetensors\n' +
        '  emigm convert custom.pth custom.safetensors --encoder-heads 4 \\\n' +
        '      --info custom.json',
    )
    .action((input: string, output: string, flags: ConvertFlags) => convert(input, output, flags, io));
  addModelFlags(command);
}

/** @throws EmigmError: 'file', 'model', 'numeric' as openModel and saveModel do, 'input' for unusable paths */
export async function convert(input: string, output: string, flags: ConvertFlags, io: Io): Promise<void> {
  checkPaths(input, output);
  const model = await openModel(input, openOptions(flags));
  const dtype = flags.dtype ?? 'f32';
  const total = parameterCounts(model.config).total;
  const progress = createProgress(io, { label: 'converting', total, quiet: flags.quiet });
  try {
    await saveModel(output, {
      config: model.config,
      info: merged(model.info, {
        ...(flags.info && readInfo(flags.info)),
        ...(flags.preset && { preset: flags.preset }),
      }),
      dtype: DTYPES[dtype],
      read: (name) => {
        if (io.signal.aborted) throw new EmigmError('aborted', 'stopped');
        return model.read(name);
      },
      onProgress: (done) => progress.update(done),
    });
  } finally {
    progress.stop();
    await model.close();
  }
  if (flags.quiet) return;
  const { weights } = model.info;
  io.out(
    `${output}: ${grouped(total)} parameters${weights && weights !== 'plain' ? ` of ${weights}` : ''} ` +
      `in ${dtype}, ${megabytes(statSync(output).size)}`,
  );
  io.out(model.maskTokenNote);
  if (model.guessed.length > 0) {
    const values = model.guessed.map((field) => `${field} ${model.config[field]}`);
    io.out(`not said by the file, inferred: ${values.join(', ')}`);
  }
}

function checkPaths(input: string, output: string): void {
  const folder = dirname(output);
  if (!existsSync(folder))
    throw new EmigmError('input', `${output}: its folder ${folder} does not exist; make it first`);
  if (existsSync(output)) {
    if (statSync(output).isDirectory()) throw new EmigmError('input', `${output} is a folder; name a file in it`);
    const same = existsSync(input) && isSameFile(input, output);
    if (same) throw new EmigmError('input', `${output} is the input itself; name another file to write`);
  }
}

function isSameFile(a: string, b: string): boolean {
  const [x, y] = [statSync(a, { bigint: true }), statSync(b, { bigint: true })];
  return realpathSync(a) === realpathSync(b) || (x.dev === y.dev && x.ino === y.ino && x.ino !== 0n);
}

function readInfo(path: string): Record<string, unknown> {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new EmigmError('file', `${path}: ${reason(cause)}`, { cause });
  }
  try {
    const value = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
  } catch (cause) {
    throw new EmigmError('input', `${path}: is no JSON: ${(cause as Error).message.split('\n')[0]}`, { cause });
  }
  throw new EmigmError('input', `${path}: must hold a JSON object`);
}

/** What the file says, overridden field by field; saveModel checks the result. */
function merged(known: ModelInfo, given: Record<string, unknown>): ModelInfo {
  const sampling = typeof given.sampling === 'object' ? { ...known.sampling, ...given.sampling } : given.sampling;
  return { ...known, ...given, ...(sampling === undefined ? {} : { sampling }) } as ModelInfo;
}
