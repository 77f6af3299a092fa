/** `emigm inspect` of what is no model of continuous tokens: models of codes, classifiers, codebooks, tokenizers. */
import { statSync } from 'node:fs';
import { EmigmError } from '../errors.ts';
import { readCodebook } from '../formats/codebook.ts';
import { openSafetensors } from '../formats/safetensors.ts';
import { listAxes } from '../masking/axes.ts';
import { openClassifier, tokenCount } from '../models/classifier.ts';
import { gridSize } from '../models/config.ts';
import { discreteParameterCount } from '../models/discrete/config.ts';
import { openDiscreteModel } from '../models/discrete/file.ts';
import type { ModelKind } from '../models/kind.ts';
import { openStateDict, type StateDictFile } from '../models/state_dict.ts';
import type { TokenizerFacts } from '../models/tokenizer.ts';
import { modelAxes, recommendedSettings } from '../sampling/axes.ts';
import type { Stored } from '../ops/matmul_kernels.ts';
import { discreteMemory } from '../sampling/discrete/memory.ts';
import { CPU_DRIVER } from '../sampling/memory.ts';
import { resolveSettings } from '../sampling/settings.ts';
import {
  type InspectFlags,
  type ListedTensors,
  memoryOf,
  settings as settingsText,
  tensorsOf,
  tensorTable,
} from './inspect.ts';
import type { Io } from './io.ts';
import { grouped, megabytes, table } from './options.ts';

interface Report {
  json: Record<string, unknown>;
  rows: [string, string | undefined][];
}

/** @throws EmigmError 'file' or 'model' for a damaged file, 'input' for a checkpoint of a training run */
export async function inspectOther(path: string, kind: ModelKind, flags: InspectFlags, io: Io): Promise<void> {
  show(path, kind, await reportOf(path, kind, flags.batch ?? 16), await listed(openSafetensors(path)), flags, io);
}

/** As `inspectOther`, of a file of a tokenizer. */
export async function inspectTokenizer(
  path: string,
  facts: TokenizerFacts,
  flags: InspectFlags,
  io: Io,
): Promise<void> {
  const { kind, stride, channels, scale, hasPosterior, parameters } = facts;
  const rows: Report['rows'] = [
    ['latents', `${channels} channels, one for ${stride} x ${stride} pixels`],
    ['encoder gives', hasPosterior ? `mean and log-variance, ${2 * channels} channels` : 'the latents'],
    ['data scale', String(scale)],
    ['parameters', grouped(parameters)],
  ];
  show(path, `tokenizer ${kind}`, { json: { tokenizer: facts }, rows }, await listed(openStateDict(path)), flags, io);
}

function show(
  path: string,
  kind: string,
  { json, rows }: Report,
  tensors: ListedTensors,
  flags: InspectFlags,
  io: Io,
): void {
  const all = { path, kind, bytes: statSync(path).size, ...json };
  if (flags.json) {
    io.out(JSON.stringify(flags.tensors ? { ...all, tensors: tensorsOf(tensors) } : all, null, 2));
    return;
  }
  const types = [...new Set(tensors.names().map((name) => tensors.dtype(name)))].sort();
  const file: [string, string] = ['file', `${path}, ${kind}, ${megabytes(all.bytes)}, ${types.join(' and ')}`];
  io.out(table([file, ...rows.filter((row): row is [string, string] => row[1] !== undefined)]));
  if (flags.tensors) io.out(`\n${tensorTable(tensors)}`);
}

function reportOf(path: string, kind: ModelKind, batch: number): Promise<Report> {
  if (kind === 'discrete') return discrete(path, batch);
  if (kind === 'classifier') return classifier(path);
  if (kind === 'codebook') return codebook(path);
  throw new EmigmError(
    'input',
    `${path} is a checkpoint of a training run; the run's model.safetensors is the model, --resume goes on from it`,
  );
}

/** Of a file that is closed then. */
async function listed(opening: Promise<Pick<StateDictFile, 'tensors' | 'close'>>): Promise<ListedTensors> {
  const file = await opening;
  await file.close();
  return {
    names: () => [...file.tensors.keys()],
    shape: (name) => file.tensors.get(name)!.shape,
    dtype: (name) => file.tensors.get(name)!.dtype,
  };
}

async function discrete(path: string, batch: number): Promise<Report> {
  const file = await openDiscreteModel(path);
  await file.close();
  const { config: c, info } = file;
  const settings = resolveSettings(recommendedSettings(info));
  const memory = (stored: Stored) =>
    discreteMemory(c, { batch, stored, settings, device: stored === 'f32' ? CPU_DRIVER : {} });
  const [f32, f16, int8] = [await memory('f32'), await memory('f16'), await memory('int8')];
  const axes = modelAxes(c, info);
  const parameters = discreteParameterCount(c);
  const guided = settings.cfg !== 1;
  const trunk = (depth: number, width: number, heads: number) =>
    `${depth} blocks of width ${width}, ${heads} heads of ${width / heads}`;
  return {
    json: { config: c, info, axes, parameters: { total: parameters }, memory: { batch, guided, f32, f16, int8 } },
    rows: [
      ['name', info.name],
      ['about', info.description],
      ['source', info.source],
      ['license', info.license],
      ['training', info.training],
      ['image', `${c.imageSize} x ${c.imageSize} pixels, ${gridSize(c)} x ${gridSize(c)} tokens`],
      ['codebook', `${grouped(c.codes)} codes, patches of ${c.channels} x ${c.patchSize} x ${c.patchSize}`],
      ['network', c.mae ? 'MAE: the encoder sees visible tokens only' : 'single encoder: sees mask tokens'],
      ['encoder', `${trunk(c.encoderDepth, c.encoderWidth, c.encoderHeads)}, ${c.bufferSize} buffer slots`],
      ['decoder', trunk(c.decoderDepth, c.decoderWidth, c.decoderHeads)],
      ['classes', `${c.classes}${info.classNames ? `: ${info.classNames.slice(0, 20).join(', ')}` : ''}`],
      ['data scale', info.dataScale?.toString()],
      ['parameters', grouped(parameters)],
      ['weights', info.weights],
      ['axes', `${info.preset ? `${info.preset}: ` : ''}${listAxes(axes)}`],
      ['sampling', info.sampling && settingsText(info.sampling)],
      [
        'memory',
        `for ${batch} ${guided ? 'guided ' : ''}image${batch === 1 ? '' : 's'} at once: ${memoryOf(f32)} in f32 (CPU ` +
          `drivers), ${memoryOf(f16)} with f16 weights (GPUs), ${memoryOf(int8)} with --stored int8`,
      ],
    ],
  };
}

async function classifier(path: string): Promise<Report> {
  const file = await openClassifier(path);
  await file.close();
  const { config: c, info } = file;
  const { accuracy } = info;
  return {
    json: { config: c, info },
    rows: [
      ['training', info.training],
      ['image', `${c.imageSize} x ${c.imageSize} pixels, ${tokenCount(c)} tokens`],
      ['stem', `convolutions to ${[...c.stem, c.width].join(', ')} channels`],
      ['blocks', `${c.depth} of width ${c.width}, ${c.heads} heads of ${c.width / c.heads}`],
      ['classes', `${c.classes}: ${info.classNames.slice(0, 20).join(', ')}`],
      [
        'accuracy',
        accuracy && `${(100 * accuracy.value).toFixed(1)} % of ${grouped(accuracy.images)} photographs it did not see`,
      ],
    ],
  };
}

async function codebook(path: string): Promise<Report> {
  const { codes: _, ...facts } = await readCodebook(path);
  const { size, channels, patch, dataScale } = facts;
  return {
    json: facts,
    rows: [
      ['codes', `${grouped(size)} patches of ${channels} x ${patch} x ${patch}`],
      ['data scale', String(dataScale)],
    ],
  };
}
