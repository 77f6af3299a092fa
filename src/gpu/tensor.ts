/** How a number is stored in a buffer. */
export type DType = 'f32' | 'f16' | 'u32';

export const BYTES: Record<DType, number> = { f32: 4, f16: 2, u32: 4 };

let nextId = 1;

/**
 * A row-major array on the device. Persistent tensors own a buffer; transient ones (made by `Recorder.temp`)
 * get a slot of the session's arena once the lifetimes of all are known.
 */
export class Tensor {
  readonly id = nextId++;
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly label: string;
  /** Set at once for persistent tensors, by `Session.prepare` for transient ones. */
  buffer: GPUBuffer | undefined;
  readonly transient: boolean;

  constructor(shape: readonly number[], dtype: DType, label: string, buffer?: GPUBuffer) {
    this.shape = shape;
    this.dtype = dtype;
    this.label = label;
    this.buffer = buffer;
    this.transient = buffer === undefined;
  }

  /** Number of elements. */
  get size(): number {
    return this.shape.reduce((a, b) => a * b, 1);
  }

  /** Bytes of the data, rounded up to whole words as buffers need. */
  get bytes(): number {
    return Math.ceil((this.size * BYTES[this.dtype]) / 4) * 4;
  }

  /** Frees the buffer of a persistent tensor. */
  destroy(): void {
    if (!this.transient) this.buffer?.destroy();
    this.buffer = undefined;
  }
}

/** `[3, 72, 128] f32` */
export function describeTensor(tensor: Tensor): string {
  return `[${tensor.shape.join(', ')}] ${tensor.dtype}`;
}
