/** `emigm tune`: measures which kernels serve a model best on this adapter, and remembers it. */
import { type Command, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import { Device } from '../gpu/device.ts';
import { openDevice } from '../ops/open_device.ts';
import { kernelHash } from '../gpu/adapter_cache.ts';
import { shapeOf, tuningText } from '../gpu/tuning.ts';
import { layersOf } from '../measurement/kernels/layers.ts';
import { type Choice, entries, tuneLayers } from '../measurement/kernels/tune.ts';
import { digits, time } from '../measurement/tables.ts';
import { openModel } from '../models/checkpoint.ts';
import { type ModelConfig, preset, presets } from '../models/config.ts';
import type { ModelInfo } from '../models/info.ts';
import { modelKind } from '../models/kind.ts';
import { defaultStored } from '../nn/weights.ts';
import type { Stored } from '../ops/matmul_kernels.ts';
import { resolveSettings, type SampleSettings } from '../sampling/settings.ts';
import { storedOption } from './device_flags.ts';
import type { Io } from './io.ts';
import { shippedModel } from './open.ts';
import { positiveInteger, positiveNumber, table } from './options.ts';
import { createProgress } from './progress.ts';
import { resolveFile } from './pull.ts';

export interface TuneFlags {
  model?: string;
  batch: number[];
  stored?: Stored;
  adapter?: string;
  seconds: number;
  json?: boolean;
  clear?: boolean;
  pull?: boolean;
  quiet?: boolean;
}

export function registerTune(program: Command, io: Io): void {
  program
    .command('tune')
    .summary('measure which kernels are best here, and remember it')
    .description(
      'Times every implementation that the adapter allows on the layers of a model, then the sizes of its tiles on a few ' +
        'numbers of rows, and stores the best of each shape in the cache folder, for this adapter, this driver and these ' +
        'kernels. What samples or trains later takes it up, unless --kernel says otherwise (--kernel matmul=default is ' +
        'the built-in choice) or EMIGM_TUNING=off is set.\n\n' +
        'An implementation is never chosen by the number of rows, and tiles change no bit, so that an image is the same ' +
        'in every batch; but other kernels add in another order, so that images from before and after differ in their ' +
        'last bits.',
    )
    .option(
      '-m, --model <model>',
      `a model file, or a size: ${Object.keys(presets).slice(0, 3).join(', ')} ... (default: clothing32)`,
    )
    .addOption(
      new Option('-b, --batch <list>', 'images at once')
        .default([1, 8], '1,8')
        .argParser((text: string) => text.split(',').map((one) => positiveInteger(one.trim()))),
    )
    .addOption(storedOption({ draws: true }))
    .addOption(new Option('--seconds <s>', 'seconds of runs of each').default(0.25).argParser(positiveNumber))
    .option('--adapter <name>', "auto, gpu, lavapipe, swiftshader or a part of an adapter's name (also EMIGM_ADAPTER)")
    .option('--clear', 'forget what was measured on this adapter')
    .option('--pull', 'download a repository that --model names and the cache lacks')
    .option('--json', 'print JSON')
    .option('-q, --quiet', 'print nothing but errors')
    .addHelpText(
      'after',
      '\nExamples:\n  emigm tune\n  emigm tune --model b-256 --batch 1,8,64\n  emigm tune --clear\n  emigm doctor',
    )
    .action((flags: TuneFlags) => tune(flags, io));
}

/** @throws EmigmError 'input', 'file', 'model', 'adapter', 'aborted' */
export async function tune(flags: TuneFlags, io: Io): Promise<void> {
  const { adapter, quiet } = flags;
  if (flags.clear) return clear(flags, io);
  const { config, settings } = await modelOf(flags, io);
  const device = await openDevice({ adapter, tuned: false });
  const progress = createProgress(io, { label: 'tuning', total: 1, quiet: quiet || flags.json });
  try {
    const stored = flags.stored ?? defaultStored(device);
    const layers = await layersOf(device, config, settings, { stored, batches: flags.batch });
    const found = await tuneLayers(device, layers, {
      limits: { once: 1, each: flags.seconds },
      onProgress: (done, what) => progress.update(done, what),
      signal: io.signal,
    });
    progress.stop();
    // Also with EMIGM_TUNING=off, when devices do not take them up.
    const { state, tuning } = device.storedTuning;
    const before = state === 'current' || state === 'off' ? Object.entries(tuning?.choices ?? {}) : [];
    const shapes = new Set(found.map(({ key }) => key));
    const kept = before.filter(([key]) => !shapes.has(shapeOf(key)));
    const file = device.storeTuning({
      format: 'emigm-tuning',
      version: 1,
      adapter: device.name,
      driver: device.driver,
      kernels: kernelHash(),
      date: new Date().toISOString(),
      choices: Object.fromEntries([...kept, ...found.flatMap(entries)]),
    });
    if (flags.json) io.out(JSON.stringify({ adapter: device.name, driver: device.driver, file, found }, null, 2));
    else if (!quiet) io.out(`${text(found)}\n\nstored in ${file}`);
    if (process.env.EMIGM_TUNING === 'off') io.err('EMIGM_TUNING=off is set: as long as it is, nothing takes this up');
  } finally {
    progress.stop();
    device.dispose();
  }
}

async function clear({ adapter, quiet, json }: TuneFlags, io: Io): Promise<void> {
  const device = await Device.open({ adapter });
  try {
    const { name: adapter, driver } = device;
    const forgotten = device.forgetTuning();
    if (json) io.out(JSON.stringify({ adapter, driver, forgotten }, null, 2));
    else if (!quiet) {
      io.out(`${forgotten ? 'forgotten' : 'nothing was stored'}: ${adapter} uses ${tuningText(undefined)}`);
    }
  } finally {
    device.dispose();
  }
}

async function modelOf(
  { model, pull, quiet }: TuneFlags,
  io: Io,
): Promise<{ config: ModelConfig; settings: SampleSettings }> {
  if (model !== undefined && /^(emigm[-_])?[a-z]+[-_]\d+$/i.test(model)) {
    return { config: preset(model), settings: resolveSettings() };
  }
  const path = model === undefined ? shippedModel() : await resolveFile(model, io, { flag: '--model', pull, quiet });
  if ((await modelKind(path)) !== 'continuous') {
    throw new EmigmError('input', `${path} is no model of continuous tokens: name one, or a size such as b-256`);
  }
  const file = await openModel(path);
  try {
    const info: Partial<ModelInfo> = file.info;
    return { config: file.config, settings: resolveSettings(info.sampling as Partial<SampleSettings> | undefined) };
  } finally {
    await file.close();
  }
}

function text(found: readonly Choice[]): string {
  const names = [...new Set(found.flatMap(({ seconds }) => Object.keys(seconds)))];
  const rows = found.map(({ key, builtIn, choice, gain, seconds }) => [
    key,
    builtIn,
    choice === builtIn ? '' : choice,
    choice === builtIn ? '' : digits(gain),
    ...names.map((name) => (seconds[name] === undefined ? '-' : time(seconds[name]))),
  ]);
  const total = (of: (one: Choice) => number | undefined) => found.reduce((sum, one) => sum + (of(one) ?? 0), 0);
  const base = total(({ builtIn, seconds }) => seconds[builtIn]);
  const now = total(({ choice, seconds }) => seconds[choice]);
  const changed = found.filter(({ choice, builtIn }) => choice !== builtIn).length;
  const tiles = found.flatMap((one) => one.tiles);
  const better = tiles.filter(({ choice, builtIn }) => choice !== builtIn);
  const gains = better.map(({ gain }) => gain);
  return (
    `${table([['layer', 'built in', 'better', 'gain', ...names], ...rows], [3, ...names.map((_, i) => 4 + i)])}\n\n` +
    `seconds an image in all calls of the layer; ${changed} of ${found.length} shapes have a better kernel than the built-in ` +
    `one${changed > 0 ? `: ${time(now)} an image instead of ${time(base)} in these layers` : ''}\n` +
    `${better.length} of ${tiles.length} numbers of rows have a better tile than the built-in one` +
    `${gains.length > 0 ? `, by ${digits(Math.min(...gains))} to ${digits(Math.max(...gains))}` : ''}`
  );
}
