/** Running an op once on a device, and comparing every op with its float64 oracle there. */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import { Session } from '../gpu/session.ts';
import { CounterRandom } from '../random.ts';
import type { Arrays, Op, Problem } from './op.ts';
import { createTensors, type InputSource, inputArrays, lacksF16 } from './problem.ts';
import { ops } from './registry.ts';

/** Error of float32 sums over the oracle's float64, as a share of the largest output. */
const SINGLE = 5e-6;
/**
 * The oracle sees inputs as they are stored, and all sums are float32, so that half precision adds one rounding
 * alone, of the output: half a unit in the last place of a significand of 11 bits.
 */
const HALF = SINGLE + 2 ** -11;

/** Largest error that the op may have, as a share of the output's largest value. */
export function toleranceOf(op: Op, problem: Problem, variant: string): number {
  const own = typeof op.tolerance === 'function' ? op.tolerance(problem, variant) : op.tolerance;
  return own ?? (op.outputType?.(problem) === 'f16' ? HALF : SINGLE);
}

/** Runs one implementation on these inputs; outputs held NaN before. Returns the outputs by name. */
export async function runVariant(
  device: Device,
  op: Op,
  problem: Problem,
  variant: string,
  arrays: Arrays,
): Promise<Record<string, Float32Array>> {
  const session = new Session(device);
  const tensors = createTensors(device, op, problem, variant, arrays);
  try {
    const program = session.record(op.name, (r) => op.record(r, tensors, problem, variant));
    await session.prepare();
    session.run(program);
    const results: Record<string, Float32Array> = {};
    for (const name of Object.keys(op.outputs(problem))) results[name] = await device.read(tensors[name]);
    return results;
  } finally {
    session.dispose();
    for (const tensor of Object.values(tensors)) tensor.destroy();
  }
}

/** One implementation of an op on one problem. */
export interface OpCheck {
  op: string;
  variant: string;
  problem: Problem;
  /** Largest difference from the oracle over the output's largest value, and what is allowed. NaN where one is. */
  error: number;
  tolerance: number;
  /** What the driver said, where the kernel did not run at all. */
  failure?: string;
}

/** Is the implementation right on this problem? */
export const isRight = ({ error, tolerance }: OpCheck) => error <= tolerance;

/** Checks every op in every variant that the device allows on its test problems; each result as it is known. */
export async function* checkOps(device: Device, list: readonly Op[] = ops): AsyncGenerator<OpCheck> {
  const source = inputSource();
  for (const op of list) {
    for (const problem of op.problems.test) {
      if (lacksF16(device, op, problem)) continue;
      const arrays = inputArrays(op, problem, source);
      const expected = op.oracle(arrays, problem);
      for (const variant of op.variants(device, problem)) {
        const found = await compareVariant(device, op, problem, variant, { arrays, expected });
        yield found;
        if (found.failure) device.check(); // a lost device checks nothing more
      }
    }
  }
}

/** Compares one implementation with the oracle, on new inputs unless they are given. */
export async function compareVariant(
  device: Device,
  op: Op,
  problem: Problem,
  variant: string,
  given?: { arrays: Arrays; expected: Arrays },
): Promise<OpCheck> {
  const arrays = given?.arrays ?? inputArrays(op, problem, inputSource());
  const expected = given?.expected ?? op.oracle(arrays, problem);
  const result = { op: op.name, variant, problem, tolerance: toleranceOf(op, problem, variant) };
  try {
    const actual = await runVariant(device, op, problem, variant, arrays);
    const errors = Object.entries(expected).map(([name, values]) => relativeError(actual[name], values));
    return { ...result, error: errors.some(Number.isNaN) ? Number.NaN : Math.max(...errors) };
  } catch (error) {
    if (!(error instanceof EmigmError)) throw error;
    return { ...result, error: Number.NaN, failure: error.message };
  }
}

/** Largest difference over the largest magnitude expected; equal infinities differ by nothing. */
function relativeError(actual: Float32Array, expected: Float64Array): number {
  let worst = 0;
  let scale = 0;
  for (let i = 0; i < expected.length; i++) {
    if (actual[i] === expected[i]) continue;
    const difference = Math.abs(actual[i] - expected[i]);
    if (Number.isNaN(difference)) return Number.NaN;
    worst = Math.max(worst, difference);
  }
  for (const value of expected) scale = Math.max(scale, Math.abs(value));
  return worst === 0 ? 0 : scale > 0 ? worst / scale : worst;
}

function inputSource(): InputSource {
  const random = new CounterRandom(0, 0);
  let count = 0;
  return {
    next: () => random.uniform(count++),
    normal: (size, deviation) => Float32Array.from({ length: size }, () => deviation * random.normal(count++)),
  };
}
