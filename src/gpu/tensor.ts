import { EmigmError } from '../errors.ts';

/** How a number is stored in a buffer. */
export type DType = 'f32' | 'f16' | 'u32';

export const BYTES: Record<DType, number> = { f32: 4, f16: 2, u32: 4 };

/** Where a binding may start: WebGPU's default, which every adapter allows. */
export const VIEW_ALIGNMENT = 256;

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
  /** Bytes from the start of the buffer, for views; a multiple of `VIEW_ALIGNMENT`. */
  readonly byteOffset: number;
  readonly isView: boolean;

  constructor(shape: readonly number[], dtype: DType, label: string, buffer?: GPUBuffer, byteOffset?: number) {
    this.shape = shape;
    this.dtype = dtype;
    this.label = label;
    this.buffer = buffer;
    this.transient = buffer === undefined;
    this.byteOffset = byteOffset ?? 0;
    this.isView = byteOffset !== undefined;
  }

  /** A part of this persistent tensor's buffer under another shape: many small tensors in one buffer. */
  view(shape: readonly number[], byteOffset: number, label: string): Tensor {
    if (!this.buffer) throw new EmigmError('shape', `${this.label} is transient: it has no views`);
    const view = new Tensor(shape, this.dtype, label, this.buffer, this.byteOffset + byteOffset);
    if (byteOffset < 0 || byteOffset % VIEW_ALIGNMENT !== 0 || byteOffset + view.bytes > this.bytes) {
      throw new EmigmError(
        'shape',
        `${label}: no view of ${view.bytes} bytes at byte ${byteOffset} of the ${this.bytes} of ${this.label}; ` +
          `views start at multiples of ${VIEW_ALIGNMENT}`,
      );
    }
    return view;
  }

  /** Number of elements. */
  get size(): number {
    return this.shape.reduce((a, b) => a * b, 1);
  }

  /** Bytes of the data, rounded up to whole words as buffers need. */
  get bytes(): number {
    return Math.ceil((this.size * BYTES[this.dtype]) / 4) * 4;
  }

  /** Frees the buffer of a persistent tensor; a view leaves it to its owner. */
  destroy(): void {
    if (!this.transient && !this.isView) this.buffer?.destroy();
    this.buffer = undefined;
  }
}

/** `[3, 72, 128] f32` */
export function describeTensor(tensor: Tensor): string {
  return `[${tensor.shape.join(', ')}] ${tensor.dtype}`;
}
