/** The closed list of globals that a PyTorch checkpoint may name, and what each stands for. */
import { EmigmError } from '../errors.ts';
import { type DType, elementCount } from './dtype.ts';
import { PickleGlobal, type PickleMeaning } from './pickle.ts';
import { type StorageSource, TorchStorage, TorchTensor } from './torch_tensor.ts';

/** An argparse.Namespace: the arguments that a model was trained with. */
export class TorchNamespace {
  fields = new Map<unknown, unknown>();
}

const STORAGES: ReadonlyMap<string, DType> = new Map([
  ['DoubleStorage', 'F64'],
  ['FloatStorage', 'F32'],
  ['HalfStorage', 'F16'],
  ['BFloat16Storage', 'BF16'],
  ['LongStorage', 'I64'],
  ['IntStorage', 'I32'],
  ['ShortStorage', 'I16'],
  ['CharStorage', 'I8'],
  ['ByteStorage', 'U8'],
  ['BoolStorage', 'BOOL'],
]);

/** Keys become parts of names of zip members, and of messages. */
const STORAGE_KEY = /^[\w.-]{1,64}$/;

class StorageType extends PickleGlobal {
  readonly dtype: DType;
  constructor(name: string, dtype: DType, fail: (what: string) => never) {
    super(name, () => fail(`the pickle makes a ${name} of its own; storages belong outside the pickle`));
    this.dtype = dtype;
  }
}

const sizes = (value: unknown): value is number[] => elementCount(value) !== undefined;
const whole = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/** Meanings for one file. `storage` is called for each storage that the pickle refers to. */
export function torchMeaning(file: string, source: StorageSource): PickleMeaning {
  const fail = (what: string): never => {
    throw new EmigmError('file', `${file}: ${what}`);
  };
  const storages = new Map<string, TorchStorage>();

  const tensor = new PickleGlobal('torch._utils._rebuild_tensor_v2', ([storage, offset, shape, stride]) => {
    if (!(storage instanceof TorchStorage) || !whole(offset) || !sizes(shape) || !Array.isArray(stride)) {
      return fail('a tensor in the pickle is not made of a storage, an offset, sizes and strides');
    }
    if (stride.length !== shape.length || !stride.every(whole)) return fail('a tensor in the pickle has bad strides');
    return new TorchTensor(storage, offset, shape, stride);
  });
  const parameter = new PickleGlobal('torch._utils._rebuild_parameter', ([data]) =>
    data instanceof TorchTensor ? data : fail('a parameter in the pickle holds no tensor'),
  );
  const orderedDict = new PickleGlobal('collections.OrderedDict', ([items], charge) => {
    const dict = new Map();
    if (items === undefined) return dict;
    if (!Array.isArray(items)) return fail('an OrderedDict in the pickle is made of something that is not a list');
    charge(items.length);
    for (const item of items) {
      if (!Array.isArray(item) || item.length !== 2) return fail('an OrderedDict in the pickle is not made of pairs');
      dict.set(item[0], item[1]);
    }
    return dict;
  });
  const namespace = new PickleGlobal('argparse.Namespace', () => new TorchNamespace());
  const size = new PickleGlobal('torch.Size', ([shape]) =>
    sizes(shape) ? shape : fail('a torch.Size is no list of sizes'),
  );
  // How protocol 2 spells bytes: _codecs.encode(text, 'latin1').
  const encode = new PickleGlobal('_codecs.encode', ([text, codec], charge) => {
    if (typeof text !== 'string' || codec !== 'latin1') return fail('bytes in the pickle are not spelt in latin1');
    charge(text.length);
    return Uint8Array.from(text, (character) => character.charCodeAt(0));
  });
  const set = new PickleGlobal('set', ([items], charge) => {
    if (!Array.isArray(items)) return fail('a set in the pickle is not made of a list');
    charge(items.length);
    return new Set(items);
  });
  const globals = new Map<string, PickleGlobal>([
    ['torch._utils _rebuild_tensor_v2', tensor],
    ['torch._utils _rebuild_parameter', parameter],
    ['collections OrderedDict', orderedDict],
    ['argparse Namespace', namespace],
    ['torch Size', size],
    ['_codecs encode', encode],
    ['builtins set', set],
    ['__builtin__ set', set],
    ...[...STORAGES].map(([name, dtype]) => [`torch ${name}`, new StorageType(name, dtype, fail)] as const),
  ]);

  return {
    file,
    global: (module, name) => globals.get(`${module} ${name}`),
    /** ('storage', type, key, location, elements[, view]); a view is (key, offset, elements) of legacy files. */
    persistent(id) {
      if (!Array.isArray(id) || id[0] !== 'storage') return fail('the pickle refers to something that is no storage');
      const [, type, key, , elements, view] = id;
      if (!(type instanceof StorageType) || typeof key !== 'string' || !STORAGE_KEY.test(key) || !whole(elements)) {
        return fail('the pickle refers to a storage without a type, a plain key or a size');
      }
      let storage = storages.get(key);
      if (!storage) storages.set(key, (storage = new TorchStorage(key, type.dtype, elements, source)));
      if (storage.dtype !== type.dtype || storage.length !== elements) {
        return fail(`storage ${key} is described in two ways that disagree`);
      }
      if (view === undefined || view === null) return storage;
      if (!Array.isArray(view) || !whole(view[1]) || !whole(view[2]))
        return fail(`a view of storage ${key} is malformed`);
      return storage.view(view[1], view[2]);
    },
    build(object, state) {
      if (object instanceof TorchNamespace && state instanceof Map) {
        object.fields = state;
        return true;
      }
      return object instanceof Map; // attributes of an OrderedDict, such as a state dict's _metadata, are not needed
    },
  };
}
