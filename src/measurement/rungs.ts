/**
 * Implementations that were asked for by name. The engine takes another one where a shape or an adapter does not allow
 * it; a measurement under that name would be of something else.
 */
import { EmigmError } from '../errors.ts';
import type { Device } from '../gpu/device.ts';
import type { Dispatch } from '../gpu/recorder.ts';
import type { Problem } from '../ops/op.ts';
import { ops } from '../ops/registry.ts';

type Kernel = Readonly<Record<string, string>>;

const ADVICE = 'emigm doctor lists what it can';

/** Told before anything is measured. @throws EmigmError 'input' for an implementation that the adapter cannot run at all */
export function checkRungs(device: Device, kernel: Kernel = {}): void {
  const forms: Problem[] = [{}, { stored: 'f16' }, { dtype: 'f16' }];
  for (const [name, variant] of Object.entries(kernel)) {
    const op = ops.find((one) => one.name === name);
    if (!op || variant === 'default') continue;
    const problems = [...op.problems.bench, ...op.problems.test];
    const isUsable = problems.some((problem) =>
      forms.some((form) => op.variants(device, { ...problem, ...form }).includes(variant)),
    );
    if (!isUsable) throw new EmigmError('input', `${name}=${variant} does not run on ${device.name}; ${ADVICE}`);
  }
}

type Work = Pick<Dispatch, 'op' | 'kernel' | 'flops'>;

/** Told of a recorded batch. @throws EmigmError 'input' when less than half of an op's work is by what was asked for */
export function checkUsed(kernel: Kernel = {}, dispatches: readonly Work[]): void {
  const work = (some: readonly Work[]) => some.reduce((sum, { flops }) => sum + flops, 0);
  for (const [op, variant] of Object.entries(kernel)) {
    const names = [variant, ...(variant === 'tiled_vec4' ? ['few_rows'] : [])]; // its form for few rows
    const isAsked = ({ kernel: { spec } }: Work) =>
      names.includes(
        spec.file
          .split('/')
          .at(-1)!
          .replace(/_(f16|int8)$/, ''),
      );
    const all = dispatches.filter((one) => one.op === op);
    if (variant === 'default' || work(all.filter(isAsked)) >= work(all) / 2) continue;
    throw new EmigmError(
      'input',
      `most layers here cannot use ${op}=${variant}: leave it out, or out of this --stored`,
    );
  }
}
