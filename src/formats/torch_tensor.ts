/** Tensors of PyTorch checkpoints: strided views of storages, read from the file when asked for. */
import { EmigmError } from '../errors.ts';
import { type DType, ELEMENT_BYTES, elementCount, storedArray, toFloat32 } from './dtype.ts';
import { gather } from './strided.ts';
import type { RangeFile } from './files.ts';
import type { Tensor } from './safetensors_parse.ts';

/** An expanded (stride 0) tensor may be larger than its file; it is read up to this size at least. */
const ALWAYS_READABLE = 1 << 26;

/** Where storages lie in a file. */
export interface StorageSource {
  readonly file: RangeFile;
  /** The position in the file of the first byte of a storage that fills `bytes` bytes. Throws EmigmError('file'). */
  locate(storage: TorchStorage, bytes: number): Promise<number>;
}

/** A run of `length` elements in the file, named by `key`; a legacy view begins `offset` elements into it. */
export class TorchStorage {
  readonly key: string;
  readonly dtype: DType;
  readonly length: number;
  readonly source: StorageSource;
  readonly offset: number;
  readonly root: TorchStorage;

  constructor(key: string, dtype: DType, length: number, source: StorageSource, offset = 0, root?: TorchStorage) {
    this.key = key;
    this.dtype = dtype;
    this.length = length;
    this.source = source;
    this.offset = offset;
    this.root = root ?? this;
    // More bytes than the file has: refused before anything is computed from the length.
    if (length * ELEMENT_BYTES[dtype] > source.file.size) {
      throw new EmigmError(
        'file',
        `${source.file.path}: storage ${key} claims ${length} elements of ${dtype}, more than the file's ${source.file.size} bytes`,
      );
    }
  }

  view(offset: number, length: number): TorchStorage {
    if (offset + length > this.length) {
      throw new EmigmError('file', `${this.source.file.path}: a view reaches beyond storage ${this.key}`);
    }
    return new TorchStorage(this.key, this.dtype, length, this.source, offset, this.root);
  }
}

/** A tensor in a checkpoint: a view of a storage. Nothing is read before `read`. */
export class TorchTensor {
  readonly storage: TorchStorage;
  /** Elements from the start of the storage to the first of this tensor. */
  readonly offset: number;
  readonly shape: readonly number[];
  /** Elements from one index to the next, for each dimension; 0 where it is expanded. */
  readonly stride: readonly number[];

  /** Throws EmigmError('file') when the view reaches beyond its storage. */
  constructor(storage: TorchStorage, offset: number, shape: readonly number[], stride: readonly number[]) {
    this.storage = storage;
    this.offset = offset;
    this.shape = [...shape]; // a list in a pickle may change after it was checked
    this.stride = [...stride];
    const reach = offset + this.#span();
    if (!(reach <= storage.length)) {
      throw new EmigmError(
        'file',
        `${storage.source.file.path}: a tensor of shape [${shape}] reaches element ${reach} of storage ${storage.key}, which has ${storage.length}`,
      );
    }
  }

  get dtype(): DType {
    return this.storage.dtype;
  }

  /** Elements from the first to the last of the tensor, both included. */
  #span(): number {
    if (this.shape.includes(0)) return 0;
    return this.shape.reduce((reach, size, d) => reach + (size - 1) * this.stride[d], 1);
  }

  /** The tensor in its stored type, contiguous in row-major order; reads only the bytes it spans. */
  async read(): Promise<Tensor> {
    const { storage, shape, dtype } = this;
    const { file } = storage.source;
    const bytes = ELEMENT_BYTES[dtype];
    const count = elementCount(shape)!;
    if (count * bytes > Math.max(file.size, ALWAYS_READABLE)) {
      throw new EmigmError(
        'file',
        `${file.path}: an expanded tensor of shape [${shape}] is larger than the whole file`,
      );
    }
    const root = storage.root;
    const start = await storage.source.locate(root, root.length * bytes);
    const span = this.#span();
    const from = start + (storage.offset + this.offset) * bytes;
    const spanned = storedArray(dtype, (await file.read(from, span * bytes)).buffer, 0, span);
    return { dtype, shape, data: this.#isContiguous() ? spanned : gather(dtype, spanned, shape, this.stride) };
  }

  /** The tensor as float32, whatever its stored type. */
  async readFloat32(): Promise<Float32Array<ArrayBuffer>> {
    const { dtype, data } = await this.read();
    return toFloat32(dtype, data);
  }

  #isContiguous(): boolean {
    let expected = 1;
    for (let d = this.shape.length - 1; d >= 0; d--) {
      if (this.shape[d] !== 1 && this.stride[d] !== expected) return this.shape.includes(0);
      expected *= this.shape[d];
    }
    return true;
  }
}
