/** A kernel file given by path, in the place of one of an op's own: same operands, constants, grid and packing. */
import { EmigmError } from '../../errors.ts';
import type { Device } from '../../gpu/device.ts';
import { type Call, Recorder } from '../../gpu/recorder.ts';
import { checkOps, isRight, type OpCheck } from '../../ops/check.ts';
import type { Op, Problem } from '../../ops/op.ts';
import { createTensors, inputArrays, lacksF16 } from '../../ops/problem.ts';
import { numbers } from '../random_weights.ts';
import type { Row } from './schema.ts';

export interface StandIn {
  /** File name of the kernel: what its rows are called. */
  name: string;
  path: string;
  /** The implementation whose place it takes, and that one's kernel file. */
  variant: string;
  replaces: string;
  /** The op with this one implementation. */
  op: Op;
}

/** The oracle is plain float64 JavaScript: problems beyond this are checked on the op's small ones alone. */
const LARGEST_CHECK = 4e9;

/**
 * The op with the file at `path` in the place of `replaces`, or of the only kernel file that `variant` runs on the problem.
 * @throws EmigmError 'input' when there is no such implementation here, or it runs several files and none is named
 */
export function standIn(
  device: Device,
  op: Op,
  problem: Problem,
  { path, variant, replaces }: { path: string; variant: string; replaces?: string },
): StandIn {
  const usable = op.variants(device, problem);
  if (!usable.includes(variant)) {
    throw new EmigmError('input', `${op.name} has no ${variant} for this problem here; there are ${usable.join(', ')}`);
  }
  const files = kernelFiles(device, op, problem, variant);
  const file = replaces ?? (files.length === 1 ? files[0] : undefined);
  if (!file || !files.includes(file)) {
    throw new EmigmError('input', `${op.name} ${variant} runs ${files.join(', ')}: name one with --replaces`);
  }
  const name = path.split(/[\\/]/).at(-1)!;
  const back = (asked: string) => (asked === name ? variant : asked);
  const { tolerance } = op;
  const stood: Op = {
    ...op,
    gradient: undefined,
    variants: (on, p) => (op.variants(on, p).includes(variant) ? [name] : []),
    tolerance: typeof tolerance === 'function' ? (p, asked) => tolerance(p, back(asked)) : tolerance,
    inputs: (p) =>
      Object.fromEntries(
        Object.entries(op.inputs(p)).map(([key, { upload, ...input }]) => {
          return [key, upload ? { ...input, upload: (on, data, asked) => upload(on, data, back(asked)) } : input];
        }),
      ),
    record(r, tensors, p, asked) {
      const redirected = Object.create(r) as Recorder;
      redirected.call = (call: Call) => {
        const { kernel } = call;
        r.call(kernel.file === file ? { ...call, kernel: { ...kernel, file: path } } : call);
      };
      op.record(redirected, tensors, p, back(asked));
    },
  };
  return { name, path, variant, replaces: file, op: stood };
}

/** Kernel files that an implementation runs on the problem. */
function kernelFiles(device: Device, op: Op, problem: Problem, variant: string): string[] {
  const tensors = createTensors(device, op, problem, variant, inputArrays(op, problem, numbers(1)));
  try {
    const recorder = new Recorder(device);
    op.record(recorder, tensors, problem, variant);
    return [...new Set(recorder.dispatches.map(({ kernel }) => kernel.spec.file))];
  } finally {
    for (const tensor of Object.values(tensors)) tensor.destroy();
  }
}

/**
 * Compares the stand-in with the op's float64 oracle on the op's small and odd problems that the replaced file serves, and on
 * those asked for as far as the oracle is quick enough.
 * @throws EmigmError 'kernel' when it does not compile or bind, 'numeric' when it is wrong, with its largest error
 */
export async function checkStandIn(
  device: Device,
  { name, op, variant, replaces }: StandIn,
  original: Op,
  asked: readonly Problem[],
): Promise<NonNullable<Row['check']>> {
  const small = op.problems.test.filter((p) => {
    if (lacksF16(device, op, p) || op.variants(device, p).length === 0) return false;
    return kernelFiles(device, original, p, variant).includes(replaces);
  });
  const test = [...small, ...asked.filter((p) => op.flops(p) <= LARGEST_CHECK)];
  const found: OpCheck[] = [];
  for await (const one of checkOps(device, [{ ...op, problems: { test, bench: [] } }])) {
    if (one.failure) throw new EmigmError('kernel', one.failure);
    found.push(one);
  }
  if (found.length === 0) throw new EmigmError('input', `${name}: no problem is small enough to check it on`);
  // NaN, which is where it wrote nothing too, is worse than any number.
  const over = ({ error, tolerance }: OpCheck) => (Number.isNaN(error) ? Number.POSITIVE_INFINITY : error / tolerance);
  const worst = found.reduce((a, b) => (over(b) > over(a) ? b : a));
  if (!isRight(worst)) {
    const wrong = found.filter((one) => !isRight(one)).length;
    const most = Number.isNaN(worst.error)
      ? 'a result is NaN, or was not written,'
      : `off by ${worst.error.toExponential(1)} of the largest value (${worst.tolerance.toExponential(1)} is allowed)`;
    const where = JSON.stringify(worst.problem);
    throw new EmigmError('numeric', `${name} is wrong on ${wrong} of ${found.length} problems: ${most} at ${where}`);
  }
  return { error: worst.error, tolerance: worst.tolerance, problems: found.length };
}
