/**
 * Times of encoding and decoding by kind of layer, in the official sizes with random weights, and convolutions beside
 * matmuls of the same FLOPs: `npx tsx bench/tokenizers.ts --kind kl-16 --size 256 --adapter lavapipe --out FILE`.
 */
import { Command, Option } from 'commander';
import { oneOf, positiveInteger, table } from '../src/cli/options.ts';
import { crc32 } from '../src/formats/crc32.ts';
import type { Device } from '../src/gpu/device.ts';
import { openDevice } from '../src/ops/open_device.ts';
import type { Dispatch, Recorder } from '../src/gpu/recorder.ts';
import { Session } from '../src/gpu/session.ts';
import type { Tensor } from '../src/gpu/tensor.ts';
import { measureJobs } from '../src/measurement/kernels/run.ts';
import { jobsOf } from '../src/measurement/kernels/time.ts';
import { numbers } from '../src/measurement/random_weights.ts';
import { DC_AE_F32C32_CONFIG, dcAeShapes } from '../src/models/dc_ae/config.ts';
import { DcAe } from '../src/models/dc_ae/dc_ae.ts';
import { KL16_CONFIG, kl16Shapes } from '../src/models/kl16/config.ts';
import { Kl16 } from '../src/models/kl16/kl16.ts';
import type { WeightSource } from '../src/nn/weights.ts';
import { convOp } from '../src/ops/conv_op.ts';
import { matmulOp } from '../src/ops/matmul.ts';
import { resultHead, writeRows } from './result.ts';

/** Convolutions of KL-16: rows and columns of the map, channels in and out, rows and columns of the kernel. */
const CONVOLUTIONS = [
  [16, 512, 512, 3],
  [64, 256, 256, 3],
  [128, 128, 128, 3],
  [32, 512, 256, 1],
  [128, 256, 128, 1],
] as const;

/** Matrices with deviation 1 / sqrt(inputs), norms the identity, no biases. */
function random(shapes: ReadonlyMap<string, readonly number[]>): WeightSource {
  return {
    shape: (name) => shapes.get(name)!,
    read: async (name) => {
      const shape = shapes.get(name)!;
      const size = shape.reduce((a, b) => a * b, 1);
      if (shape.length === 1) return new Float32Array(size).fill(/weight|running_var/.test(name) ? 1 : 0);
      return numbers(crc32(new TextEncoder().encode(name))).normal(size, Math.sqrt(shape[0] / size));
    },
  };
}

interface LayerRow {
  pass: 'encode' | 'decode';
  /** The op; convolutions with the size of their kernel. */
  layer: string;
  kernel: string;
  dispatches: number;
  seconds: number;
  flops: number;
  bytes: number;
}

/** `conv 3 x 3`, `conv 3 x 3 upsampling`, `conv 1 x 1`; other ops by their names, 1 x 1 convolutions that they do too. */
function layerOf({ op, kernel, params }: Dispatch): string {
  if (op !== 'conv') return op;
  const { kernel_height, kernel_width } = kernel.unpackParams(params);
  return kernel.spec.overrides?.PHASES ? `${op} 3 x 3 upsampling` : `${op} ${kernel_height} x ${kernel_width}`;
}

/** Device time of each layer and kernel file in a pass: of `repeats` profiles the fastest, after one that is not counted. */
async function timePass(
  device: Device,
  pass: LayerRow['pass'],
  repeats: number,
  record: (r: Recorder) => void,
): Promise<LayerRow[]> {
  const session = new Session(device, { nanGuard: false });
  try {
    const program = session.record(pass, record);
    await session.prepare();
    await session.profile(program);
    let fastest: LayerRow[] | undefined;
    const sum = (rows: readonly LayerRow[]) => rows.reduce((total, { seconds }) => total + seconds, 0);
    for (let i = 0; i < repeats; i++) {
      const found = new Map<string, LayerRow>();
      for (const [d, { kernel, seconds, flops, bytes }] of (await session.profile(program)).entries()) {
        const layer = layerOf(program.dispatches[d]);
        const key = `${layer} ${kernel}`;
        const row = found.get(key) ?? { pass, layer, kernel, dispatches: 0, seconds: 0, flops: 0, bytes: 0 };
        found.set(key, row);
        row.dispatches++;
        row.seconds += seconds;
        row.flops += flops;
        row.bytes += bytes;
      }
      const rows = [...found.values()].sort((a, b) => b.seconds - a.seconds);
      if (!fastest || sum(rows) < sum(fastest)) fastest = rows;
    }
    return fastest!;
  } finally {
    session.dispose();
  }
}

/** So often convolutions and matmuls take turns: what disturbs the machine for a while must not decide. */
const ROUNDS = 3;

/** Convolutions and matmuls of as many multiplications: the fastest of many runs of each. */
async function convolutionsAndMatmuls(adapter: string | undefined) {
  const probe = await openDevice({ adapter });
  const choice = (usable: readonly string[]) => usable.slice(0, 1);
  const groups = CONVOLUTIONS.map(([side, inputs, outputs, kernel]) => {
    const conv = { batch: 1, height: side, width: side, inputs, outputs, kernel, bias: true };
    const matmul = { m: side * side, k: kernel ** 2 * inputs, n: outputs, bias: true };
    return [
      ...jobsOf(probe, convOp, 'forward', [conv], choice),
      ...jobsOf(probe, matmulOp, 'forward', [matmul], choice),
    ];
  });
  probe.dispose();
  const rounds = Array.from({ length: ROUNDS }, () => groups).flat();
  const rows = await measureJobs(rounds, { device: { adapter }, limits: { once: 20, each: 1 } });
  return CONVOLUTIONS.map(([side, inputs, outputs, kernel], i) => {
    const rate = (which: number) => {
      const own = rows.filter((_, r) => r % (2 * groups.length) === 2 * i + which);
      const samples = own.flatMap(({ seconds }) => seconds?.samples ?? []);
      return (own[0].flops / Math.min(...samples)) * 1e-9;
    };
    const [conv, matmul] = [rate(0), rate(1)];
    const shape = `${kernel} x ${kernel}, ${side} x ${side} pixels, ${inputs} to ${outputs} channels`;
    return { shape, conv, matmul, ratio: conv / matmul };
  });
}

const flags = new Command('npx tsx bench/tokenizers.ts')
  .addOption(new Option('--kind <name>', 'kl-16 or dc-ae').argParser(oneOf(['kl-16', 'dc-ae'])).default('kl-16'))
  .option('--size <n>', 'pixels of a side', positiveInteger, 256)
  .option('--repeat <n>', 'runs, of which the fastest counts', positiveInteger, 3)
  .option('--adapter <name>', 'as with emigm')
  .option('--out <file>', 'where the JSON goes')
  .parse()
  .opts<{ kind: string; size: number; repeat: number; adapter?: string; out?: string }>();

async function main(): Promise<void> {
  const { kind, size, repeat, adapter, out } = flags;
  const convolutions = await convolutionsAndMatmuls(adapter);
  const device = await openDevice({ adapter });
  try {
    const network =
      kind === 'kl-16'
        ? await Kl16.load(device, KL16_CONFIG, random(kl16Shapes(KL16_CONFIG)))
        : await DcAe.load(device, DC_AE_F32C32_CONFIG, random(dcAeShapes(DC_AE_F32C32_CONFIG)));
    const draw = (shape: number[], label: string): Tensor => {
      const count = shape.reduce((a, b) => a * b, 1);
      return device.tensor(shape, 'f32', label, numbers(1).normal(count, 0.5));
    };
    const side = size / network.stride;
    const images = draw([1, 3, size, size], 'images');
    const latents = draw([1, side, side, network.config.channels], 'latents');
    const layers = [
      ...(await timePass(device, 'encode', repeat, (r) => void network.encode(r, images))),
      ...(await timePass(device, 'decode', repeat, (r) => void network.decode(r, latents))),
    ];
    const milli = (seconds: number) => (1e3 * seconds).toFixed(1);
    for (const pass of ['encode', 'decode'] as const) {
      const rows = layers.filter((row) => row.pass === pass);
      const all = rows.reduce((sum, { seconds }) => sum + seconds, 0);
      const work = rows.reduce((sum, { flops }) => sum + flops, 0);
      const line = (name: string, dispatches: number, seconds: number, flops: number) => {
        const rate = flops > 0 ? `${((flops / seconds) * 1e-9).toFixed(1)} GFLOP/s` : '';
        return [name, String(dispatches), `${milli(seconds)} ms`, `${((100 * seconds) / all).toFixed(1)} %`, rate];
      };
      const body = rows.map(({ layer, kernel, dispatches, seconds, flops }) =>
        line(`${pass}: ${layer} (${kernel})`, dispatches, seconds, flops),
      );
      const count = rows.reduce((sum, { dispatches }) => sum + dispatches, 0);
      console.log(table([...body, line(`${pass}: all`, count, all, work)], [1, 2, 3, 4]));
    }
    for (const { shape, conv, matmul, ratio } of convolutions) {
      console.log(`conv ${shape}: ${conv.toFixed(1)} GFLOP/s; matmul ${matmul.toFixed(1)}; ${ratio.toFixed(2)}`);
    }
    if (out) {
      const head = resultHead(device, process.argv.slice(2), 'npx tsx bench/tokenizers.ts');
      await writeRows(out, { ...head, kind, size, convolutions, rows: layers });
    }
    network.dispose();
  } finally {
    device.dispose();
  }
}

await main();
