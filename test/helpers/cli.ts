/** Running the command line inside the test process. */
import type { Io } from '../../src/cli/io.ts';
import { run } from '../../src/cli/program.ts';

export interface CliResult {
  code: number;
  /** Lines of results, and lines of messages. */
  out: string;
  err: string;
}

/** Runs `emigm ...argv`. */
export async function emigm(
  argv: readonly string[],
  signal: Io['signal'] = new AbortController().signal,
): Promise<CliResult> {
  const [out, err]: string[][] = [[], []];
  const io: Io = { out: (line) => out.push(line), err: (line) => err.push(line), columns: undefined, signal };
  const code = await run(argv, io);
  return { code, out: out.join('\n'), err: err.join('\n') };
}
