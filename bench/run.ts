/** `npm run bench`: times of kernels, of the host, of whole sampling runs. */
import { join } from 'node:path';
import { Command, Option } from 'commander';
import type { Io } from '../src/cli/io.ts';
import { oneOf, positiveInteger } from '../src/cli/options.ts';
import { createProgress } from '../src/cli/progress.ts';
import { Device } from '../src/gpu/device.ts';
import { packageFolder } from '../src/gpu/node.ts';
import { benchHost } from './host.ts';
import { benchOps } from './ops.ts';
import { resultText } from './report.ts';
import { type BenchResult, emptyResult, writeResult } from './result.ts';
import { benchSampling } from './sampling.ts';
import { benchTraining } from './training.ts';
import { runStoppable } from './main.ts';

const PARTS = ['ops', 'host', 'sampling', 'training'] as const;
const SHIPPED = join(packageFolder(), 'weights', 'clothing32.safetensors');

/** Configurations and batches of the training part. */
const TRAINING = [
  ['clothing32', 32],
  ['imagenet-xs-256', 1],
  ['imagenet-xs-256', 8],
] as const;

interface BenchFlags {
  only?: (typeof PARTS)[number];
  ops?: string;
  variants: 'all' | 'best';
  adapter?: string;
  model?: string;
  images?: number;
  batch: number;
  steps?: number;
  headSteps?: number;
  out: string;
  quick?: boolean;
}

function command(): Command {
  return new Command('npm run bench --')
    .description(
      'Times every op (device timestamps), the costs on the host, a sampling run, and training steps. Writes JSON.',
    )
    .addOption(new Option('--only <part>', `one of ${PARTS.join(', ')} (default: all)`).argParser(oneOf(PARTS)))
    .option('--ops <pattern>', 'ops whose name matches this regular expression')
    .addOption(
      new Option('--variants <which>', 'all implementations, or the best: what the engine chooses')
        .default('all')
        .argParser(oneOf(['all', 'best'])),
    )
    .option('--adapter <name>', 'auto, gpu, lavapipe, swiftshader or a part of a name (also EMIGM_ADAPTER)')
    .option(
      '--model <model>',
      'sampling: a model file, or a size (b-256) with random weights (default: the shipped one)',
    )
    .option('--images <n>', 'sampling: images in all (default: two batches)', positiveInteger)
    .option('--batch <n>', 'sampling: images at once', positiveInteger, 16)
    .option('--steps <n>', 'sampling: steps', positiveInteger)
    .option('--head-steps <n>', 'sampling: steps of the head', positiveInteger)
    .option('--out <file>', 'where the JSON goes', 'out/bench.json')
    .option('--quick', 'few problems and repeats: to see that it works')
    .addHelpText(
      'after',
      `
Examples:
  npm run bench -- --adapter lavapipe --out bench/results/lavapipe.json
  npm run bench -- --only ops --ops matmul --variants best
  npm run bench -- --only sampling --model b-256 --images 1 --batch 1
  npm run bench -- --only training`,
    )
    .exitOverride();
}

/** Runs what the flags ask for and returns the result, which is written to `out` too. */
export async function bench(argv: readonly string[], io: Io): Promise<BenchResult> {
  const flags = command()
    .configureOutput({ writeOut: (text) => io.out(text.trimEnd()), writeErr: (text) => io.err(text.trimEnd()) })
    .parse([...argv], { from: 'user' })
    .opts<BenchFlags>();
  const device = { adapter: flags.adapter };
  const { quick } = flags;
  const probe = await Device.open(device);
  const result = emptyResult(probe, argv);
  probe.dispose();

  /** One part with its progress bar. */
  const part = async <T>(label: string, run: (onProgress: (done: number, what: string) => void) => Promise<T>) => {
    const progress = createProgress(io, { label, total: 1 });
    try {
      return await run((done, what) => progress.update(done, what));
    } finally {
      progress.stop();
    }
  };
  const wanted = (name: (typeof PARTS)[number]) => (flags.only ?? name) === name;
  const { signal } = io;
  if (wanted('ops')) {
    const { ops: pattern, variants } = flags;
    result.ops = await part('ops', (onProgress) => benchOps({ device, pattern, variants, quick, onProgress, signal }));
  }
  if (wanted('host')) {
    result.host = await part('host', (onProgress) => benchHost({ device, model: SHIPPED, quick, onProgress }));
  }
  if (wanted('sampling')) {
    const { model = SHIPPED, batch, steps, headSteps, images = quick ? batch : 2 * batch } = flags;
    const settings = { steps, headSteps };
    const warmUp = !quick && images > batch;
    const run = { device, model, images, batch, warmUp, settings, signal };
    result.sampling.push(await part('sampling', (onProgress) => benchSampling({ ...run, onProgress })));
  }
  if (wanted('training')) {
    for (const [config, size] of quick ? TRAINING.slice(0, 1) : TRAINING) {
      const run = { device, config, batch: size, repeats: quick ? 1 : 3, signal };
      result.training.push(await part('training', (onProgress) => benchTraining({ ...run, onProgress })));
    }
  }
  await writeResult(flags.out, result);
  io.out(resultText(result));
  io.out(`\nwritten to ${flags.out}`);
  return result;
}

if (process.argv[1] === import.meta.filename) process.exitCode = await runStoppable('bench', bench);
