/** `emigm inspect`: what a model file holds. */
import { statSync } from 'node:fs';
import type { Command } from 'commander';
import { type Axes, listAxes } from '../masking/axes.ts';
import { type ModelFile, openModel } from '../models/checkpoint.ts';
import { gridSize, parameterCounts, presetName, tokenDim } from '../models/config.ts';
import { flagOf } from '../models/infer.ts';
import { modelKind } from '../models/kind.ts';
import { describeTokenizer } from '../models/tokenizer.ts';
import type { Stored } from '../ops/matmul_kernels.ts';
import { CPU_DRIVER, type SamplingMemory, samplingMemory } from '../sampling/memory.ts';
import { modelAxes, recommendedSettings } from '../sampling/axes.ts';
import { resolveSettings } from '../sampling/settings.ts';
import { inspectOther, inspectTokenizer } from './inspect_other.ts';
import type { Io } from './io.ts';
import { addModelFlags, type ModelFlags, openOptions } from './model_flags.ts';
import { grouped, megabytes, positiveInteger, table } from './options.ts';

export interface InspectFlags extends ModelFlags {
  tensors?: boolean;
  batch?: number;
  json?: boolean;
}

export function registerInspect(program: Command, io: Io): void {
  const command = program
    .command('inspect')
    .summary('show what a model file holds')
    .description(
      'Shows configuration, parameters, recommended settings and the memory that sampling needs. Also classifiers, ' +
        'codebooks and tokenizers (KL-16, DC-AE).',
    )
    .argument('<file>', 'a model file in safetensors, or a .pth checkpoint')
    .option('--tensors', 'list every tensor')
    .option('--batch <n>', 'images at once, for the memory that sampling takes', positiveInteger, 16)
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  emigm inspect weights/clothing32.safetensors --tensors\n' +
        '  emigm inspect b-256.pth --batch 64\n' +
        '  emigm inspect kl16.ckpt',
    )
    .action((file: string, flags: InspectFlags) => inspect(file, flags, io));
  addModelFlags(command);
}

/** @throws EmigmError as openModel does */
export async function inspect(path: string, flags: InspectFlags, io: Io): Promise<void> {
  const kind = await modelKind(path);
  if (kind !== 'continuous') return inspectOther(path, kind, flags, io);
  const tokenizer = await describeTokenizer(path);
  if (tokenizer) return inspectTokenizer(path, tokenizer, flags, io);
  const model = await openModel(path, openOptions(flags));
  try {
    const report = await describe(model, flags.batch ?? 16);
    if (flags.json) io.out(JSON.stringify(flags.tensors ? { ...report, tensors: tensorsOf(model) } : report, null, 2));
    else {
      io.out(text(report));
      if (flags.tensors) io.out(`\n${tensorTable(model)}`);
    }
  } finally {
    await model.close();
  }
}

/** Everything that is shown, as JSON has it. */
export interface InspectReport {
  path: string;
  kind: ModelFile['kind'];
  bytes: number;
  /** Official model of this configuration: `b-256`. */
  preset: string | undefined;
  config: ModelFile['config'];
  guessed: readonly string[];
  info: ModelFile['info'];
  axes: Axes;
  parameters: ReturnType<typeof parameterCounts>;
  storedAs: string[];
  maskToken: string;
  /** Bytes on the device for `batch` images at once with the file's settings, by how the weights are stored. */
  memory: { batch: number; guided: boolean; f32: SamplingMemory; f16: SamplingMemory; int8: SamplingMemory };
}

export async function describe(model: ModelFile, batch: number): Promise<InspectReport> {
  const { path, kind, config, info, guessed } = model;
  const settings = resolveSettings(recommendedSettings(info));
  const memory = (stored: Stored) =>
    samplingMemory(config, { batch, stored, settings, device: stored === 'f32' ? CPU_DRIVER : {} });
  return {
    path,
    kind,
    bytes: statSync(path).size,
    preset: presetName(config),
    config,
    guessed,
    info,
    axes: modelAxes(config, info),
    parameters: parameterCounts(config),
    storedAs: [...new Set(model.names().map((name) => model.dtype(name)))].sort(),
    maskToken: model.maskTokenNote,
    memory: {
      batch,
      guided: settings.cfg !== 1,
      f32: await memory('f32'),
      f16: await memory('f16'),
      int8: await memory('int8'),
    },
  };
}

function text(report: InspectReport): string {
  const { config: c, info, parameters, memory } = report;
  const trunk = (depth: number, width: number, heads: number) =>
    `${depth} blocks of width ${width}, ${heads} heads of ${width / heads}`;
  const grid = gridSize(c);
  const rows: [string, string | undefined][] = [
    ['file', `${report.path}, ${report.kind}, ${megabytes(report.bytes)}, ${report.storedAs.join(' and ')}`],
    ['name', info.name ?? report.preset],
    ['about', info.description],
    ['source', info.source],
    ['license', info.license],
    ['training', info.training],
    ['image', `${c.imageSize} x ${c.imageSize} pixels, ${grid} x ${grid} tokens of ${tokenDim(c)} numbers`],
    ['tokenizer', `${c.channels} channels, stride ${c.vaeStride}, patches of ${c.patchSize} x ${c.patchSize}`],
    ['network', c.mae ? 'MAE: the encoder sees visible tokens only' : 'single encoder: sees mask tokens'],
    ['encoder', `${trunk(c.encoderDepth, c.encoderWidth, c.encoderHeads)}, ${c.bufferSize} buffer slots`],
    ['decoder', trunk(c.decoderDepth, c.decoderWidth, c.decoderHeads)],
    ['head', `${c.headDepth} blocks of width ${c.headWidth}`],
    ['classes', info.classNames ? `${c.classes}: ${info.classNames.slice(0, 20).join(', ')}` : String(c.classes)],
    ['data scale', info.dataScale?.toString()],
    [
      'parameters',
      `${grouped(parameters.total)}: transformer ${grouped(parameters.transformer)}, head ${grouped(parameters.head)}`,
    ],
    ['weights', info.weights],
    ['mask token', report.maskToken],
    ['axes', `${info.preset ? `${info.preset}: ` : ''}${listAxes(report.axes)}`],
    ['sampling', info.sampling && settings(info.sampling)],
    [
      'memory',
      `for ${memory.batch} ${memory.guided ? 'guided ' : ''}image${memory.batch === 1 ? '' : 's'} at once: ` +
        `${memoryOf(memory.f32)} in f32 (CPU drivers), ${memoryOf(memory.f16)} with f16 weights (GPUs), ` +
        `${memoryOf(memory.int8)} with --stored int8`,
    ],
    [
      'inferred',
      report.guessed.length === 0
        ? undefined
        : `${report.guessed.map((f) => `${f} ${c[f as keyof typeof c]}`).join(', ')} (not said by the file; flags override)`,
    ],
  ];
  return table(rows.filter((row): row is [string, string] => row[1] !== undefined));
}

/** `70.1 MB (weights 9.6 MB + the rest 60.5 MB)` */
export function memoryOf({ weights, activations, total }: SamplingMemory): string {
  return `${megabytes(total)} (weights ${megabytes(weights)} + activations ${megabytes(activations)})`;
}

export function settings(sampling: object): string {
  const named = Object.entries(sampling).map(([name, value]) => `${flagOf(name)} ${value}`);
  return named.join(' ');
}

/** What a table of tensors is made of. */
export type ListedTensors = Pick<ModelFile, 'names' | 'shape' | 'dtype'>;

export function tensorsOf(model: ListedTensors) {
  return model.names().map((name) => ({ name, shape: model.shape(name), dtype: model.dtype(name) }));
}

export function tensorTable(model: ListedTensors): string {
  const rows = tensorsOf(model).map(({ name, shape, dtype }) => {
    return [name, dtype, `[${shape.join(', ')}]`, grouped(shape.reduce((a, b) => a * b, 1))];
  });
  return table([['tensor', 'type', 'shape', 'numbers'], ...rows], [3]);
}
