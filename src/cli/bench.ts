/** `emigm bench nfe`: how long an image takes at so many function evaluations, and where the time goes. */
import { statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { type Command, Option } from 'commander';
import { EmigmError } from '../errors.ts';
import { tuningText } from '../gpu/tuning.ts';
import { openJsonLines } from '../formats/json_lines.ts';
import { measurePeak } from '../measurement/peak.ts';
import { type Point, pointId } from '../measurement/point.ts';
import { assemble } from '../measurement/rows.ts';
import { checkRungs } from '../measurement/rungs.ts';
import { type Header, type Line, type Machine, parseLine, VERSION } from '../measurement/schema.ts';
import { sweep } from '../measurement/sweep.ts';
import { markdown } from '../measurement/tables.ts';
import { Workbench } from '../measurement/workbench.ts';
import { presets } from '../models/config.ts';
import { registerBenchKernels } from './bench_kernels.ts';
import { addPointFlags, type PointFlags, pointsOf } from './bench_points.ts';
import { checkQuality, measureQuality, type QualityFlags } from './bench_quality.ts';
import type { Io } from './io.ts';
import { addExtractorFlags } from './extractor_flags.ts';
import { makeFolder } from './open.ts';
import { positiveInteger, wholeNumber } from './options.ts';
import { createProgress } from './progress.ts';
import { machineOf } from './versions.ts';
import { writeReport } from './write_report.ts';

export interface NfeFlags extends PointFlags, QualityFlags {
  repeat: number;
  kernels: boolean;
  adapter?: string;
}

const MEASUREMENTS = 'measurements.jsonl';

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
    .option('-o, --out <folder>', 'where the report goes', 'nfe')
    .option('-q, --quiet', 'print nothing but errors')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  emigm bench nfe --steps 4,8,16 --batch 1,8\n' +
        '  emigm bench nfe --model xs-256,b-256 --preset emigm,mar --steps 8,16 \\\n' +
        '      --stored f32,f16\n' +
        '  emigm bench nfe --model b-256 --preset emigm,mar,maskgit,mdm --steps 8,16\n' +
        '  emigm bench nfe --model b-256 --cfg-interval 0,1 --cfg-interval 0.1,0.3 \\\n' +
        '      --kernel default --kernel matmul=reference\n' +
        '  emigm bench nfe --quality 1000 --extractor clothing32 \\\n' +
        '      --reference clothing-test.npz --share-early 1,4,8',
    )
    .action((flags: NfeFlags) => benchNfe(flags, io));
  addPointFlags(nfe);
  nfe
    .optionsGroup('How:')
    .option('--vae <file>', 'a tokenizer: decoding to pixels is measured too')
    .option('--pull', 'download repositories that --model or --vae name and the cache lacks')
    .addOption(option('--seed <n>', 'seed of the images', wholeNumber).default(0))
    .addOption(option('--repeat <n>', 'measured runs of each point', positiveInteger).default(5))
    .option('--no-kernels', 'do not time kernels one by one, which takes one run more of each point')
    .option('--adapter <name>', "auto, gpu, lavapipe, swiftshader or a part of an adapter's name (also EMIGM_ADAPTER)")
    .optionsGroup('Quality beside latency:')
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
    );
  addExtractorFlags(nfe);
  registerBenchKernels(bench, io);
}

/** @throws EmigmError 'input', 'file', 'model', 'adapter', 'memory', 'aborted' */
export async function benchNfe(flags: NfeFlags, io: Io): Promise<void> {
  const { quiet, repeat, seed, adapter } = flags;
  const { points: asked, vae } = await pointsOf(flags, io);
  await checkQuality(asked, flags);
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
    const onProgress = (what: string) => progress.update(0, `the adapter's peak: ${what}`);
    let header: Header;
    try {
      for (const { kernel } of asked) checkRungs(await bench.device(), kernel);
      header = await headerOf(flags, bench, lines, add, { signal: io.signal, onProgress });
      checkFiles(asked, lines);
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
        const kept =
          lines.length > 0 ? `what was measured is in ${file.path}, and the` : 'nothing was measured yet, and the';
        io.err(`stopped; ${kept} same command goes on from there`);
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

/**
 * What the folder's measurements were made on: it must be this machine, this program and these options.
 * @throws EmigmError 'input' when it is another
 */
async function headerOf(
  flags: NfeFlags,
  bench: Workbench,
  lines: readonly Line[],
  add: (line: Line) => void,
  measuring: Parameters<typeof measurePeak>[1],
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
      peak: await measurePeak(device, measuring),
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
