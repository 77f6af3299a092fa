/** All commands, and what becomes of their errors. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command, CommanderError } from 'commander';
import { EmigmError } from '../errors.ts';
import { packageFolder } from '../gpu/node.ts';
import type { Io } from './io.ts';

/** Exit codes: done, failed, wrong use. */
export const EXIT = { done: 0, failed: 1, usage: 2, stopped: 130 } as const;

/** Version of this package. */
export function packageVersion(): string {
  return JSON.parse(readFileSync(join(packageFolder(), 'package.json'), 'utf8')).version;
}

/** Each registers one command on the program. A module is loaded when its command runs: all of them take long to load. */
const COMMANDS: Readonly<Record<string, () => Promise<(program: Command, io: Io) => void>>> = {
  sample: async () => (await import('./sample.ts')).registerSample,
  edit: async () => (await import('./edit.ts')).registerEdit,
  train: async () => (await import('./train.ts')).registerTrain,
  'train-classifier': async () => (await import('./train_classifier.ts')).registerTrainClassifier,
  classify: async () => (await import('./classify.ts')).registerClassify,
  eval: async () => (await import('./eval.ts')).registerEval,
  bench: async () => (await import('./bench.ts')).registerBench,
  tune: async () => (await import('./tune.ts')).registerTune,
  report: async () => (await import('./report.ts')).registerReport,
  merge: async () => (await import('./merge.ts')).registerMerge,
  plot: async () => (await import('./plot.ts')).registerPlot,
  data: async () => (await import('./data.ts')).registerData,
  pull: async () => (await import('./pull.ts')).registerPull,
  encode: async () => (await import('./encode.ts')).registerEncode,
  decode: async () => (await import('./decode.ts')).registerDecode,
  reconstruct: async () => (await import('./reconstruct.ts')).registerReconstruct,
  convert: async () => (await import('./convert.ts')).registerConvert,
  inspect: async () => (await import('./inspect.ts')).registerInspect,
  doctor: async () => (await import('./doctor.ts')).registerDoctor,
  bundle: async () => (await import('./bundle.ts')).registerBundle,
};

/** The program with the command that `argv` begins with, or with all commands where it begins with none of them. */
async function createProgram(argv: readonly string[], io: Io): Promise<Command> {
  const program = new Command('emigm')
    .description('Masked image generation (eMIGM) on WebGPU compute kernels')
    .version(packageVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand('help [command]', 'print the help of a command');
  const asked = Object.entries(COMMANDS).filter(([name]) => name === argv[0]);
  const loaded = asked.length > 0 ? asked : Object.entries(COMMANDS);
  for (const register of await Promise.all(loaded.map(([, load]) => load()))) register(program, io);
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
    const program = await createProgram(argv, io);
    await program.parseAsync(argv, { from: 'user' });
    return EXIT.done;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.usage;
    if (io.signal.aborted) return EXIT.stopped;
    if (error instanceof EmigmError) {
      const { namedByFlag } = await import('./settings_flags.ts');
      io.err(`emigm: ${namedByFlag(error.message, argv)}`);
      return EXIT.failed;
    }
    // A fault of the program itself: the stack is what a report needs.
    io.err(`emigm: internal error: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
    return EXIT.failed;
  }
}
