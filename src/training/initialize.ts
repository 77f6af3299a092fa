/** Initial values of the parameters, as the official `initialize_weights` of transformer and head draw them. */
import { HEAD_PREFIX, type ModelConfig, parameterShapes } from '../models/config.ts';
import type { WeightSource } from '../nn/weights.ts';
import { STREAMS, streamKey, threefry, type Words } from '../random.ts';

const TABLES = /^(fake_latent|mask_token|(class|token)_emb\.weight|\w+_pos_embed_learned)$/;
const ZERO = /(adaLN_modulation\.1|final_layer\.linear)\.weight$/;
const TIME = /time_embed\.mlp\.\d\.weight$/;
const DEVIATION = 0.02;

/**
 * Parameters drawn from (seed, position of the name in the state dict, element): embeddings and tokens normal(0, 0.02),
 * linear layers Xavier-uniform with zero bias, layer norms 1 and 0; in the head the time embedding normal(0, 0.02), and
 * zeros in the modulations and the last layer, so that it begins by predicting zero.
 */
export function initialParameters(config: ModelConfig, seed: number | bigint): WeightSource {
  return initialValues(parameterShapes(config), seed);
}

/** As `initialParameters`, of parameters with these names and shapes. */
export function initialValues(shapes: ReadonlyMap<string, readonly number[]>, seed: number | bigint): WeightSource {
  const order = [...shapes.keys()];
  return {
    shape: (name) => shapes.get(name)!,
    async read(name) {
      const shape = shapes.get(name)!;
      const size = shape.reduce((a, b) => a * b, 1);
      const key = streamKey(seed, STREAMS.initialization, order.indexOf(name));
      if (TABLES.test(name) || TIME.test(name)) return normalValues(key, size, DEVIATION);
      if (shape.length === 1) return new Float32Array(size).fill(name.endsWith('.weight') ? 1 : 0);
      if (name.startsWith(HEAD_PREFIX) && ZERO.test(name)) return new Float32Array(size);
      const [outputs, inputs] = shape;
      return glorotUniform(key, inputs, outputs);
    },
  };
}

const open = (word: number) => (word + 0.5) / 2 ** 32;

/** A weight [outputs, inputs] uniform within sqrt(6 / (inputs + outputs)) of zero (Glorot, Bengio 2010). */
export function glorotUniform(key: Words, inputs: number, outputs: number): Float32Array {
  const size = inputs * outputs;
  const bound = Math.sqrt(6 / (inputs + outputs));
  const values = new Float32Array(size);
  for (let i = 0; i < size; i += 2) {
    const [a, b] = threefry(key, [i >>> 1, 0]);
    values[i] = (2 * open(a) - 1) * bound;
    if (i + 1 < size) values[i + 1] = (2 * open(b) - 1) * bound;
  }
  return values;
}

/** Normal numbers, mean 0 (Box and Muller 1958). */
export function normalValues(key: Words, size: number, deviation: number): Float32Array {
  const values = new Float32Array(size);
  for (let i = 0; i < size; i += 2) {
    const [a, b] = threefry(key, [i >>> 1, 0]);
    const radius = deviation * Math.sqrt(-2 * Math.log(open(a)));
    values[i] = radius * Math.cos(2 * Math.PI * open(b));
    if (i + 1 < size) values[i + 1] = radius * Math.sin(2 * Math.PI * open(b));
  }
  return values;
}
