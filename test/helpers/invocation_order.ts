/**
 * The invocations of a workgroup in another order. CPU drivers run its subgroups one after another, each up to the next
 * barrier, in the order of their ids, and the invocations of a subgroup (4 or 8) in lockstep: where a barrier is missing,
 * that order may happen to be the right one. A GPU has larger subgroups and no order. Here each invocation takes the id
 * of another, so that others come first and others share a subgroup; a kernel whose barriers are right gives the same
 * bits.
 */
import type { Device } from '../../src/gpu/device.ts';
import { type Kernel, KernelCache, type KernelSpec } from '../../src/gpu/kernel.ts';
import { readKernelSource } from '../../src/gpu/node.ts';

/**
 * `scattered`: neighbours come to different subgroups; `reversed`: the same, from the last to the first, so that of any
 * two in different subgroups each comes first once.
 */
export const ORDERS = ['as written', 'scattered', 'reversed'] as const;
export type Order = (typeof ORDERS)[number];

/** Has the kernel memory that the invocations of a workgroup share? */
export const sharesMemory = (source: string): boolean => /^var<workgroup>/m.test(source);

/** Statements that fill a variable with a number, another one in each order. */
function fill(source: string, place: string, type: string, depth = 0): string {
  const [, element, count] = /^array<(.*), ([^,<>]+)>$/.exec(type) ?? [];
  if (element) {
    const at = `at${depth}`;
    const [first, step] = depth === 0 ? ['raw', 'invocations'] : ['0u', '1'];
    const inner = fill(source, `${place}[${at}]`, element, depth + 1);
    return `for (var ${at} = ${first}; ${at} < ${count}; ${at} += ${step}) { ${inner} }`;
  }
  const [, members] = new RegExp(`^struct ${type} \\{([^}]*)\\}`, 'm').exec(source) ?? [];
  if (!members) return `${place} = ${type}(1); if (params.invocation_order > 0) { ${place} = ${type}(7); }`;
  return [...members.matchAll(/(\w+): (\w+)/g)].map(([, name, of]) => fill(source, `${place}.${name}`, of)).join(' ');
}

/**
 * The source with one more parameter, `invocation_order`, the index of an order: a kernel is compiled once for all, which
 * takes most of the time, and the compiler cannot round differently in one of them. Before it begins its workgroup memory is
 * filled with what depends on the order: memory that is read before it is written shows too.
 */
function takeOrder(source: string): string {
  if (/\bsubgroup[A-Z]\w*[(<]|global_invocation_id/.test(source)) {
    throw new Error('of this kernel it is not known which orders are valid');
  }
  const entry = /@workgroup_size\(([^)]*)\)\s*fn main\(([^{]*)\) \{/;
  const [, sizes, parameters] = entry.exec(source)!;
  const [x, y = '1'] = sizes.split(',').map((size) => size.trim());
  const ids: string[] = [];
  const others = parameters.split(/,\s*(?=@)/).filter((parameter) => {
    const [, builtin, name] = /\((\w+)\) (\w+):/.exec(parameter)!;
    if (builtin === 'local_invocation_index') ids.push(`let ${name} = permuted;`);
    else if (builtin === 'local_invocation_id') ids.push(`let ${name} = vec3u(permuted % ${x}, permuted / ${x}, 0);`);
    else return true;
    return false;
  });
  // Each id occurs once in workgroups of any size that is no multiple of the prime 37.
  const main = `@workgroup_size(${sizes})
fn main(${[...others, '@builtin(local_invocation_index) raw: u32'].join(', ')}) {
  const invocations = u32(${x} * ${y});
  let place = select(raw, invocations - 1 - raw, params.invocation_order == 2);
  let permuted = select((37 * place + 11) % invocations, raw, params.invocation_order == 0);
  ${ids.join('\n  ')}
  ${[...source.matchAll(/^var<workgroup> (\w+): ([^;]*);/gm)].map(([, name, type]) => fill(source, name, type)).join('\n  ')}
  workgroupBarrier();`;
  return source.replace(entry, () => main).replace(/(struct Params \{[^}]*?),?\s*\}/, '$1, invocation_order: u32 }');
}

/** The kernels of a device, with the invocations of a workgroup in the order that is set when an op is recorded. */
export class KernelsInOrder extends KernelCache {
  order: Order = 'as written';
  private readonly known = new Set<Kernel>();

  /** `read` gives the sources. */
  constructor(device: Device, read: (file: string) => string = readKernelSource) {
    super(device.handle, (file) => {
      const source = read(file);
      return sharesMemory(source) ? takeOrder(source) : source;
    });
  }

  override get(spec: KernelSpec): Kernel {
    const kernel = super.get(spec);
    if (this.known.has(kernel) || !kernel.params.some(({ name }) => name === 'invocation_order')) return kernel;
    this.known.add(kernel);
    const pack = kernel.packParams.bind(kernel);
    kernel.packParams = (values) => pack({ ...values, invocation_order: ORDERS.indexOf(this.order) });
    return kernel;
  }

  /** Files of the kernels that have taken an order. */
  get files(): string[] {
    return [...this.known].map(({ spec }) => spec.file);
  }
}
