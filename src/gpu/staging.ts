/** Buffers that numbers are read back through. */

/** Bytes of a buffer that is kept. */
const KEPT = 2 ** 20;

/** Keeps small buffers for the next time: making one takes longer than a short kernel. */
export class Staging {
  private readonly free: GPUBuffer[] = [];
  private readonly device: GPUDevice;

  constructor(device: GPUDevice) {
    this.device = device;
  }

  /** A buffer of `bytes` bytes or more. */
  take(bytes: number): GPUBuffer {
    const kept = bytes <= KEPT ? this.free.pop() : undefined;
    // GPUBufferUsage.MAP_READ | COPY_DST
    return kept ?? this.device.createBuffer({ size: Math.max(bytes, KEPT), usage: 1 | 8 });
  }

  /** Takes a buffer back that is no longer mapped; one that is not `sound` is let go. */
  giveBack(buffer: GPUBuffer, sound: boolean): void {
    if (sound && buffer.size === KEPT) this.free.push(buffer);
    else buffer.destroy();
  }
}
