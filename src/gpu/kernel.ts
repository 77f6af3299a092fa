/**
 * Kernel files: read, specialised by the one mechanism there is (the value of a named `const` or `alias` line),
 * reflected, compiled, bound by operand name.
 */
import { WgslReflect } from 'wgsl_reflect/wgsl_reflect.module.js';
import { EmigmError } from '../errors.ts';
import { type DType, describeTensor, type Tensor } from './tensor.ts';

/** Names a kernel and what is fixed when it is compiled. */
export interface KernelSpec {
  /** `layernorm` means kernels/layernorm.wgsl; a path that ends in .wgsl is that file. */
  file: string;
  /** New values of `const` and `alias` lines. */
  consts?: Readonly<Record<string, string | number | boolean>>;
  /** Values of `override` declarations. */
  overrides?: Readonly<Record<string, number | boolean>>;
}

interface Operand {
  name: string;
  binding: number;
  writable: boolean;
  /** undefined: any (structs, atomics) */
  scalar: DType | undefined;
  /** Bytes of the smallest buffer that may be bound. */
  minBytes: number;
}

interface ParamMember {
  name: string;
  offset: number;
  type: 'u32' | 'i32' | 'f32';
}

/** Replaces the value of each named `const` or `alias` line. Line numbers do not change. */
export function specialise(source: string, consts: KernelSpec['consts'], file: string): string {
  let text = source;
  let needsF16 = false;
  for (const [name, value] of Object.entries(consts ?? {})) {
    const line = new RegExp(`^((?:const|alias)\\s+${name}\\b[^=\\n]*=\\s*)[^;\\n]+;`, 'm');
    if (!line.test(text)) {
      throw new EmigmError('kernel', `${kernelPath(file)} has no const or alias named ${name}`);
    }
    const literal =
      typeof value === 'number' && /^const\s+\w+\s*:\s*u32/m.test(line.exec(text)![0]) ? `${value}u` : value;
    text = text.replace(line, (_, head: string) => `${head}${literal};`);
    if (/\bf16\b/.test(String(value))) needsF16 = true;
  }
  return needsF16 && !/^\s*enable\s+f16/m.test(text) ? `enable f16; ${text}` : text;
}

/**
 * Asks for subgroups of `lanes` where the adapter has several sizes and a kernel works by subgroups. Line numbers do not
 * change.
 */
export function pinSubgroups(code: string, lanes: number): string {
  if (!/\benable subgroups;/.test(code)) return code;
  return code
    .replace(/\benable subgroups;/, '$& enable subgroup_size_control;')
    .replace(/^@compute\b/m, `@subgroup_size(${lanes}) $&`);
}

/** How messages name a kernel file. */
function kernelPath(file: string): string {
  return file.endsWith('.wgsl') ? file : `kernels/${file}.wgsl`;
}

/** `kernels/norm/x.wgsl:12:3: what is wrong`, and the line that it is about below. */
function compileError(
  file: string,
  code: string,
  line: number | undefined,
  column: number | undefined,
  message: string,
  cause: unknown,
): EmigmError {
  const source = line && code.split('\n')[line - 1]?.trim();
  const where = line ? `:${line}${column ? `:${column}` : ''}` : '';
  const shown = source ? `\n  ${source}` : '';
  return new EmigmError('kernel', `${kernelPath(file)}${where}: ${message.trim()}${shown}`, { cause });
}

type ReflectType = { name: string; size: number; format?: ReflectType | null; members?: { type: ReflectType }[] };

function scalarOf(type: ReflectType): DType | undefined {
  const name = type.name;
  if (name === 'f32' || /^(vec[234]|mat\dx\d)f$/.test(name)) return 'f32';
  if (name === 'f16' || /^(vec[234]|mat\dx\d)h$/.test(name)) return 'f16';
  if (name === 'u32' || name === 'i32' || /^vec[234][ui]$/.test(name)) return 'u32';
  if (name === 'atomic') return 'u32';
  return type.format ? scalarOf(type.format) : undefined;
}

/** The reflector knows no subgroup matrices: what it says of bindings and parameters does not depend on them. */
function reflectable(code: string): string {
  return code
    .replace(/\benable chromium_experimental_subgroup_matrix;/, '')
    .replace(/\bsubgroup_matrix_\w+<[^>]*>/g, 'f32')
    .replace(/\bsubgroupMatrix(\w+)<[^>]*>/g, 'subgroupMatrix$1');
}

/** A compiled kernel: a pipeline and what is known of its operands and parameters. */
export class Kernel {
  readonly spec: KernelSpec;
  readonly operands: readonly Operand[];
  readonly params: readonly ParamMember[];
  readonly paramBytes: number;
  readonly layout: GPUBindGroupLayout;
  /** Set once compiled. */
  pipeline: GPUComputePipeline | undefined;
  readonly ready: Promise<void>;

  constructor(device: GPUDevice, spec: KernelSpec, source: string, pinnedLanes = 0) {
    this.spec = spec;
    const code = specialise(source, spec.consts, spec.file);
    let reflection: WgslReflect;
    try {
      reflection = new WgslReflect(reflectable(code));
    } catch (cause) {
      const message = cause instanceof Error ? cause.message : String(cause);
      const line = Number(/line:? (\d+)/i.exec(message)?.[1]);
      throw compileError(spec.file, code, line, undefined, message.replace(/\.+ Line: \d+$/, ''), cause);
    }
    for (const name of Object.keys(spec.overrides ?? {})) {
      if (!reflection.overrides.some((override) => override.name === name)) {
        throw new EmigmError('kernel', `${kernelPath(spec.file)} has no override named ${name}`);
      }
    }
    this.operands = reflection.storage.map((variable) => {
      const type = variable.type as unknown as ReflectType;
      return {
        name: variable.name,
        binding: variable.binding,
        writable: variable.access === 'read_write',
        scalar: scalarOf(type),
        minBytes: Math.max(4, type.size || type.format?.size || 4),
      };
    });
    const struct = reflection.immediates[0]?.type as unknown as
      | { size: number; members?: { name: string; offset: number; type: { name: string } }[] }
      | undefined;
    this.params = (struct?.members ?? []).map(({ name, offset, type }) => ({
      name,
      offset,
      type: type.name as ParamMember['type'],
    }));
    this.paramBytes = Math.ceil((struct?.size ?? 0) / 4) * 4;
    this.layout = device.createBindGroupLayout({
      label: spec.file,
      entries: this.operands.map(({ binding, writable }) => ({
        binding,
        visibility: 4, // GPUShaderStage.COMPUTE
        buffer: { type: writable ? 'storage' : 'read-only-storage' },
      })),
    });
    this.ready = this.compile(device, pinnedLanes > 0 ? pinSubgroups(code, pinnedLanes) : code);
    this.ready.catch(() => {}); // reported where it is awaited
  }

  private async compile(device: GPUDevice, code: string): Promise<void> {
    const { spec } = this;
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ label: spec.file, code });
    const scope = device.popErrorScope();
    const layout = device.createPipelineLayout({
      bindGroupLayouts: [this.layout],
      immediateSize: this.paramBytes,
    } as GPUPipelineLayoutDescriptor);
    const constants: Record<string, number> = {};
    for (const [name, value] of Object.entries(spec.overrides ?? {})) constants[name] = Number(value);
    try {
      if (await scope) throw new Error('the shader module is invalid');
      this.pipeline = await device.createComputePipelineAsync({
        label: spec.file,
        layout,
        compute: { module, entryPoint: 'main', constants },
      });
    } catch (cause) {
      const { messages } = await module.getCompilationInfo();
      const error = messages.find(({ type }) => type === 'error');
      const message = error?.message ?? (cause as Error).message;
      throw compileError(spec.file, code, error?.lineNum, error?.linePos, message, cause);
    }
  }

  /** Packs named scalars into the bytes of the `params` struct. */
  packParams(values: Readonly<Record<string, number>>): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.paramBytes);
    const view = new DataView(bytes.buffer);
    for (const { name, offset, type } of this.params) {
      const value = values[name];
      if (value === undefined) throw new EmigmError('kernel', `${this.spec.file}: parameter ${name} is missing`);
      if (type === 'f32') view.setFloat32(offset, value, true);
      else if (type === 'i32') view.setInt32(offset, value, true);
      else view.setUint32(offset, value, true);
    }
    for (const name of Object.keys(values)) {
      if (!this.params.some((member) => member.name === name)) {
        throw new EmigmError('kernel', `${this.spec.file}: there is no parameter ${name}`);
      }
    }
    return bytes;
  }

  /** The named scalars in bytes that `packParams` made. */
  unpackParams(bytes: Uint8Array): Record<string, number> {
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const read = (type: string, offset: number) => {
      if (type === 'f32') return view.getFloat32(offset, true);
      return type === 'i32' ? view.getInt32(offset, true) : view.getUint32(offset, true);
    };
    return Object.fromEntries(this.params.map(({ name, offset, type }) => [name, read(type, offset)]));
  }

  /** Throws when an operand is unknown, missing, of the wrong type or too small. */
  checkOperands(tensors: Readonly<Record<string, Tensor | undefined>>): void {
    for (const name of Object.keys(tensors)) {
      if (!this.operands.some((operand) => operand.name === name)) {
        throw new EmigmError('kernel', `${this.spec.file}: there is no operand ${name}`);
      }
    }
    for (const { name, scalar, minBytes } of this.operands) {
      if (!(name in tensors)) throw new EmigmError('kernel', `${this.spec.file}: operand ${name} is missing`);
      const tensor = tensors[name];
      if (!tensor) continue; // an optional operand, left out on purpose
      if (scalar && scalar !== tensor.dtype) {
        throw new EmigmError(
          'kernel',
          `${this.spec.file}: operand ${name} is ${describeTensor(tensor)} (${tensor.label}), the kernel wants ${scalar}`,
        );
      }
      if (tensor.bytes < minBytes) {
        throw new EmigmError(
          'kernel',
          `${this.spec.file}: operand ${name} (${tensor.label}) has ${tensor.bytes} bytes, the kernel wants at least ${minBytes}`,
        );
      }
    }
  }

  /** A bind group of these buffers, one for each operand. */
  bindGroup(device: GPUDevice, resources: readonly GPUBufferBinding[]): GPUBindGroup {
    const entries = this.operands.map(({ binding }, i) => ({ binding, resource: resources[i] }));
    return device.createBindGroup({ label: this.spec.file, layout: this.layout, entries });
  }
}

/** Compiles each distinct specialisation once. */
export class KernelCache {
  private readonly kernels = new Map<string, Kernel>();
  private readonly sources = new Map<string, string>();
  private readonly device: GPUDevice;
  private readonly read: (file: string) => string;
  private readonly pinnedLanes: number;

  /** With `pinnedLanes` kernels that work by subgroups ask for this size: see `pinSubgroups`. */
  constructor(device: GPUDevice, read: (file: string) => string, pinnedLanes = 0) {
    this.device = device;
    this.read = read;
    this.pinnedLanes = pinnedLanes;
  }

  get(spec: KernelSpec): Kernel {
    const key = `${spec.file} ${JSON.stringify(spec.consts ?? {})} ${JSON.stringify(spec.overrides ?? {})}`;
    let kernel = this.kernels.get(key);
    if (!kernel) {
      let source = this.sources.get(spec.file);
      if (source === undefined) this.sources.set(spec.file, (source = this.read(spec.file)));
      this.kernels.set(key, (kernel = new Kernel(this.device, spec, source, this.pinnedLanes)));
    }
    return kernel;
  }

  [Symbol.iterator](): IterableIterator<Kernel> {
    return this.kernels.values();
  }
}
