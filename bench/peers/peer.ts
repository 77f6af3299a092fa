/** What a peer is to the benchmark, and the list of them. */
import type { Hosting } from './dawn.ts';
import type { Matrices } from './ops.ts';
import type { Workload } from './workloads.ts';

/** A piece of work, its parameters in place and compiled as far as the peer does that. */
export interface Prepared {
  /** Takes the inputs from the host and returns the result to the host. */
  run(inputs: Matrices): Promise<Float32Array>;
  /**
   * Runs so many times on the inputs of the last `run`, its results staying on the device, and waits for the last; where
   * the peer can. Returns how often the work was done.
   */
  resident?(count: number): Promise<number>;
  release(): void | Promise<void>;
}

export interface Peer {
  /** What it runs on, in its own words. */
  device: string;
  versions: Record<string, string>;
  prepare(work: Workload): Promise<Prepared>;
}

export interface PeerOptions {
  adapter?: string;
  hosting: Hosting;
}

export interface PeerDescription {
  name: string;
  /** Runs on the adapter that is asked for; else on the CPU by itself. */
  onAdapter: boolean;
  /** npm package that has to be there. */
  needs?: string;
  /** Flags of the child process. */
  flags?: readonly string[];
  /** In half precision: compared with this engine's f16 rows, and by the tolerance of f16. */
  half?: boolean;
  open?(options: PeerOptions): Promise<Peer>;
  /** Flags of pytorch.py, for the peers that it is. */
  python?: readonly string[];
}

export const PEERS: readonly PeerDescription[] = [
  {
    name: 'emigm',
    onAdapter: true,
    open: async ({ adapter }) => (await import('./emigm.ts')).openEmigm(adapter, 'f32'),
  },
  {
    name: 'emigm f16',
    onAdapter: true,
    half: true,
    open: async ({ adapter }) => (await import('./emigm.ts')).openEmigm(adapter, 'f16'),
  },
  {
    // The rung below, where `emigm f16` multiplies on matrix units.
    name: 'emigm f16 tiled',
    onAdapter: true,
    half: true,
    open: async ({ adapter }) => {
      const variants = { matmul: 'tiled_vec4', attention: 'flash' };
      return (await import('./emigm.ts')).openEmigm(adapter, 'f16', variants);
    },
  },
  {
    name: 'onnxruntime-web WebGPU',
    onAdapter: true,
    needs: 'onnxruntime-web',
    // Its 26 MB of WebAssembly only drive the device: baseline code does, and no compiler disturbs for a minute.
    flags: ['--liftoff-only'],
    open: async (options) => (await import('./onnxruntime.ts')).openWeb(options),
  },
  {
    name: 'tfjs WebGPU',
    onAdapter: true,
    needs: '@tensorflow/tfjs-backend-webgpu',
    open: async (options) => (await import('./tfjs.ts')).openTfjs(options),
  },
  {
    name: 'jax-js jit',
    onAdapter: true,
    needs: '@jax-js/jax',
    flags: ['--stack-size=4000'], // tracing recurses once for every operation
    open: async (options) => (await import('./jax.ts')).openJax(options),
  },
  {
    name: 'onnxruntime-node WebGPU',
    onAdapter: true,
    needs: 'onnxruntime-node',
    open: async ({ adapter }) => (await import('./onnxruntime.ts')).openNode('webgpu', adapter),
  },
  {
    name: 'onnxruntime-node CPU',
    onAdapter: false,
    needs: 'onnxruntime-node',
    open: async () => (await import('./onnxruntime.ts')).openNode('cpu'),
  },
  { name: 'PyTorch eager', onAdapter: false, python: ['--mode', 'eager'] },
  { name: 'PyTorch autocast', onAdapter: false, half: true, python: ['--mode', 'autocast'] },
  { name: 'PyTorch compile', onAdapter: false, half: true, python: ['--mode', 'compile'] },
];

/** A package of this folder's own package.json, without its types: the product is checked where it is not installed. */
export async function load<T>(name: string): Promise<T> {
  return (await import(name)) as T;
}
