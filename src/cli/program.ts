/** All commands, and what becomes of their errors. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command, CommanderError } from 'commander';
import { EmigmError } from '../errors.ts';
import { packageFolder } from '../gpu/node.ts';
import { registerClassify } from './classify.ts';
import { registerBench } from './bench.ts';
import { registerBundle } from './bundle.ts';
import { registerConvert } from './convert.ts';
import { registerData } from './data.ts';
import { registerDecode } from './decode.ts';
import { registerDoctor } from './doctor.ts';
import { registerEdit } from './edit.ts';
import { registerEncode } from './encode.ts';
import { registerEval } from './eval.ts';
import { registerInspect } from './inspect.ts';
import type { Io } from './io.ts';
import { registerMerge } from './merge.ts';
import { registerPlot } from './plot.ts';
import { registerPull } from './pull.ts';
import { registerReconstruct } from './reconstruct.ts';
import { registerReport } from './report.ts';
import { registerSample } from './sample.ts';
import { registerTune } from './tune.ts';
import { registerTrain } from './train.ts';
import { registerTrainClassifier } from './train_classifier.ts';

/** Exit codes: done, failed, wrong use. */
export const EXIT = { done: 0, failed: 1, usage: 2, stopped: 130 } as const;

/** Version of this package. */
export function packageVersion(): string {
  return JSON.parse(readFileSync(join(packageFolder(), 'package.json'), 'utf8')).version;
}

/** Each registers one command on the program. */
const COMMANDS = [
  registerSample,
  registerEdit,
  registerTrain,
  registerTrainClassifier,
  registerClassify,
  registerEval,
  registerBench,
  registerTune,
  registerReport,
  registerMerge,
  registerPlot,
  registerData,
  registerPull,
  registerEncode,
  registerDecode,
  registerReconstruct,
  registerConvert,
  registerInspect,
  registerDoctor,
  registerBundle,
];

export function createProgram(io: Io): Command {
  const program = new Command('emigm')
    .description('Masked image generation (eMIGM) on WebGPU compute kernels')
    .version(packageVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand('help [command]', 'print the help of a command');
  for (const register of COMMANDS) register(program, io);
  for (const command of withSubcommands(program)) {
    command
      .exitOverride()
      .showSuggestionAfterError()
      .configureOutput({
        writeOut: (text) => io.out(text.trimEnd()),
        writeErr: (text) => io.err(text.trimEnd()),
        outputError: (text, write) =>
          write(
            `emigm: ${text
              .replace(/^error: /, '')
              .trim()
              .replaceAll('\n', ' ')}`,
          ),
      });
  }
  return program;
}

function withSubcommands(command: Command): Command[] {
  return [command, ...command.commands.flatMap(withSubcommands)];
}

/** Runs one command line. Never throws: errors become one line on `io.err`, and the exit code that is returned. */
export async function run(argv: readonly string[], io: Io): Promise<number> {
  try {
    await createProgram(io).parseAsync(argv, { from: 'user' });
    return EXIT.done;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.usage;
    if (io.signal.aborted) return EXIT.stopped;
    if (error instanceof EmigmError) {
      io.err(`emigm: ${error.message}`);
      return EXIT.failed;
    }
    // A fault of the program itself: the stack is what a report needs.
    io.err(`emigm: internal error: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
    return EXIT.failed;
  }
}
