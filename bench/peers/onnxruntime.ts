/** onnxruntime: in WebAssembly on Node's Dawn, and natively with its own Dawn or on the CPU. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { openAdapter } from '../../src/gpu/node.ts';
import { installBrowser } from './dawn.ts';
import { OnnxWriter } from './onnx_writer.ts';
import type { Matrices, Ops } from './ops.ts';
import { load, type Peer, type PeerOptions } from './peer.ts';
import type { Workload } from './workloads.ts';

interface OrtTensor {
  getData(): Promise<Float32Array>;
  dispose(): void;
}
interface OrtSession {
  outputNames: readonly string[];
  run(feeds: Record<string, OrtTensor>): Promise<Record<string, OrtTensor>>;
  release(): Promise<void>;
}
interface Ort {
  env: { wasm: { numThreads: number }; logLevel: string };
  Tensor: new (type: 'float32', data: Float32Array, shape: readonly number[]) => OrtTensor;
  InferenceSession: { create(model: Uint8Array, options: Record<string, unknown>): Promise<OrtSession> };
}

/** Folder of an installed package. */
function packageOf(name: string): string {
  const [before] = createRequire(import.meta.url)
    .resolve(name)
    .split(join('node_modules', name));
  return join(before, 'node_modules', name);
}
const versionOf = (name: string): string =>
  JSON.parse(readFileSync(join(packageOf(name), 'package.json'), 'utf8')).version;

/** The WebAssembly build (its WebGPU backend is the native one, compiled), on the adapter asked for. */
export async function openWeb(options: PeerOptions): Promise<Peer> {
  const device = await installBrowser(options);
  const file = join(packageOf('onnxruntime-web'), 'dist', 'ort.webgpu.mjs');
  const ort = await load<Ort>(pathToFileURL(file).href);
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = 'error';
  return peer(ort, device, { 'onnxruntime-web': versionOf('onnxruntime-web') }, { executionProviders: ['webgpu'] });
}

/** The native build. Its WebGPU backend brings its own Dawn, which opens the Vulkan driver that the adapter names. */
export async function openNode(backend: 'webgpu' | 'cpu', adapter?: string): Promise<Peer> {
  let device = 'CPU, 2 threads';
  if (backend === 'webgpu') {
    // Opening names the driver in the environment, and loads the Vulkan loader for both Dawns.
    const { info } = (await openAdapter(adapter)).adapter;
    device = info.description || info.device || info.vendor;
  }
  const ort = await load<Ort>('onnxruntime-node');
  const threads = backend === 'cpu' ? { intraOpNumThreads: 2 } : {};
  const options = { executionProviders: [{ name: backend }], logSeverityLevel: 3, ...threads };
  return peer(ort, device, { 'onnxruntime-node': versionOf('onnxruntime-node') }, options);
}

function peer(ort: Ort, device: string, versions: Record<string, string>, options: Record<string, unknown>): Peer {
  return {
    device,
    versions,
    prepare: async (work) => {
      const model = await onnxModel(work);
      const session = await ort.InferenceSession.create(model, { graphOptimizationLevel: 'all', ...options });
      return {
        run: async (inputs) => {
          const feeds = Object.entries(inputs).map(([name, { rows, columns, data }]) => {
            return [name, new ort.Tensor('float32', data, [rows, columns])] as const;
          });
          const output = (await session.run(Object.fromEntries(feeds)))[session.outputNames[0]];
          return output.getData();
        },
        release: () => session.release(),
      };
    },
  };
}

/** The work as an ONNX file. */
export async function onnxModel(work: Workload): Promise<Uint8Array> {
  const writer = new OnnxWriter();
  const output = work.build(new OnnxOps(writer, work.inputs(), await work.parameters()));
  return writer.finish(output.name, [output.rows, output.columns]);
}

interface Value {
  name: string;
  rows: number;
  columns: number;
}

class OnnxOps implements Ops<Value> {
  private readonly writer: OnnxWriter;
  private readonly inputs: Matrices;
  private readonly parameters: Matrices;
  private readonly made = new Map<string, Value>();

  constructor(writer: OnnxWriter, inputs: Matrices, parameters: Matrices) {
    this.writer = writer;
    this.inputs = inputs;
    this.parameters = parameters;
  }

  private once(name: string, make: () => Value): Value {
    let value = this.made.get(name);
    if (!value) this.made.set(name, (value = make()));
    return value;
  }

  input(name: string): Value {
    const { rows, columns } = this.inputs[name];
    return this.once(`input ${name}`, () => ({ name: this.writer.input(name, [rows, columns]), rows, columns }));
  }
  parameter(name: string): Value {
    const { rows, columns, data } = this.parameters[name];
    const shape = rows === 1 ? [columns] : [rows, columns];
    return this.once(name, () => ({ name: this.writer.constant(shape, data), rows, columns }));
  }

  private integers(values: readonly number[]): string {
    return this.writer.constant([values.length], BigInt64Array.from(values, BigInt));
  }
  private same(x: Value, operator: string, inputs: readonly string[], attributes = {}): Value {
    return { ...x, name: this.writer.node(operator, inputs, attributes) };
  }

  matmul(x: Value, weight: Value): Value {
    return { name: this.writer.node('MatMul', [x.name, weight.name]), rows: x.rows, columns: weight.columns };
  }
  add(a: Value, b: Value): Value {
    return this.same(a, 'Add', [a.name, b.name]);
  }
  multiply(a: Value, b: Value): Value {
    return this.same(a, 'Mul', [a.name, b.name]);
  }
  layerNorm(x: Value, weight?: Value, bias?: Value): Value {
    const scale = weight?.name ?? this.writer.constant([x.columns], new Float32Array(x.columns).fill(1));
    const inputs = [x.name, scale, ...(bias ? [bias.name] : [])];
    return this.same(x, 'LayerNormalization', inputs, { axis: -1, epsilon: { float: 1e-6 } });
  }
  gelu(x: Value): Value {
    return this.same(x, 'Gelu', [x.name], { approximate: 'none' });
  }
  silu(x: Value): Value {
    return this.same(x, 'Mul', [x.name, this.writer.node('Sigmoid', [x.name])]);
  }
  tanh(x: Value): Value {
    return this.same(x, 'Tanh', [x.name]);
  }

  /** By plain operators: onnxruntime's fused MultiHeadAttention gives wrong numbers on CPU drivers. */
  attention(q: Value, k: Value, v: Value, heads: number): Value {
    const { writer } = this;
    const size = q.columns / heads;
    const split = (x: Value, perm: readonly number[]) => {
      const shaped = writer.node('Reshape', [x.name, this.integers([x.rows, heads, size])]);
      return writer.node('Transpose', [shaped], { perm });
    };
    const scale = writer.constant([1], Float32Array.of(1 / Math.sqrt(size)));
    const scaled = writer.node('Mul', [split(q, [1, 0, 2]), scale]);
    const scores = writer.node('MatMul', [scaled, split(k, [1, 2, 0])]);
    const mixed = writer.node('MatMul', [writer.node('Softmax', [scores], { axis: -1 }), split(v, [1, 0, 2])]);
    const merged = writer.node('Transpose', [mixed], { perm: [1, 0, 2] });
    return this.same(q, 'Reshape', [merged, this.integers([q.rows, q.columns])]);
  }

  columns(x: Value, from: number, to: number): Value {
    const bounds = [[from], [to], [1]].map((values) => this.integers(values)); // start, end, axis
    return { name: this.writer.node('Slice', [x.name, ...bounds]), rows: x.rows, columns: to - from };
  }
  gather(x: Value, rows: readonly number[]): Value {
    const name = this.writer.node('Gather', [x.name, this.integers(rows)], { axis: 0 });
    return { name, rows: rows.length, columns: x.columns };
  }
  concat(parts: readonly Value[]): Value {
    const matrices = parts.map((x) => {
      return x.rows > 1 ? x.name : this.writer.node('Reshape', [x.name, this.integers([1, x.columns])]);
    });
    const rows = parts.reduce((sum, x) => sum + x.rows, 0);
    return { name: this.writer.node('Concat', matrices, { axis: 0 }), rows, columns: parts[0].columns };
  }
}
