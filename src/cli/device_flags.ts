/** Flags of every command that runs kernels: which adapter, which implementations, which checks. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { DeviceOptions } from '../gpu/device.ts';
import type { Stored } from '../ops/matmul_kernels.ts';
import { oneOf } from './options.ts';

export interface DeviceFlags {
  adapter?: string;
  kernel?: Record<string, string>;
  stored?: Stored;
  nanGuard?: boolean;
}

/** The ops that have several implementations, and those; `default` is the engine's own choice, whatever was measured. */
export const RUNGS: Readonly<Record<string, readonly string[]>> = {
  matmul: ['default', 'reference', 'tiled', 'tiled_vec4', 'few_rows', 'subgroup_matrix', 'cpu', 'cpu_quad'],
  attention: ['default', 'reference', 'flash', 'flash_matrix', 'cpu', 'cpu_quad'],
  layernorm: ['default', 'reference', 'layernorm', 'layernorm_subgroup'],
};

export function addKernel(text: string, before: Record<string, string> = {}): Record<string, string> {
  const [op, variant] = text.split('=');
  if (!RUNGS[op]?.includes(variant)) {
    const all = Object.entries(RUNGS).map(([name, variants]) => `${name}=${variants.join('|')}`);
    throw new InvalidArgumentError(`It must be one of ${all.join(', ')}.`);
  }
  return { ...before, [op]: variant };
}

/** `--stored`, with int8 for commands that draw from a model. */
export function storedOption({ draws }: { draws: boolean }): Option {
  const text = `weights on the device: f32${draws ? ', f16 or int8' : ' or f16'} (default: f16 on GPUs)`;
  return new Option('--stored <type>', text).argParser(oneOf<Stored>(draws ? ['f32', 'f16', 'int8'] : ['f32', 'f16']));
}

export function addDeviceFlags(command: Command, { draws = false } = {}): Command {
  return command
    .option('--adapter <name>', "auto, gpu, lavapipe, swiftshader or a part of an adapter's name (also EMIGM_ADAPTER)")
    .addOption(
      new Option('--kernel <op=name>', 'use this implementation: matmul=reference; may be repeated').argParser(
        addKernel,
      ),
    )
    .addOption(storedOption({ draws }))
    .option('--nan-guard', 'check every result and name the first op whose output is not finite; slow');
}

export function deviceOptions({ adapter, kernel, nanGuard }: DeviceFlags): DeviceOptions {
  return { adapter, variants: kernel, nanGuard };
}
