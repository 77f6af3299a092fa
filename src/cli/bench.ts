/** `emigm bench nfe`: how long an image takes at so many function evaluations, and where the time goes. */
import { statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import { tuningText } from '../gpu/tuning.ts';
import { openJsonLines } from '../formats/json_lines.ts';
import { axisPresets } from '../masking/axes.ts';
import { measurePeak } from '../measurement/peak.ts';
import { drawsCodes, modelPoints, type Point, pointId } from '../measurement/point.ts';
import { assemble } from '../measurement/rows.ts';
import { type Header, type Line, type Machine, parseLine, VERSION } from '../measurement/schema.ts';
import { sweep } from '../measurement/sweep.ts';
import { markdown } from '../measurement/tables.ts';
import { settingsOf, Workbench } from '../measurement/workbench.ts';
import { preset, presets } from '../models/config.ts';
import { MOST_CODES } from '../models/discrete/config.ts';
import { modelKind } from '../models/kind.ts';
import type { Stored } from '../ops/matmul_kernels.ts';
import { registerBenchKernels } from './bench_kernels.ts';
import { checkQuality, measureQuality, type QualityFlags } from './bench_quality.ts';
import { addKernel } from './device_flags.ts';
import type { Io } from './io.ts';
import { addExtractorFlags } from './extractor_flags.ts';
import { makeFolder, shippedModel } from './open.ts';
import { finiteNumber, interval, oneOf, positiveInteger, wholeNumber } from './options.ts';
import { createProgress } from './progress.ts';
import { resolveFile } from './pull.ts';
import { machineOf } from './versions.ts';
import { writeReport } from './write_report.ts';

export interface NfeFlags extends QualityFlags {
  model: string[];
  preset: Point['preset'][];
  codes?: number[];
  steps: number[];
  headSteps: Point['headSteps'][];
  headSampler: Point['headSampler'][];
  cfg: Point['cfg'][];
  cfgInterval?: [number, number][];
  batch: number[];
  stored: Point['stored'][];
  kernel?: Record<string, string>[];
  vae?: string;
  pull?: boolean;
  seed: number;
  repeat: number;
  kernels: boolean;
  adapter?: string;
}

/** Steps of the issue that this command is for. */
const STEPS = [4, 6, 8, 12, 16, 24, 32, 64, 128];
const MEASUREMENTS = 'measurements.jsonl';

/** For commander: a list of values, each once. */
function list<T>(parse: (text: string) => T): (text: string) => T[] {
  return (text) => [...new Set(text.split(',').map((part) => parse(part.trim())))];
}

/** For commander. */
function codeCount(text: string): number {
  const count = positiveInteger(text);
  if (count > MOST_CODES) throw new InvalidArgumentError(`It must be ${MOST_CODES} at most.`);
  return count;
}

/** For commander: `default`, or implementations joined by `+`; may be repeated. */
function rung(text: string, before: Record<string, string>[] = []): Record<string, string>[] {
  if (text === 'default') return [...before, {}];
  return [...before, text.split('+').reduce<Record<string, string>>((all, one) => addKernel(one, all), {})];
}

export function registerBench(program: Command, io: Io): void {
  const option = (flags: string, text: string, parse: (text: string) => unknown) =>
    new Option(flags, text).argParser(parse);
  const bench = program
    .command('bench')
    .summary('measure how fast images are made')
    .description('Measures speed on this adapter.')
    .addHelpText(
      'after',
      '\nExamples:\n  emigm bench nfe --model b-256 --steps 4,8,16 --batch 1,8 --out nfe\n  emigm bench kernels --op matmul',
    );
  const nfe = bench
    .command('nfe')
    .summary('latency against the number of function evaluations')
    .description(
      'Times sampling at every combination of the values given: each point several times, in interleaved rounds, after ' +
        'a warm-up. Writes a report (JSON, CSV, Markdown, an HTML page) and figures. What is measured is kept at once, so ' +
        'that the same command goes on where it was stopped; more points or repeats are added in the same way.',
    )
    .addOption(
      option(
        '-m, --model <list>',
        `model files, or sizes with random weights: ${Object.keys(presets).slice(0, 3).join(', ')} ... (default: clothing32)`,
        list((name) => name),
      ),
    )
    .addOption(
      option(
        '--preset <list>',
        `networks and ways of sampling: ${Object.keys(axisPresets).join(', ')}`,
        list(oneOf(Object.keys(axisPresets) as (keyof typeof axisPresets)[])),
      ).default([undefined], 'as the model file says'),
    )
    .addOption(
      option(
        '--codes <list>',
        'codes of the random codebook of sizes with --preset maskgit or mdm (default: 1024)',
        list(codeCount),
      ),
    )
    .addOption(option('--steps <list>', 'steps of revealing', list(positiveInteger)).default(STEPS, STEPS.join(',')))
    .addOption(
      option(
        '--head-steps <list>',
        'steps of the diffusion head; with ddpm also ddim25 and the like',
        list((text) => (/^\d+$/.test(text) ? Number(text) : text)),
      ),
    )
    .addOption(option('--head-sampler <list>', 'dpm-solver, ddpm', list(oneOf(['dpm-solver', 'ddpm']))))
    .addOption(option('--cfg <list>', 'guidance scales; 1 is none', list(finiteNumber)))
    .addOption(
      new Option('--cfg-interval <low,high>', 'guided while low < s <= high; may be repeated').argParser(
        (text: string, before: [number, number][] = []) => [...before, interval(text)],
      ),
    )
    .addOption(option('-b, --batch <list>', 'images at once', list(positiveInteger)).default([1], '1'))
    .addOption(
      option('--stored <list>', 'weights on the device: f32, f16, int8', list(oneOf<Stored>(['f32', 'f16', 'int8']))),
    )
    .addOption(
      new Option(
        '--kernel <rung>',
        'implementations: default, matmul=reference, matmul=tiled+attention=flash; may be repeated',
      ).argParser(rung),
    )
    .option('--vae <file>', 'a tokenizer: decoding to pixels is measured too')
    .option('--pull', 'download repositories that --model or --vae name and the cache lacks')
    .addOption(option('--seed <n>', 'seed of the images', wholeNumber).default(0))
    .addOption(option('--repeat <n>', 'measured runs of each point', positiveInteger).default(5))
    .option('--no-kernels', 'do not time kernels one by one, which takes one run more of each point')
    .option('--adapter <name>', "auto, gpu, lavapipe, swiftshader or a part of an adapter's name (also EMIGM_ADAPTER)")
    .addOption(
      option(
        '--quality <n>',
        'also draw so many images at each setting, and measure how good they are',
        positiveInteger,
      ),
    )
    .option(
      '--reference <file>',
      'statistics that --quality compares with (.npz of emigm eval fid --out); else the score alone',
    )
    .option('-o, --out <folder>', 'where the report goes', 'nfe')
    .option('-q, --quiet', 'print nothing but errors')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  emigm bench nfe --steps 4,8,16 --batch 1,8\n' +
        '  emigm bench nfe --model xs-256,b-256 --preset emigm,mar --steps 8,16 --stored f32,f16\n' +
        '  emigm bench nfe --model b-256 --preset emigm,mar,maskgit,mdm --steps 8,16\n' +
        '  emigm bench nfe --model b-256 --cfg-interval 0,1 --cfg-interval 0.1,0.3 --kernel default --kernel matmul=reference\n' +
        '  emigm bench nfe --quality 1000 --extractor clothing32 --reference clothing-test.npz',
    )
    .action((flags: NfeFlags) => benchNfe(flags, io));
  addExtractorFlags(nfe);
  registerBenchKernels(bench, io);
}

/** @throws EmigmError 'input', 'file', 'model', 'adapter', 'memory', 'aborted' */
export async function benchNfe(flags: NfeFlags, io: Io): Promise<void> {
  const { quiet, repeat, seed, adapter } = flags;
  const asked = await pointsOf(flags, io);
  if (flags.quality) await checkQuality(asked, flags);
  const vae = flags.vae && (await resolveFile(flags.vae, io, { flag: '--vae', pull: flags.pull, quiet }));
  makeFolder(flags.out);
  const file = await openJsonLines(join(flags.out, MEASUREMENTS));
  const progress = createProgress(io, { label: 'measuring', total: 1, quiet });
  let share = 0;
  const bench = new Workbench({
    adapter,
    seed,
    vae,
    signal: io.signal,
    onLoading: (name, done) => progress.update(share, `loading ${basename(name)} ${Math.floor(100 * done)}%`),
  });
  try {
    const lines = file.lines.map((line, i) => parseLine(line, `${file.path}: line ${i + 1}`));
    const add = (line: Line): void => {
      file.append(line);
      lines.push(line);
    };
    const header = await headerOf(flags, bench, lines, add, io);
    checkFiles(asked, lines);
    try {
      await sweep(bench, {
        points: asked,
        repeats: repeat,
        finished: [...lines],
        kernels: flags.kernels,
        processPeak: () => process.resourceUsage().maxRSS * 1024,
        signal: io.signal,
        onProgress: (done, what) => progress.update((share = done), what),
        onLine: (line) => add(line.kind === 'facts' ? withFile(line, asked) : line),
      });
      progress.stop();
      if (flags.quality) await measureQuality(bench, asked, lines, add, flags, io);
    } catch (error) {
      if (io.signal.aborted && !quiet) {
        progress.stop();
        io.err(`stopped; what was measured is in ${file.path}, and the same command goes on from there`);
      }
      throw error;
    }
    progress.stop();
    const command = ['emigm', ...process.argv.slice(2)].map((word) => basename(word)).join(' ');
    const about = { date: new Date().toISOString(), command, repeats: repeat };
    const report = assemble(header, lines, asked.map(pointId), about);
    const html = await writeReport(flags.out, 'nfe', [report]);
    if (quiet) return;
    io.out(markdown([report]).trimEnd());
    io.out(`\n${html} has the figures; emigm report lays several runs side by side`);
  } finally {
    progress.stop();
    bench.dispose();
    file.close();
  }
}

/** The points that the flags ask for, their settings checked before anything is loaded. */
async function pointsOf(flags: NfeFlags, io: Io): Promise<Point[]> {
  const models: string[] = [];
  for (const name of flags.model ?? [shippedModel()]) models.push(await modelOf(name, flags, io));
  const names = models.map((model) => basename(model));
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice) throw new EmigmError('input', `--model names two models ${twice}; give the files different names`);
  const some = <T>(values: readonly T[] | undefined): readonly (T | undefined)[] => values ?? [undefined];
  const asked: Point[] = [];
  for (const model of models) {
    const isDiscrete = !presets[model] && (await modelKind(model)) === 'discrete';
    const axes = {
      model: [model],
      preset: flags.preset,
      codes: some(flags.codes),
      stored: some(flags.stored),
      kernel: some(flags.kernel),
      headSampler: some(flags.headSampler),
      headSteps: some(flags.headSteps),
      cfg: some(flags.cfg),
      cfgInterval: some(flags.cfgInterval),
      batch: flags.batch,
      steps: flags.steps,
    };
    asked.push(...modelPoints(axes, isDiscrete));
  }
  const random = flags.vae && asked.find(({ model, preset }) => presets[model] && preset && drawsCodes(preset));
  if (random)
    throw new EmigmError(
      'input',
      `--vae decodes latents, preset ${random.preset} draws codes: leave one of the two out`,
    );
  if (flags.codes && !asked.some(({ codes }) => codes)) {
    throw new EmigmError('input', '--codes counts for sizes with --preset maskgit or mdm: add these, or leave it out');
  }
  for (const point of asked) settingsOf(point, undefined, flags.seed);
  return asked;
}

async function modelOf(name: string, flags: NfeFlags, io: Io): Promise<string> {
  if (presets[name]) return name;
  try {
    const config = preset(name);
    return Object.keys(presets).find((one) => presets[one] === config) ?? name;
  } catch {
    return resolveFile(name, io, { flag: '--model', pull: flags.pull, quiet: flags.quiet });
  }
}

/**
 * What the folder's measurements were made on: it must be this machine, this program and these options.
 * @throws EmigmError 'input' when it is another
 */
async function headerOf(
  flags: NfeFlags,
  bench: Workbench,
  lines: readonly Line[],
  add: (line: Line) => void,
  io: Io,
): Promise<Header> {
  const device = await bench.device();
  const machine: Machine = { ...machineOf(device), choice: tuningText(device.tuning) };
  const options = JSON.stringify({ seed: flags.seed, vae: flags.vae && basename(flags.vae) });
  const known = lines.find((line) => line.kind === 'header');
  if (!known) {
    const header: Header = {
      kind: 'header',
      version: VERSION,
      machine,
      options,
      peak: await measurePeak(device, io.signal),
    };
    add(header);
    return header;
  }
  const parts: [string, unknown, unknown][] = [
    ['adapter', known.machine.adapter, machine.adapter],
    ['driver', known.machine.driver, machine.driver],
    ['versions', known.machine.versions, machine.versions],
    ['commit', known.machine.commit, machine.commit],
    ['kernels chosen by', known.machine.choice ?? tuningText(undefined), machine.choice],
    ['options', known.options, options],
  ];
  const text = (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value));
  const other = parts.find(([, before, now]) => text(before) !== text(now));
  if (other) {
    const [what, before, now] = other;
    throw new EmigmError(
      'input',
      `--out ${flags.out} holds measurements of another kind: ${what} ${text(before)} then, ${text(now)} now; name another folder`,
    );
  }
  return known;
}

/** @throws EmigmError 'input' when a model file is not the one that was measured under its name */
function checkFiles(asked: readonly Point[], lines: readonly Line[]): void {
  const models = new Map(asked.filter(({ model }) => !presets[model]).map(({ model }) => [basename(model), model]));
  for (const line of lines) {
    if (line.kind !== 'facts' || !line.facts.model.file) continue;
    const { name, bytes } = line.facts.model.file;
    const path = models.get(name);
    if (path && statSync(path).size !== bytes) {
      throw new EmigmError('input', `${path} is not the file that was measured before; name another --out folder`);
    }
  }
}

function withFile(line: Extract<Line, { kind: 'facts' }>, asked: readonly Point[]): Line {
  const { model } = asked.find((point) => pointId(point) === line.id)!;
  if (presets[model]) return line;
  const file = { name: basename(model), bytes: statSync(model).size };
  return { ...line, facts: { ...line.facts, model: { ...line.facts.model, file } } };
}
