/** tfjs-backend-webgpu. It has no graph: every operation is called each time, as its layers do. */
import { installBrowser, require } from './dawn.ts';
import type { Matrices, Ops } from './ops.ts';
import type { Peer, PeerOptions } from './peer.ts';

interface Tensor {
  shape: readonly number[];
  data(): Promise<Float32Array>;
  dispose(): void;
}

/** As much of the package as is used. */
interface Tf {
  setBackend(name: string): Promise<boolean>;
  ready(): Promise<void>;
  tidy(run: () => Tensor): Tensor;
  tensor(data: Float32Array, shape: readonly number[]): Tensor;
  tensor1d(data: readonly number[], type: 'int32'): Tensor;
  matMul(a: Tensor, b: Tensor, transposeA?: boolean, transposeB?: boolean): Tensor;
  add(a: Tensor, b: Tensor | number): Tensor;
  sub(a: Tensor, b: Tensor): Tensor;
  mul(a: Tensor, b: Tensor | number): Tensor;
  moments(x: Tensor, axis: number, keepDims: boolean): { mean: Tensor; variance: Tensor };
  rsqrt(x: Tensor): Tensor;
  erf(x: Tensor): Tensor;
  sigmoid(x: Tensor): Tensor;
  tanh(x: Tensor): Tensor;
  softmax(x: Tensor): Tensor;
  reshape(x: Tensor, shape: readonly number[]): Tensor;
  transpose(x: Tensor, order: readonly number[]): Tensor;
  slice(x: Tensor, begin: readonly number[], size: readonly number[]): Tensor;
  gather(x: Tensor, rows: Tensor): Tensor;
  concat(parts: readonly Tensor[], axis: number): Tensor;
  version_core: string;
}

export async function openTfjs(options: PeerOptions): Promise<Peer> {
  const device = await installBrowser(options);
  const tf = require('@tensorflow/tfjs-core') as Tf;
  require('@tensorflow/tfjs-backend-webgpu');
  await tf.setBackend('webgpu');
  await tf.ready();
  return {
    device,
    versions: { '@tensorflow/tfjs-backend-webgpu': tf.version_core },
    prepare: async (work) => {
      const put = ({ rows, columns, data }: Matrices[string]) => tf.tensor(data, [rows, columns]);
      const parameters = mapValues(await work.parameters(), put);
      return {
        run: async (given) => {
          const inputs = mapValues(given, put);
          const output = tf.tidy(() => work.build(new TfjsOps(tf, inputs, parameters)));
          const data = await output.data();
          for (const tensor of [output, ...Object.values(inputs)]) tensor.dispose();
          return data;
        },
        release: () => {
          for (const tensor of Object.values(parameters)) tensor.dispose();
        },
      };
    },
  };
}

export function mapValues<A, B>(record: Readonly<Record<string, A>>, map: (value: A) => B): Record<string, B> {
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [name, map(value)]));
}

type Tensors = Readonly<Record<string, Tensor>>;

class TfjsOps implements Ops<Tensor> {
  private readonly tf: Tf;
  private readonly inputs: Tensors;
  private readonly parameters: Tensors;

  constructor(tf: Tf, inputs: Tensors, parameters: Tensors) {
    this.tf = tf;
    this.inputs = inputs;
    this.parameters = parameters;
  }

  input(name: string): Tensor {
    return this.inputs[name];
  }
  parameter(name: string): Tensor {
    return this.parameters[name];
  }
  matmul(x: Tensor, weight: Tensor): Tensor {
    return this.tf.matMul(x, weight);
  }
  add(a: Tensor, b: Tensor): Tensor {
    return this.tf.add(a, b);
  }
  multiply(a: Tensor, b: Tensor): Tensor {
    return this.tf.mul(a, b);
  }
  layerNorm(x: Tensor, weight?: Tensor, bias?: Tensor): Tensor {
    const { tf } = this;
    const { mean, variance } = tf.moments(x, -1, true);
    const normal = tf.mul(tf.sub(x, mean), tf.rsqrt(tf.add(variance, 1e-6)));
    const scaled = weight ? tf.mul(normal, weight) : normal;
    return bias ? tf.add(scaled, bias) : scaled;
  }
  gelu(x: Tensor): Tensor {
    const { tf } = this;
    return tf.mul(tf.mul(x, 0.5), tf.add(tf.erf(tf.mul(x, Math.SQRT1_2)), 1));
  }
  silu(x: Tensor): Tensor {
    return this.tf.mul(x, this.tf.sigmoid(x));
  }
  tanh(x: Tensor): Tensor {
    return this.tf.tanh(x);
  }
  attention(q: Tensor, k: Tensor, v: Tensor, heads: number): Tensor {
    const { tf } = this;
    const [rows, width] = q.shape;
    const size = width / heads;
    const split = (x: Tensor) => tf.transpose(tf.reshape(x, [x.shape[0], heads, size]), [1, 0, 2]);
    const scores = tf.matMul(tf.mul(split(q), 1 / Math.sqrt(size)), split(k), false, true);
    return tf.reshape(tf.transpose(tf.matMul(tf.softmax(scores), split(v)), [1, 0, 2]), [rows, width]);
  }
  columns(x: Tensor, from: number, to: number): Tensor {
    return this.tf.slice(x, [0, from], [x.shape[0], to - from]);
  }
  gather(x: Tensor, rows: readonly number[]): Tensor {
    return this.tf.gather(x, this.tf.tensor1d(rows, 'int32'));
  }
  concat(parts: readonly Tensor[]): Tensor {
    return this.tf.concat(parts, 0);
  }
}
