/** Buffers that numbers are read back through. */

/** Bytes of the smallest, and of the largest that is kept. */
const LEAST = 2 ** 18;
const KEPT = 2 ** 24;

/** Keeps buffers for the next time: making one takes longer than a short kernel. */
export class Staging {
  /** Free ones of one size each, a power of two. */
  private readonly free = new Map<number, GPUBuffer[]>();
  private readonly device: GPUDevice;

  constructor(device: GPUDevice) {
    this.device = device;
  }

  /** A buffer of `bytes` bytes or more. */
  take(bytes: number): GPUBuffer {
    const size = bytes > KEPT ? bytes : Math.max(LEAST, 2 ** Math.ceil(Math.log2(bytes)));
    // GPUBufferUsage.MAP_READ | COPY_DST
    return this.free.get(size)?.pop() ?? this.device.createBuffer({ size, usage: 1 | 8 });
  }

  /** Takes a buffer back that is no longer mapped; one that is not `sound` is let go. */
  giveBack(buffer: GPUBuffer, sound: boolean): void {
    const { size } = buffer;
    const free = this.free.get(size) ?? [];
    if (!sound || size > KEPT) buffer.destroy();
    else this.free.set(size, [...free, buffer]);
  }
}
