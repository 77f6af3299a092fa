/** This engine, as its models use it: recorded once, replayed. */
import { versions } from '../../src/cli/versions.ts';
import { EmigmError } from '../../src/errors.ts';
import type { Device } from '../../src/gpu/device.ts';
import { openDevice } from '../../src/ops/open_device.ts';
import type { Program, Recorder } from '../../src/gpu/recorder.ts';
import { Session } from '../../src/gpu/session.ts';
import type { Tensor } from '../../src/gpu/tensor.ts';
import { randomWeights } from '../../src/measurement/random_weights.ts';
import { Emigm } from '../../src/models/emigm.ts';
import { block, loadBlock } from '../../src/nn/block.ts';
import { conditionEmbedding, headNoise, loadHead } from '../../src/nn/head.ts';
import { WeightLoader } from '../../src/nn/weights.ts';
import { activation } from '../../src/ops/activation.ts';
import { attention } from '../../src/ops/attention.ts';
import { layernorm } from '../../src/ops/layernorm.ts';
import { createLinear, destroyLinear, linear } from '../../src/ops/matmul.ts';
import { BatchSampler } from '../../src/sampling/batch.ts';
import { HeadSampler } from '../../src/sampling/head_sampler.ts';
import { planBatch } from '../../src/sampling/plan.ts';
import { addTrunk, IndexList, trunkIndices } from '../../src/sampling/indices.ts';
import type { Matrices, Matrix } from './ops.ts';
import type { Peer, Prepared } from './peer.ts';
import { samplingConfig, samplingSettings } from './sampling.ts';
import { CLASS, CONFIG, networkRows, type Workload } from './workloads.ts';

type Stored = 'f32' | 'f16';

/** A kernel that is measured alone is done so often a submit: in a model others stand beside it. */
const REPEATS = 16;
const isKernel = ({ kind }: Workload): boolean => kind === 'matmul' || kind === 'attention';

/** Records the work on tensors of its inputs and returns the output. */
type Recording = (r: Recorder, inputs: Readonly<Record<string, Tensor>>) => Tensor;

interface Loaded {
  record: Recording;
  free(): void;
}

/** @throws EmigmError 'adapter' for f16 weights on CPU drivers and on adapters without them */
export async function openEmigm(
  adapter: string | undefined,
  stored: Stored,
  variants?: Readonly<Record<string, string>>,
): Promise<Peer> {
  const device = await openDevice({ adapter, variants });
  if (stored === 'f16' && (device.isCpu || !device.hasF16)) {
    throw new EmigmError('adapter', `f16 weights are for GPUs that have f16, not for ${device.name}`);
  }
  return {
    device: `${device.name} (${device.driver})`,
    versions: versions(),
    prepare: async (work) =>
      work.kind === 'sampling'
        ? sampling(device, work, stored)
        : replay(device, work, await LOAD[work.kind](device, work, stored), stored),
  };
}

async function replay(device: Device, work: Workload, { record, free }: Loaded, stored: Stored): Promise<Prepared> {
  const session = new Session(device);
  const inputs: Record<string, Tensor> = {};
  // As between the layers of a block.
  const dtype = isKernel(work) ? stored : 'f32';
  for (const [name, { rows, columns }] of Object.entries(work.inputs()))
    inputs[name] = device.tensor([rows, columns], dtype, name);
  let output: Tensor | undefined;
  const program = session.record(work.name, (r) => {
    output = record(r, inputs);
  });
  await session.prepare();
  const repeats = isKernel(work) ? REPEATS : 1;
  let repeated: Program | undefined;
  return {
    resident: async (count) => {
      if (!repeated) {
        repeated = session.record(`${work.name}, ${repeats} times`, (r) => {
          for (let i = 0; i < repeats; i++) record(r, inputs);
        });
        await session.prepare();
      }
      for (let i = 0; i < count; i++) session.run(repeated);
      await device.done();
      return count * repeats;
    },
    run: async (given: Matrices) => {
      for (const [name, { data }] of Object.entries(given)) device.write(inputs[name], data);
      session.run(program);
      return device.read(output!);
    },
    release: () => {
      session.dispose();
      for (const tensor of Object.values(inputs)) tensor.destroy();
      free();
    },
  };
}

/** A whole run, as `emigm sample` does it. */
async function sampling(device: Device, work: Workload, stored: Stored): Promise<Prepared> {
  const config = samplingConfig(work);
  const network = await Emigm.load(device, config, randomWeights(config), { stored });
  const settings = samplingSettings();
  const images = Array.from({ length: work.sizes.batch }, (_, i) => i);
  const input = planBatch(network, settings, images, images);
  const sampler = new BatchSampler(network, input, { seed: settings.seed, head: new HeadSampler(settings) });
  await sampler.prepare();
  return {
    run: async () => {
      sampler.load(input);
      sampler.begin();
      for (let step = 0; step < sampler.stepCount; step++) sampler.step(step);
      return sampler.images();
    },
    release: () => {
      sampler.dispose();
      network.dispose();
    },
  };
}

/** [inputs, outputs] as PyTorch and the engine have it. */
function asLinear({ rows, columns, data }: Matrix): Float32Array {
  const out = new Float32Array(data.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = data[i * columns + j];
  return out;
}

const loaderOf = (device: Device, stored: Stored) => new WeightLoader(device, randomWeights(CONFIG), stored);

const LOAD: Record<
  Exclude<Workload['kind'], 'sampling'>,
  (device: Device, work: Workload, stored: Stored) => Promise<Loaded>
> = {
  async matmul(device, work, stored) {
    const { k, n } = work.sizes;
    const layer = createLinear(device, 'w', [n, k], asLinear((await work.parameters()).w), undefined, { stored });
    return { record: (r, { x }) => linear(r, x, layer, { dtype: stored }), free: () => destroyLinear(layer) };
  },

  async attention(_, { sizes: { rows, width, heads } }) {
    const slice = (tensor: Tensor) => ({ tensor, stride: width, offset: 0 });
    const shape = { batch: 1, heads, headDim: width / heads, queries: rows, keys: rows };
    return {
      record: (r, { q, k, v }) => attention(r, slice(q), slice(k), slice(v), shape),
      free: () => {},
    };
  },

  async block(device, { sizes: { rows, width, heads } }, stored) {
    const loader = loaderOf(device, stored);
    const weights = await loadBlock(loader, 'encoder_blocks.0', width, heads);
    return {
      record: (r, { x }) => {
        block(r, x, weights, 1, rows);
        return x;
      },
      free: () => loader.destroy(),
    };
  },

  async tiny(_, { sizes: { count, columns } }) {
    return {
      record: (r, { x }) => {
        let y = x;
        for (let i = 0; i < count; i++) y = activation(r, 'tanh', y, columns);
        return y;
      },
      free: () => {},
    };
  },

  async norms(_, { sizes: { count, columns } }) {
    return {
      record: (r, { x }) => {
        let y = x;
        for (let i = 0; i < count; i++) y = layernorm(r, y, columns, {});
        return y;
      },
      free: () => {},
    };
  },

  async head(device, _, stored) {
    const loader = loaderOf(device, stored);
    const { headDepth: depth, headWidth: width, channels } = CONFIG;
    const head = await loadHead(loader, 'diffloss.net.', { depth, width, tokenDim: channels });
    return {
      record: (r, { x, condition, time }) => headNoise(r, head, x, condition, { embeddings: time, index: 0 }, false),
      free: () => loader.destroy(),
    };
  },

  async network(device, _, stored) {
    const network = await Emigm.load(device, CONFIG, randomWeights(CONFIG), { stored });
    const { visible, everywhere } = networkRows();
    const list = new IndexList();
    const { shape, offsets } = addTrunk(list, CONFIG, [{ classRow: CLASS, image: 0, visible, asked: everywhere }]);
    const index = device.tensor([list.values.length], 'u32', 'indices', list.values);
    return {
      record: (r, { tokens, time, x }) => {
        const at = trunkIndices(index, offsets);
        const z = network.decode(r, network.encode(r, tokens, at, shape), at, shape);
        const condition = conditionEmbedding(r, network.head, z);
        return headNoise(r, network.head, x, condition, { embeddings: time, index: 0 }, false);
      },
      free: () => {
        network.dispose();
        index.destroy();
      },
    };
  },
};
