/** Flags of every command that runs kernels: which adapter, which implementations, which checks. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { DeviceOptions } from '../gpu/device.ts';
import { oneOf } from './options.ts';

export interface DeviceFlags {
  adapter?: string;
  kernel?: Record<string, string>;
  stored?: 'f32' | 'f16';
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

export function addDeviceFlags(command: Command): Command {
  return command
    .option('--adapter <name>', "auto, gpu, lavapipe, swiftshader or a part of an adapter's name (also EMIGM_ADAPTER)")
    .addOption(
      new Option('--kernel <op=name>', 'use this implementation: matmul=reference; may be repeated').argParser(
        addKernel,
      ),
    )
    .addOption(
      new Option('--stored <type>', 'weights on the device: f32 or f16 (default: f16 on GPUs)').argParser(
        oneOf(['f32', 'f16']),
      ),
    )
    .option('--nan-guard', 'check every result and name the first op whose output is not finite; slow');
}

export function deviceOptions({ adapter, kernel, nanGuard }: DeviceFlags): DeviceOptions {
  return { adapter, variants: kernel, nanGuard };
}
