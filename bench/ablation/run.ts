/** `npx tsx bench/ablation/run.ts`: the paper's ablation in small, on generated shapes. */
import { readFileSync } from 'node:fs';
import { basename, isAbsolute, join } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import type { Io } from '../../src/cli/io.ts';
import { makeFolder } from '../../src/cli/open.ts';
import { grouped, oneOf, positiveInteger, wholeNumber } from '../../src/cli/options.ts';
import { createProgress } from '../../src/cli/progress.ts';
import { openDevice } from '../../src/ops/open_device.ts';
import { study } from './axes.ts';
import { ofKind } from './log.ts';
import { measurementsFile, runStudy } from './study.ts';
import { machineOf } from '../../src/cli/versions.ts';
import { runStoppable } from '../main.ts';

interface Flags {
  out: string;
  seeds: number[];
  images: number;
  samples: number;
  pictures: number;
  reference: number;
  classifierSteps: number;
  only?: string;
  adapter?: string;
}

/** For commander: `0,1,2`, each once. */
function seedList(text: string): number[] {
  try {
    return [...new Set(text.split(',').map((part) => wholeNumber(part.trim())))];
  } catch {
    throw new InvalidArgumentError('It must be whole numbers, such as 0,1,2.');
  }
}

function command(): Command {
  const names = study.axes.map(({ name }) => name);
  return new Command('npx tsx bench/ablation/run.ts')
    .description(
      'Trains a small network along the axes of the eMIGM paper on generated shapes, samples from it, and judges the\n' +
        'samples by a classifier trained on the same data. What is stopped goes on with the same command.',
    )
    .requiredOption('-o, --out <folder>', 'data, classifier, runs and measurements')
    .addOption(new Option('--seeds <list>', 'each training is repeated with').argParser(seedList).default([0, 1, 2]))
    .option('--images <n>', 'images seen in each training', positiveInteger, 40_960)
    .option('--samples <n>', 'images drawn for each point', positiveInteger, 500)
    .option('--pictures <n>', 'shapes that are trained on', positiveInteger, 10_000)
    .option('--reference <n>', 'held-out shapes that samples are compared with', positiveInteger, 5000)
    .option('--classifier-steps <n>', "steps of the classifier's training", positiveInteger, 1000)
    .addOption(new Option('--only <axis>', `one of ${names.join(', ')}`).argParser(oneOf(names)))
    .option('--adapter <name>', 'auto, gpu, lavapipe, swiftshader or a part of a name (also EMIGM_ADAPTER)')
    .addHelpText(
      'after',
      `
Examples:
  npx tsx bench/ablation/run.ts --adapter lavapipe --out out/ablation
  npx tsx bench/ablation/run.ts --out out/ablation --only guidance-interval --seeds 0
  npx tsx bench/ablation/report.ts out/ablation`,
    )
    .exitOverride();
}

/** Runs what the flags ask for. */
export async function ablate(argv: readonly string[], io: Io): Promise<void> {
  const { only, adapter, ...options } = command()
    .configureOutput({ writeOut: (text) => io.out(text.trimEnd()), writeErr: (text) => io.err(text.trimEnd()) })
    .parse([...argv], { from: 'user' })
    .opts<Flags>();
  makeFolder(options.out);
  const device = await openDevice({ adapter });
  const progress = createProgress(io, { label: 'ablation', total: 1 });
  try {
    const lines = await runStudy(device, {
      ...options,
      study: { ...study, axes: study.axes.filter(({ name }) => (only ?? name) === name) },
      network: readFileSync(join(import.meta.dirname, 'network.json'), 'utf8'),
      command: [
        'npx tsx bench/ablation/run.ts',
        ...argv.map((word) => (isAbsolute(word) ? basename(word) : word)),
      ].join(' '),
      machine: machineOf(device),
      onProgress: (done, what) => progress.update(done, what),
      signal: io.signal,
    });
    const [trained, measured] = [ofKind(lines, 'training').length, ofKind(lines, 'point').length];
    io.out(`${grouped(trained)} trainings and ${grouped(measured)} points in ${measurementsFile(options.out)}`);
  } finally {
    progress.stop();
    device.dispose();
  }
}

if (process.argv[1] === import.meta.filename)
  process.exitCode = await runStoppable('ablation', ablate, ['SIGINT', 'SIGTERM']);
