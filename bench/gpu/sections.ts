/** What is measured on a GPU, in parts that each fit in a few minutes. */
import { samplingNames } from './goals.ts';

export interface Section {
  /** Ends the name of its file. */
  name: string;
  /** Seconds that it takes on a large GPU, cold: with less time left it waits for the next call. */
  estimate: number;
  /** What node runs, from the folder of the package. `out` is where its JSON goes, */
  argv(out: string): readonly string[];
  /** unless its JSON is what it prints. */
  prints?: boolean;
}

const CLI = 'src/cli/main.ts';
const BENCH = 'bench/run.ts';

/**
 * All sections in the order in which they run; what takes long to compile comes last. `quick`: tiny work in each, to
 * see that it runs, also on a CPU driver.
 */
export function sections({ adapter, quick = false }: { adapter: string; quick?: boolean }): Section[] {
  const cli = (name: string, estimate: number, argv: string, small: string): Section => ({
    name,
    estimate,
    prints: true,
    argv: () => [CLI, ...words(quick ? small : argv)],
  });
  const kernels = (name: string, estimate: number, argv: string, small: string): Section => ({
    name: `kernels-${name}`,
    estimate,
    argv: (out) => [CLI, 'bench', 'kernels', ...words(quick ? `${small} --seconds 0.01` : argv), '--json', out],
  });
  const bench = (name: string, estimate: number, ...argv: string[]): Section => ({
    name,
    estimate,
    argv: (out) => [BENCH, ...argv, ...(quick ? ['--quick'] : []), '--out', out],
  });
  const peers = (name: string, estimate: number, only: string, names: string): Section => ({
    name: `peers-${name}`,
    estimate,
    argv: (out) => {
      const work = quick ? '^matmul 64 x 448 x 448$' : only;
      return ['bench/peers/run.ts', '--only', work, '--peers', names, '--rounds', quick ? '1' : '3', '--json', out];
    },
  });
  const sampling = (peer: string, models: readonly number[], batches: readonly number[], estimate: number) =>
    models.flatMap((model) =>
      batches.map((batch) => {
        const { section, work } = samplingNames(peer, model, batch);
        return peers(section, estimate + 20 * model, `^${work}$`, `^emigm f16$|PyTorch ${peer}`);
      }),
    );
  // Widths of eMIGM-B, -L and -H.
  const shapes = (rows: number) => `^matmul ${rows} x (768|1024|1280|3072|4096|5120) x`;
  const parts = '^(attention|ViT block|diffusion head|eMIGM-B evaluation|200 tiny)';

  const all: Section[] = [
    cli('doctor', 120, 'doctor --check --json', 'doctor --json'),
    {
      name: 'tests',
      estimate: 400,
      argv: (out) => {
        const some = quick ? ['test/masking'] : ['--maxWorkers', '8'];
        return ['node_modules/vitest/vitest.mjs', 'run', ...some, '--reporter=json', `--outputFile=${out}`];
      },
    },
    { name: 'block', estimate: 10, argv: (out) => ['bench/gpu/block.ts', out] },
    cli('tune', 150, 'tune --model b-256 --batch 1,8,64 --json', 'tune --batch 1 --seconds 0.01 --json'),
    kernels(
      'matmul-4096',
      60,
      '--op matmul --m 4096 --k 4096 --n 4096 --stored f16 --x f16 --y f16',
      '--op matmul --m 64',
    ),
    kernels(
      'matmul-f16',
      100,
      '--op matmul --m 64,320,1024 --k 768,1024,1280 --n 768,3072 --stored f16 --x f16 --y f16',
      '--op matmul --m 32',
    ),
    kernels('matmul', 120, '--op matmul --shapes models --pass forward', '--op matmul --m 64 --k 64 --n 64'),
    kernels(
      'attention',
      40,
      '--op attention --queries 256,320 --heads 12,16 --head-dim 64 --stored f32,f16',
      '--op attention --queries 16',
    ),
    peers('matmul-4096', 60, '^matmul 4096', '^emigm|eager|autocast'),
    peers('matmul-320', 110, shapes(320), '^emigm( f16)?$|autocast'),
    peers('matmul-1024', 140, shapes(1024), '^emigm( f16)?$|autocast'),
    peers('parts', 120, parts, '^emigm|eager|autocast'),
    ...sampling('autocast', [0, 1, 2], [1, 64, 8], 60),
    bench('sampling-clothing32', 30, '--only', 'sampling'),
    bench('sampling-b-256', 40, '--only', 'sampling', ...(quick ? [] : ['--model', 'b-256', '--batch', '8'])),
    bench('training', 60, '--only', 'training'),
    {
      name: 'startup',
      estimate: 40,
      argv: (out) => ['bench/startup.ts', '--adapter', adapter, '--rounds', quick ? '1' : '3', '--out', out],
    },
    kernels('all', 240, '--shapes models --variant best', '--op layernorm --rows 16'),
    ...sampling('compile', [0, 1, 2], [64], 240),
    peers('parts-compile', 200, parts, '^emigm( f16)?$|compile'),
    ...sampling('compile', [0, 1, 2], [1, 8], 240),
  ];
  return quick ? all.map((section) => ({ ...section, estimate: 30 })) : all;
}

const words = (text: string): string[] => text.split(' ');
