/**
 * Recording and replay. A forward pass is recorded once into a flat list of dispatches; the session plans an arena
 * from the lifetimes of all transient tensors, compiles the kernels concurrently, and replays the lists.
 */
import { EmigmError } from '../errors.ts';
import type { Chain } from './chains.ts';
import type { Device } from './device.ts';
import type { Kernel, KernelSpec } from './kernel.ts';
import { BYTES, type DType, Tensor } from './tensor.ts';

/** One call of a kernel, as an op records it. */
export interface Call {
  /** The op, for profiles: `matmul`, `attention`. */
  op: string;
  kernel: KernelSpec;
  operands: Readonly<Record<string, Tensor | undefined>>;
  params: Readonly<Record<string, number>>;
  /** Workgroups in x, y, z. */
  grid: readonly number[];
  /** Floating-point operations, a multiply-add counted as two. */
  flops?: number;
  /** Operands are looked at as bits: their types are not compared. */
  bits?: boolean;
  /** Changes each element on its own: see `joinChains`. */
  chain?: Chain;
}

/** A recorded call, ready but for the buffers of its transient tensors. */
export interface Dispatch {
  op: string;
  /** Part of the model that it belongs to: `encoder`, `decoder`, `head`, ... */
  part: string;
  kernel: Kernel;
  tensors: readonly (Tensor | undefined)[];
  params: Uint8Array<ArrayBuffer>;
  grid: readonly [number, number, number];
  flops: number;
  /** Bytes of all operands, each counted once: the least that has to be moved. */
  bytes: number;
  chain: Chain | undefined;
  group: GPUBindGroup | undefined;
}

/** What ops write into. */
export class Recorder {
  readonly device: Device;
  readonly dispatches: Dispatch[] = [];
  /** Named parts for profiles; set around the calls that belong to it. */
  part = 'rest';
  /** Transient tensors that hold something. */
  private readonly written = new Set<Tensor>();

  constructor(device: Device) {
    this.device = device;
  }

  /** A tensor that lives from its first to its last use in this program. */
  temp(shape: readonly number[], dtype: DType = 'f32', label = 'temp'): Tensor {
    return new Tensor(shape, dtype, label);
  }

  /** Records a call. Calls with nothing to do (an empty grid) are dropped. */
  call({ op, kernel: spec, operands, params, grid, flops = 0, bits = false, chain }: Call): void {
    const [x = 1, y = 1, z = 1] = grid;
    if (x === 0 || y === 0 || z === 0) return;
    const most = this.device.limits.maxComputeWorkgroupsPerDimension;
    if (!(x <= most && y <= most && z <= most && Number.isInteger(x * y * z))) {
      throw new EmigmError('kernel', `${spec.file}: a grid of ${x} x ${y} x ${z} workgroups, ${most} is the limit`);
    }
    const kernel = this.device.kernels.get(spec);
    if (!bits) kernel.checkOperands(operands);
    const tensors = kernel.operands.map(({ name }) => operands[name]);
    this.checkUse(kernel, tensors);
    const distinct = new Set(tensors.filter((tensor) => tensor !== undefined));
    this.dispatches.push({
      op,
      part: this.part,
      kernel,
      tensors,
      params: kernel.packParams(params),
      grid: [x, y, z],
      flops,
      bytes: [...distinct].reduce((sum, tensor) => sum + tensor.size * BYTES[tensor.dtype], 0),
      chain,
      group: undefined,
    });
  }

  /** Throws when a transient tensor is read before it is written, or a buffer is both read and written. */
  private checkUse({ spec, operands }: Kernel, tensors: readonly (Tensor | undefined)[]): void {
    tensors.forEach((tensor, i) => {
      if (!tensor) return;
      const { name, writable } = operands[i];
      if (!writable && tensor.transient && !this.written.has(tensor)) {
        throw new EmigmError(
          'kernel',
          `${spec.file}: operand ${name} (${tensor.label}) is read before this program has written it`,
        );
      }
      const other = tensors.findIndex((second, j) => j !== i && writable && second && sharesBuffer(tensor, second));
      if (other >= 0 && (!operands[other].writable || tensor === tensors[other])) {
        throw new EmigmError(
          'kernel',
          `${spec.file}: operands ${name} and ${operands[other].name} share a buffer (${tensor.label}) that is written`,
        );
      }
    });
    tensors.forEach((tensor, i) => {
      if (tensor?.transient && operands[i].writable) this.written.add(tensor);
    });
  }

  /** Runs `record` with `part` as the name of what it records. */
  within<T>(part: string, record: () => T): T {
    const before = this.part;
    this.part = part;
    try {
      return record();
    } finally {
      this.part = before;
    }
  }
}

/** A flat list of dispatches to be replayed. */
export interface Program {
  readonly name: string;
  readonly dispatches: readonly Dispatch[];
}

export type ProfileRow = {
  op: string;
  part: string;
  kernel: string;
  grid: string;
  seconds: number;
  flops: number;
  bytes: number;
};

/** Whether two tensors are known to lie in one buffer. */
export function sharesBuffer(a: Tensor, b: Tensor): boolean {
  return a === b || (a.buffer !== undefined && !a.transient && a.buffer === b.buffer);
}
