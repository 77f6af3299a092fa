/** jax-js: traced and compiled once by `jit`, its kernels generated from the trace. */
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { addIteratorHelpers, installBrowser } from './dawn.ts';
import type { Matrices, Ops } from './ops.ts';
import { load, type Peer, type PeerOptions } from './peer.ts';
import { mapValues } from './tfjs.ts';

/** An array, or a tracer. Operations take over what they are given; `ref` gives another hold on it. */
interface Value {
  ref: Value;
  shape: readonly number[];
  add(b: Value | number): Value;
  mul(b: Value | number): Value;
  reshape(shape: readonly number[]): Value;
  slice(...ranges: readonly (readonly [number, number] | readonly [] | Value)[]): Value;
  data(): Promise<Float32Array>;
  dispose(): void;
}

/** As much of the package as is used. */
interface Jax {
  init(device: string): Promise<readonly string[]>;
  defaultDevice(device: string): void;
  jit<A, B>(run: (argument: A) => B): ((argument: A) => B) & { dispose(): void };
  numpy: {
    array(data: Float32Array | Int32Array): Value;
    matmul(a: Value, b: Value): Value;
    tanh(x: Value): Value;
    concatenate(parts: readonly Value[], axis: number): Value;
  };
  nn: {
    gelu(x: Value, options: { approximate: boolean }): Value;
    silu(x: Value): Value;
    standardize(x: Value, axis: number, options: { epsilon: number }): Value;
    dotProductAttention(q: Value, k: Value, v: Value): Value;
  };
}

function versionOf(name: string): string {
  const folder = createRequire(import.meta.url)
    .resolve(name)
    .split(join('node_modules', name))[0];
  return JSON.parse(readFileSync(join(folder, 'node_modules', name, 'package.json'), 'utf8')).version;
}

export async function openJax(options: PeerOptions): Promise<Peer> {
  const device = await installBrowser(options);
  addIteratorHelpers();
  const jax = await load<Jax>('@jax-js/jax');
  await jax.init('webgpu');
  jax.defaultDevice('webgpu');
  const { array } = jax.numpy;
  return {
    device,
    versions: { '@jax-js/jax': versionOf('@jax-js/jax') },
    prepare: async (work) => {
      const put = ({ rows, columns, data }: Matrices[string]) => array(data).reshape([rows, columns]);
      const parameters = mapValues(await work.parameters(), put);
      type Arguments = { inputs: Record<string, Value>; parameters: Record<string, Value> };
      const compiled = jax.jit((given: Arguments) => work.build(new JaxOps(jax, given.inputs, given.parameters)));
      return {
        run: (given) => {
          const inputs = mapValues(given, put);
          return compiled({ inputs, parameters: mapValues(parameters, ({ ref }) => ref) }).data();
        },
        release: () => {
          compiled.dispose();
          for (const value of Object.values(parameters)) value.dispose();
        },
      };
    },
  };
}

type Values = Readonly<Record<string, Value>>;

class JaxOps implements Ops<Value> {
  private readonly jax: Jax;
  private readonly inputs: Values;
  private readonly parameters: Values;

  constructor(jax: Jax, inputs: Values, parameters: Values) {
    this.jax = jax;
    this.inputs = inputs;
    this.parameters = parameters;
  }

  // A value may be used again, so every operation is given another hold on it.
  input(name: string): Value {
    return this.inputs[name];
  }
  parameter(name: string): Value {
    return this.parameters[name];
  }
  matmul(x: Value, weight: Value): Value {
    return this.jax.numpy.matmul(x.ref, weight.ref);
  }
  add(a: Value, b: Value): Value {
    return a.ref.add(b.ref);
  }
  multiply(a: Value, b: Value): Value {
    return a.ref.mul(b.ref);
  }
  layerNorm(x: Value, weight?: Value, bias?: Value): Value {
    const normal = this.jax.nn.standardize(x.ref, -1, { epsilon: 1e-6 });
    const scaled = weight ? normal.mul(weight.ref) : normal;
    return bias ? scaled.add(bias.ref) : scaled;
  }
  gelu(x: Value): Value {
    return this.jax.nn.gelu(x.ref, { approximate: false });
  }
  silu(x: Value): Value {
    return this.jax.nn.silu(x.ref);
  }
  tanh(x: Value): Value {
    return this.jax.numpy.tanh(x.ref);
  }
  attention(q: Value, k: Value, v: Value, heads: number): Value {
    const [rows, width] = q.shape;
    const split = (x: Value) => x.ref.reshape([1, x.shape[0], heads, width / heads]);
    return this.jax.nn.dotProductAttention(split(q), split(k), split(v)).reshape([rows, width]);
  }
  columns(x: Value, from: number, to: number): Value {
    return x.ref.slice([], [from, to]);
  }
  gather(x: Value, rows: readonly number[]): Value {
    return x.ref.slice(this.jax.numpy.array(Int32Array.from(rows)));
  }
  concat(parts: readonly Value[]): Value {
    return this.jax.numpy.concatenate(
      parts.map(({ ref }) => ref),
      0,
    );
  }
}
