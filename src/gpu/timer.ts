/** Device time by part of the model: a timestamp at both ends of every compute pass, read once at the end. */
import type { Device } from './device.ts';

/** Passes that can be timed between two reads. */
const CAPACITY = 2048;

export class PartTimer {
  private readonly device: Device;
  private readonly set: GPUQuerySet;
  private readonly resolved: GPUBuffer;
  private readonly staging: GPUBuffer;
  private parts: string[] = [];

  constructor(device: Device) {
    this.device = device;
    const bytes = 16 * CAPACITY;
    this.set = device.handle.createQuerySet({ type: 'timestamp', count: 2 * CAPACITY });
    this.resolved = device.handle.createBuffer({ size: bytes, usage: 512 | 4 }); // QUERY_RESOLVE | COPY_SRC
    this.staging = device.handle.createBuffer({ size: bytes, usage: 1 | 8 }); // MAP_READ | COPY_DST
  }

  /** How to begin a pass of this part. Passes beyond the capacity are not timed. */
  pass(part: string): GPUComputePassDescriptor {
    const index = this.parts.length;
    if (index >= CAPACITY) return {};
    this.parts.push(part);
    const timestampWrites = {
      querySet: this.set,
      beginningOfPassWriteIndex: 2 * index,
      endOfPassWriteIndex: 2 * index + 1,
    };
    return { timestampWrites };
  }

  /** Waits for the device and returns seconds by part since the last read. */
  async read(): Promise<Record<string, number>> {
    const seconds: Record<string, number> = {};
    const { parts } = this;
    this.parts = [];
    if (parts.length === 0) return seconds;
    const bytes = 16 * parts.length;
    const encoder = this.device.handle.createCommandEncoder();
    encoder.resolveQuerySet(this.set, 0, 2 * parts.length, this.resolved, 0);
    encoder.copyBufferToBuffer(this.resolved, 0, this.staging, 0, bytes);
    this.device.handle.queue.submit([encoder.finish()]);
    await this.device.wait(this.staging.mapAsync(1, 0, bytes));
    const times = new BigUint64Array(this.staging.getMappedRange(0, bytes).slice(0));
    this.staging.unmap();
    for (const [i, part] of parts.entries()) {
      seconds[part] = (seconds[part] ?? 0) + Number(times[2 * i + 1] - times[2 * i]) * 1e-9;
    }
    return seconds;
  }

  dispose(): void {
    this.set.destroy();
    this.resolved.destroy();
    this.staging.destroy();
  }
}
