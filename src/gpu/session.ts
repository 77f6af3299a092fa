/**
 * Replay. A session plans an arena from the lifetimes of the transient tensors of all its programs, compiles their
 * kernels concurrently, binds buffers, and replays the recorded lists.
 */
import { EmigmError } from '../errors.ts';
import { planArena } from './arena.ts';
import { joinChains } from './chains.ts';
import type { Device } from './device.ts';
import type { Kernel } from './kernel.ts';
import { type Dispatch, type ProfileRow, type Program, Recorder } from './recorder.ts';
import type { Tensor } from './tensor.ts';
import type { PartTimer } from './timer.ts';

/** Programs that share one arena of transient memory. */
export class Session {
  readonly device: Device;
  private readonly programs: Program[] = [];
  private pending: Program[] = [];
  /** Buffers of the arena; a buffer that grows is replaced. */
  private slots: GPUBuffer[] = [];
  private slotBytes: number[] = [];
  private status: Tensor | undefined;

  private readonly nanGuard: boolean;

  /** With `nanGuard` (by default as the device has it) every result is checked; see `checkFinite`. */
  constructor(device: Device, options: { nanGuard?: boolean } = {}) {
    this.device = device;
    this.nanGuard = options.nanGuard ?? device.nanGuard;
  }

  /** Records a program. It can run after `prepare`. */
  record(name: string, build: (recorder: Recorder) => void): Program {
    const recorder = new Recorder(this.device);
    build(recorder);
    if (this.nanGuard) this.guard(recorder);
    else joinChains(recorder);
    const program = { name, dispatches: recorder.dispatches };
    this.pending.push(program);
    return program;
  }

  /** Bytes of each arena buffer that the recorded programs need; known before any is taken. */
  plan(): number[] {
    const programs = [...this.programs, ...this.pending].map(({ dispatches }) => dispatches);
    return planArena(programs, this.slotBytes).slotBytes;
  }

  /** Compiles kernels (concurrently), takes the arena and binds buffers, for all programs recorded since the last call. */
  async prepare(): Promise<void> {
    if (this.pending.length === 0) return;
    const plan = planArena(
      this.pending.map(({ dispatches }) => dispatches),
      this.slotBytes,
    );
    const grown = plan.slotBytes.some((bytes, i) => i < this.slots.length && bytes > this.slotBytes[i]);
    plan.slotBytes.forEach((bytes, i) => {
      if (bytes <= (this.slotBytes[i] ?? 0)) return;
      this.slots[i]?.destroy();
      this.slots[i] = this.device.createBuffer(bytes, `arena ${i}`);
    });
    this.slotBytes = plan.slotBytes;
    for (const [tensor, slot] of plan.slots) this.assigned.set(tensor, slot);
    for (const [tensor, slot] of this.assigned) tensor.buffer = this.slots[slot];
    const toBind = grown ? [...this.programs, ...this.pending] : this.pending;
    for (const { dispatches } of toBind) for (const dispatch of dispatches) this.bind(dispatch);
    this.programs.push(...this.pending);
    this.pending = [];
    const kernels = new Set(this.programs.flatMap(({ dispatches }) => dispatches.map(({ kernel }) => kernel)));
    await this.device.wait(Promise.all([...kernels].map((kernel) => kernel.ready)));
  }

  private readonly assigned = new Map<Tensor, number>();
  /** Bind groups by kernel and buffers. */
  private readonly groups = new Map<Kernel, Map<string, GPUBindGroup>>();

  private bind(dispatch: Dispatch): void {
    let absent = 0;
    const bound = dispatch.tensors.map((tensor) => tensor ?? this.device.dummy(absent++));
    const key = bound.map(({ buffer, isView, byteOffset, bytes }) => {
      return isView ? `${bufferId(buffer!)}:${byteOffset}+${bytes}` : `${bufferId(buffer!)}`;
    });
    // Whole buffers where it may be: programs that differ in sizes alone then share their bind groups.
    const resources = bound.map(({ buffer, isView, byteOffset, bytes }) => {
      return isView ? { buffer: buffer!, offset: byteOffset, size: bytes } : { buffer: buffer! };
    });
    let groups = this.groups.get(dispatch.kernel);
    if (!groups) this.groups.set(dispatch.kernel, (groups = new Map()));
    let group = groups.get(key.join(' '));
    if (!group) groups.set(key.join(' '), (group = dispatch.kernel.bindGroup(this.device.handle, resources)));
    dispatch.group = group;
  }

  /**
   * Submits one replay of the programs, in order, in one compute pass; with `timer` in a pass for each part.
   * Does not wait.
   */
  run(programs: Program | readonly Program[], timer?: PartTimer): void {
    const encoder = this.device.handle.createCommandEncoder();
    let pass: GPUComputePassEncoder | undefined;
    let part: string | undefined;
    let pipeline: GPUComputePipeline | undefined;
    let group: GPUBindGroup | undefined;
    for (const { dispatches } of Array.isArray(programs) ? programs : [programs]) {
      for (const dispatch of dispatches as readonly Dispatch[]) {
        const { kernel } = dispatch;
        if (!pass || (timer && dispatch.part !== part)) {
          pass?.end();
          part = dispatch.part;
          pass = encoder.beginComputePass(timer?.pass(part));
          pipeline = group = undefined;
        }
        if (kernel.pipeline !== pipeline) pass.setPipeline((pipeline = kernel.pipeline!));
        if (dispatch.group !== group) pass.setBindGroup(0, (group = dispatch.group!));
        if (dispatch.params.length > 0) setImmediates(pass, dispatch.params);
        pass.dispatchWorkgroups(dispatch.grid[0], dispatch.grid[1], dispatch.grid[2]);
      }
    }
    pass?.end();
    this.device.handle.queue.submit([encoder.finish()]);
  }

  /** Runs the program with a timestamp around every dispatch. Slower than `run`; each row is the device's own time. */
  async profile(program: Program): Promise<ProfileRow[]> {
    const { handle } = this.device;
    if (!this.device.hasTimestamps)
      throw new EmigmError('adapter', `${this.device.name} has no timestamps to profile by`);
    const rows: ProfileRow[] = [];
    const most = 2048;
    const set = handle.createQuerySet({ type: 'timestamp', count: 2 * most });
    const resolved = handle.createBuffer({ size: 16 * most, usage: 512 | 4 });
    const staging = handle.createBuffer({ size: 16 * most, usage: 1 | 8 });
    for (let from = 0; from < program.dispatches.length; from += most) {
      const batch = program.dispatches.slice(from, from + most);
      const encoder = handle.createCommandEncoder();
      batch.forEach((dispatch, i) => {
        const timestampWrites = { querySet: set, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 };
        const pass = encoder.beginComputePass({ timestampWrites });
        pass.setPipeline(dispatch.kernel.pipeline!);
        pass.setBindGroup(0, dispatch.group!);
        if (dispatch.params.length > 0) setImmediates(pass, dispatch.params);
        pass.dispatchWorkgroups(dispatch.grid[0], dispatch.grid[1], dispatch.grid[2]);
        pass.end();
      });
      encoder.resolveQuerySet(set, 0, 2 * batch.length, resolved, 0);
      encoder.copyBufferToBuffer(resolved, 0, staging, 0, 16 * batch.length);
      handle.queue.submit([encoder.finish()]);
      await this.device.wait(staging.mapAsync(1, 0, 16 * batch.length));
      const times = new BigUint64Array(staging.getMappedRange(0, 16 * batch.length).slice(0));
      staging.unmap();
      batch.forEach(({ op, part, kernel, grid, flops, bytes }, i) => {
        const seconds = Number(times[2 * i + 1] - times[2 * i]) * 1e-9;
        rows.push({ op, part, kernel: kernel.spec.file, grid: grid.join('x'), seconds, flops, bytes });
      });
    }
    set.destroy();
    resolved.destroy();
    staging.destroy();
    this.device.check();
    return rows;
  }

  /** After each dispatch a check that what it wrote is finite; the lowest index of a bad one is kept. */
  private guard(recorder: Recorder): void {
    this.status ??= this.device.tensor([1], 'u32', 'NaN guard', [0xffffffff]);
    const checked = recorder.dispatches.splice(0);
    for (const dispatch of checked) {
      recorder.dispatches.push(dispatch);
      dispatch.kernel.operands.forEach(({ writable }, i) => {
        const tensor = dispatch.tensors[i];
        if (!writable || !tensor || tensor.dtype === 'u32') return;
        const id =
          guardNames.push(`${dispatch.op} (${dispatch.kernel.spec.file}, ${dispatch.part}) in ${tensor.label}`) - 1;
        const count = Math.floor(tensor.bytes / 4);
        recorder.part = 'guard';
        recorder.call({
          op: 'guard',
          kernel: { file: 'check/finite' },
          operands: { words: tensor, first: this.status! },
          bits: true,
          params: { count, half: tensor.dtype === 'f16' ? 1 : 0, id },
          grid: [Math.min(1024, Math.ceil(count / 64))],
        });
      });
    }
  }

  /** With the NaN guard on: throws EmigmError 'numeric' naming the first op whose output was not finite. */
  async checkFinite(): Promise<void> {
    if (!this.status) return;
    const [first] = await this.device.readIntegers(this.status);
    if (first === 0xffffffff) return;
    this.device.write(this.status, [0xffffffff]);
    throw new EmigmError('numeric', `a value that is not finite first came out of ${guardNames[first]}`);
  }

  /** Frees the arena. */
  dispose(): void {
    this.groups.clear();
    for (const slot of this.slots) slot.destroy();
    this.slots = [];
    this.slotBytes = [];
    this.status?.destroy();
  }
}

const guardNames: string[] = [];

const bufferIds = new WeakMap<GPUBuffer, number>();
let nextBufferId = 1;
function bufferId(buffer: GPUBuffer): number {
  let id = bufferIds.get(buffer);
  if (id === undefined) bufferIds.set(buffer, (id = nextBufferId++));
  return id;
}

function setImmediates(pass: GPUComputePassEncoder, bytes: Uint8Array<ArrayBuffer>): void {
  (pass as unknown as { setImmediates(offset: number, data: Uint8Array): void }).setImmediates(0, bytes);
}
