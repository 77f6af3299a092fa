/** A device: its abilities, its memory, its kernels. */
import { EmigmError } from '../errors.ts';
import { float32ToHalf, halfToFloat32 } from '../float16.ts';
import { KernelCache } from './kernel.ts';
import { forgetTuning, readTuning, storedTuning, writeTuning } from './adapter_cache.ts';
import {
  type AdapterChoice,
  adapterName,
  isCpuDriver,
  type OpenedAdapter,
  openAdapter,
  readKernelSource,
} from './node.ts';
import { Staging } from './staging.ts';
import { type SubgroupMatrix, subgroupMatrices, subgroupSize } from './subgroups.ts';
import { BYTES, type DType, Tensor } from './tensor.ts';
import { type StoredTuning, type Tuning, withTuning } from './tuning.ts';
import { waitWithPauses } from './wait.ts';

export interface DeviceOptions {
  adapter?: AdapterChoice;
  /** Check after every dispatch that its outputs are finite, and name the first that is not. Slow. */
  nanGuard?: boolean;
  /** Implementations to use where several can serve: `{ matmul: 'reference' }`. */
  variants?: Readonly<Record<string, string>>;
  /** Take up what `emigm tune` has measured. Default true; `variants` goes before it. */
  tuned?: boolean;
  /** Bytes that may be taken in all: for a share of an adapter. Default: what the driver gives. */
  memory?: number;
}

/** What of a device decides which kernels run on it and how much memory they take. */
export type Abilities = Pick<
  Device,
  | 'isCpu'
  | 'lanes'
  | 'pinsLanes'
  | 'hasF16'
  | 'hasSubgroups'
  | 'subgroupMatrix'
  | 'workgroupMemory'
  | 'workgroupSize'
  | 'largestBuffer'
  | 'memory'
  | 'variants'
>;

/** Features that are used where the adapter has them. */
const WANTED = [
  'shader-f16',
  'subgroups',
  'subgroup-size-control',
  'timestamp-query',
  'chromium-experimental-subgroup-matrix',
] as const;

/** Bytes of a kernel's `params` at most. */
const IMMEDIATES = 64;

const usage = { storage: 128, copyDst: 8, copySrc: 4 };

export class Device {
  readonly handle: GPUDevice;
  readonly kernels: KernelCache;
  /** `nvidia-h200 (NVIDIA: 570.133.20)`, `llvmpipe: Mesa 25.0.7 (LLVM 15.0.6)`: for people and for result files. */
  readonly name: string;
  readonly driver: string;
  /** A driver that runs kernels on the CPU wants other kernels than a GPU does. */
  readonly isCpu: boolean;
  /** Subgroup size where it is one fixed number, or kernels can ask for one, else 0. */
  readonly lanes: number;
  /** Kernels that work by subgroups ask for subgroups of `lanes`. */
  readonly pinsLanes: boolean;
  readonly hasF16: boolean;
  readonly hasSubgroups: boolean;
  readonly hasTimestamps: boolean;
  /** Shapes of subgroup matrices that the adapter multiplies; empty without the feature, and where they are left out. */
  subgroupMatrix: readonly SubgroupMatrix[];
  /** Why subgroup matrices are left out that the adapter has. */
  matricesLeftOut: string | undefined;
  /** Bytes of workgroup memory that a kernel may have. */
  readonly workgroupMemory: number;
  /** Invocations that a workgroup may have. */
  readonly workgroupSize: number;
  readonly nanGuard: boolean;
  /** Implementations asked for by op, or measured by shape: see tuning.ts. */
  readonly variants: Readonly<Record<string, string>>;
  /** Measured choices that the device has taken up. */
  readonly tuning: Tuning | undefined;
  /** Bytes of the largest buffer that kernels can bind. */
  readonly largestBuffer: number;
  /** Bytes that may be taken in all. */
  readonly memory: number;
  /** Counts the memory asked for and takes none; nothing can run on it. */
  readonly isPlan: boolean;
  /** Bytes held now and the most that were held. */
  allocated = 0;
  peak = 0;
  /** Seconds that opening took: the driver, Dawn, the adapter, the device. */
  secondsToOpen = 0;
  readonly opened: OpenedAdapter;
  private readonly dummies: Tensor[] = [];
  private readonly staging: Staging;
  private failure: EmigmError | undefined;
  private disposed = false;

  private constructor(opened: OpenedAdapter, handle: GPUDevice, options: DeviceOptions, planned?: Partial<Abilities>) {
    this.opened = opened;
    this.handle = handle;
    this.staging = new Staging(handle);
    const { info } = opened.adapter;
    this.name = adapterName(info);
    this.driver = opened.driver;
    this.isCpu = planned?.isCpu ?? isCpuDriver(info);
    this.hasF16 = planned?.hasF16 ?? handle.features.has('shader-f16');
    this.hasSubgroups = planned?.hasSubgroups ?? handle.features.has('subgroups' as GPUFeatureName);
    this.hasTimestamps = handle.features.has('timestamp-query');
    this.subgroupMatrix = planned?.subgroupMatrix ?? subgroupMatrices(handle, info);
    const { maxBufferSize, maxStorageBufferBindingSize, maxComputeWorkgroupStorageSize } = handle.limits;
    this.workgroupMemory = planned?.workgroupMemory ?? maxComputeWorkgroupStorageSize;
    const { maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupSizeX } = handle.limits;
    this.workgroupSize =
      planned?.workgroupSize ?? Math.min(maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupSizeX);
    const hasControl = handle.features.has('subgroup-size-control' as GPUFeatureName);
    const { lanes, pinned } = subgroupSize(info.subgroupMinSize, info.subgroupMaxSize, hasControl);
    this.lanes = planned?.lanes ?? lanes;
    this.pinsLanes = planned ? (planned.pinsLanes ?? false) : pinned;
    this.largestBuffer = planned?.largestBuffer ?? Math.min(maxBufferSize, maxStorageBufferBindingSize);
    this.memory = planned?.memory ?? options.memory ?? Number.POSITIVE_INFINITY;
    this.isPlan = planned !== undefined;
    this.nanGuard = options.nanGuard ?? false;
    this.tuning = planned || options.tuned === false || options.adapter === 'null' ? undefined : readTuning(opened);
    this.variants = planned?.variants ?? withTuning(options.variants ?? {}, this.tuning);
    this.kernels = new KernelCache(handle, readKernelSource, this.pinsLanes ? this.lanes : 0);
    handle.addEventListener('uncapturederror', this.onError);
    void handle.lost.then(({ reason, message }) => {
      if (!this.disposed) this.failure ??= new EmigmError('adapter', `the device was lost (${reason}): ${message}`);
    });
  }

  private readonly onError = (event: Event): void => {
    const { error } = event as GPUUncapturedErrorEvent;
    const message = error.message.trim();
    this.failure ??=
      error.constructor.name === 'GPUOutOfMemoryError'
        ? new EmigmError('memory', `${this.name} ran out of memory with ${mib(this.allocated)} taken: ${message}`)
        : new EmigmError('kernel', message);
  };

  /**
   * Opens the adapter that the options (or EMIGM_ADAPTER) name and takes all that it offers.
   * @throws EmigmError 'adapter' when there is none.
   */
  static async open(options: DeviceOptions = {}): Promise<Device> {
    return Device.openAs(options);
  }

  /**
   * A device that counts the memory asked for (`allocated`) and takes none. Models load and programs are recorded on
   * it as on a device of these abilities; nothing can run. Needs no driver.
   */
  static async plan(abilities: Partial<Abilities>): Promise<Device> {
    return Device.openAs({ adapter: 'null' }, abilities);
  }

  private static async openAs(options: DeviceOptions, planned?: Partial<Abilities>): Promise<Device> {
    const began = performance.now();
    const opened = await openAdapter(options.adapter);
    const { adapter } = opened;
    const requiredLimits: Record<string, number> = {};
    for (const name of [
      'maxBufferSize',
      'maxStorageBufferBindingSize',
      'maxStorageBuffersPerShaderStage',
      'maxComputeInvocationsPerWorkgroup',
      'maxComputeWorkgroupSizeX',
      'maxComputeWorkgroupSizeY',
      'maxComputeWorkgroupStorageSize',
      'maxImmediateSize',
    ]) {
      const value = (adapter.limits as unknown as Record<string, number>)[name];
      if (value !== undefined) requiredLimits[name] = value;
    }
    if (!planned && !((requiredLimits.maxImmediateSize ?? 0) >= IMMEDIATES)) {
      throw new EmigmError(
        'adapter',
        `${adapterName(adapter.info)} has no immediates of ${IMMEDIATES} bytes, which kernels take their sizes in: use another adapter`,
      );
    }
    const requiredFeatures = WANTED.filter((name) => adapter.features.has(name as GPUFeatureName)) as GPUFeatureName[];
    const handle = await adapter.requestDevice({ requiredLimits, requiredFeatures });
    const device = new Device(opened, handle, options, planned);
    device.secondsToOpen = (performance.now() - began) / 1000;
    return device;
  }

  get adapter(): GPUAdapter {
    return this.opened.adapter;
  }

  /** Measured choices that are stored for this adapter, whether or not the device has taken them up. */
  get storedTuning(): StoredTuning {
    return storedTuning(this.opened);
  }

  /** Stores measured choices for devices of this adapter that are opened later. @throws EmigmError 'file' */
  storeTuning(tuning: Tuning): string {
    return writeTuning(this.opened, tuning);
  }

  /** Forgets what is stored for this hardware, with any driver. Returns whether there was anything. */
  forgetTuning(): boolean {
    return forgetTuning(this.opened);
  }

  /** From now on ops choose no kernel that multiplies subgroup matrices. */
  leaveOutMatrices(reason: string): void {
    this.subgroupMatrix = [];
    this.matricesLeftOut = reason;
  }

  get limits(): GPUSupportedLimits {
    return this.handle.limits;
  }

  /** A buffer for `bytes` bytes of storage. @throws EmigmError 'memory' beyond what the adapter allows. */
  createBuffer(bytes: number, label: string): GPUBuffer {
    this.check();
    const size = bufferBytes(bytes);
    if (!this.isPlan) this.checkRoom(size, label);
    const buffer = this.isPlan
      ? ({ label, size, destroy: () => undefined } as GPUBuffer)
      : this.handle.createBuffer({ label, size, usage: usage.storage | usage.copyDst | usage.copySrc });
    this.allocated += size;
    this.peak = Math.max(this.peak, this.allocated);
    const destroy = buffer.destroy.bind(buffer);
    let alive = true;
    buffer.destroy = () => {
      if (alive && !this.disposed) this.allocated -= size;
      alive = false;
      return destroy();
    };
    return buffer;
  }

  private checkRoom(size: number, label: string): void {
    const { largestBuffer, memory, allocated } = this;
    if (size > largestBuffer) {
      const allows = `the adapter ${this.name} allows ${mib(largestBuffer)}`;
      throw new EmigmError('memory', `${label} needs a buffer of ${mib(size)}, ${allows}`);
    }
    if (allocated + size > memory) {
      const taken = `${mib(allocated)} of the ${mib(memory)} that may be used are taken`;
      throw new EmigmError('memory', `${label} needs ${mib(size)}, ${taken}`);
    }
  }

  /** A tensor that lives until it is destroyed. Without `data` its content is zero. */
  tensor(shape: readonly number[], dtype: DType, label: string, data?: ArrayLike<number>): Tensor {
    const size = shape.reduce((a, b) => a * b, 1);
    if (data && data.length !== size) {
      throw new EmigmError('shape', `${label} is [${shape.join(', ')}]: ${size} numbers, not ${data.length}`);
    }
    const tensor = new Tensor(shape, dtype, label, this.createBuffer(size * BYTES[dtype], label));
    if (data) this.write(tensor, data);
    return tensor;
  }

  /**
   * Writes numbers into a tensor, converted to how it stores them, from element `offset` on. Memory is written in
   * words: in half precision `offset` is even, and so is the count unless it reaches the tensor's end.
   */
  write(tensor: Tensor, data: ArrayLike<number>, offset = 0): void {
    if (offset + data.length > tensor.size) {
      throw new EmigmError('shape', `${tensor.label} holds ${tensor.size} numbers, not ${offset + data.length}`);
    }
    if (tensor.dtype === 'f16' && (offset % 2 !== 0 || (data.length % 2 !== 0 && offset + data.length < tensor.size))) {
      throw new EmigmError(
        'shape',
        `${tensor.label}: half precision is written in pairs, not ${data.length} at ${offset}`,
      );
    }
    if (this.isPlan) return;
    this.writeBytes(tensor, toStored(data, tensor.dtype), tensor.byteOffset + offset * BYTES[tensor.dtype]);
  }

  private writeBytes(tensor: Tensor, data: Uint8Array<ArrayBuffer>, byteOffset: number): void {
    this.check();
    const buffer = this.bufferOf(tensor);
    if (data.byteLength % 4 === 0) {
      this.handle.queue.writeBuffer(buffer, byteOffset, data);
    } else {
      const padded = new Uint8Array(Math.ceil(data.byteLength / 4) * 4);
      padded.set(data);
      this.handle.queue.writeBuffer(buffer, byteOffset, padded);
    }
  }

  /** Reads `count` numbers back from element `offset` on; waits for the device. */
  async read(tensor: Tensor, offset = 0, count = tensor.size - offset): Promise<Float32Array<ArrayBuffer>> {
    const words = await this.readWords(tensor, offset, count);
    if (tensor.dtype === 'f32') return new Float32Array(words, 0, count);
    if (tensor.dtype === 'f16') return halfToFloat32(new Uint16Array(words, 0, count));
    return Float32Array.from(new Uint32Array(words, 0, count));
  }

  /** Reads unsigned integers back. */
  async readIntegers(tensor: Tensor): Promise<Uint32Array> {
    return new Uint32Array(await this.readWords(tensor, 0, tensor.size), 0, tensor.size);
  }

  private async readWords(tensor: Tensor, offset: number, count: number): Promise<ArrayBuffer> {
    this.check();
    const start = tensor.byteOffset + offset * BYTES[tensor.dtype];
    if (start % 4 !== 0 || offset + count > tensor.size) {
      throw new EmigmError(
        'shape',
        `${tensor.label} holds ${tensor.size} numbers: no ${count} can be read at ${offset}`,
      );
    }
    const bytes = Math.max(4, Math.ceil((count * BYTES[tensor.dtype]) / 4) * 4);
    const staging = this.staging.take(bytes);
    let sound = false;
    try {
      const encoder = this.handle.createCommandEncoder();
      encoder.copyBufferToBuffer(this.bufferOf(tensor), start, staging, 0, bytes);
      this.handle.queue.submit([encoder.finish()]);
      await this.wait(staging.mapAsync(1, 0, bytes));
      const words = staging.getMappedRange(0, bytes).slice(0);
      staging.unmap();
      this.check();
      sound = true;
      return words;
    } catch (cause) {
      this.check();
      throw cause instanceof EmigmError
        ? cause
        : new EmigmError('adapter', `reading ${tensor.label} failed`, { cause });
    } finally {
      this.staging.giveBack(staging, sound);
    }
  }

  private bufferOf(tensor: Tensor): GPUBuffer {
    if (!tensor.buffer) throw new EmigmError('shape', `${tensor.label} has no buffer: transient, or destroyed`);
    return tensor.buffer;
  }

  /** Waits for a promise of the device's: where the device computes on the CPU, without taking a core from it. */
  wait<T>(pending: Promise<T>): Promise<T> {
    return this.isCpu ? waitWithPauses(pending) : pending;
  }

  /** Waits until all submitted work is done. @throws what went wrong meanwhile. */
  async done(): Promise<void> {
    await this.wait(this.handle.queue.onSubmittedWorkDone());
    this.check();
  }

  /** Throws the first error that the driver has reported, if any, and when the device has been disposed. */
  check(): void {
    if (this.disposed) throw new EmigmError('adapter', 'the device has been disposed: open another');
    if (this.failure) throw this.failure;
  }

  /** Stands in for the `index`th optional operand that a caller leaves out. */
  dummy(index: number): Tensor {
    return (this.dummies[index] ??= this.tensor([64], 'f32', `dummy ${index}`));
  }

  /** Frees everything. The device cannot be used after. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    // The binding keeps listeners alive, and with them all that they refer to.
    this.handle.removeEventListener('uncapturederror', this.onError);
    this.handle.destroy();
    this.allocated = 0;
  }
}

/** What a buffer for `bytes` bytes of storage takes. */
export const bufferBytes = (bytes: number): number => Math.max(256, Math.ceil(bytes / 16) * 16);

/** `1.5 GiB`, `12 MiB` */
export function mib(bytes: number): string {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(2)} GiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

function toStored(data: ArrayLike<number>, dtype: DType): Uint8Array<ArrayBuffer> {
  const typed =
    dtype === 'f16'
      ? float32ToHalf(data instanceof Float32Array ? data : Float32Array.from(data))
      : dtype === 'f32'
        ? data instanceof Float32Array
          ? data
          : Float32Array.from(data)
        : data instanceof Uint32Array
          ? data
          : Uint32Array.from(data);
  return new Uint8Array(typed.buffer as ArrayBuffer, typed.byteOffset, typed.byteLength);
}
