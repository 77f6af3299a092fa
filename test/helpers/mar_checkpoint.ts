/** A checkpoint as LTH14/mar saves it (util/misc.py, save_model), its weights by formula. */
import { formulaWeight } from './formula.ts';
import { integer, pickle, tensor, text, zipCheckpoint } from './torch_files.ts';

/** Sizes of MAR's constructor. Its class embedding has 1000 rows whatever class_num is. */
export interface MarSizes {
  width: number;
  depth: number;
  headWidth: number;
  headDepth: number;
  /** Tokens of an image, numbers a token, buffer slots. */
  tokens: number;
  token: number;
  buffer: number;
}

/** Name and shape of every parameter, in the order of models/mar.py and models/diffloss.py. */
export function marStateDict({ width: d, depth, headWidth: w, headDepth, tokens, token, buffer }: MarSizes) {
  const shapes = new Map<string, number[]>();
  const linear = (name: string, out: number, inputs: number) =>
    shapes.set(`${name}.weight`, [out, inputs]).set(`${name}.bias`, [out]);
  const norm = (name: string, width: number) => shapes.set(`${name}.weight`, [width]).set(`${name}.bias`, [width]);
  const blocks = (name: string) => {
    for (let i = 0; i < depth; i++) {
      norm(`${name}.${i}.norm1`, d);
      linear(`${name}.${i}.attn.qkv`, 3 * d, d);
      linear(`${name}.${i}.attn.proj`, d, d);
      norm(`${name}.${i}.norm2`, d);
      linear(`${name}.${i}.mlp.fc1`, 4 * d, d);
      linear(`${name}.${i}.mlp.fc2`, d, 4 * d);
    }
  };
  shapes.set('fake_latent', [1, d]);
  shapes.set('encoder_pos_embed_learned', [1, tokens + buffer, d]);
  shapes.set('mask_token', [1, 1, d]);
  shapes.set('decoder_pos_embed_learned', [1, tokens + buffer, d]);
  shapes.set('diffusion_pos_embed_learned', [1, tokens, d]);
  shapes.set('class_emb.weight', [1000, d]);
  linear('z_proj', d, token);
  norm('z_proj_ln', d);
  blocks('encoder_blocks');
  norm('encoder_norm', d);
  linear('decoder_embed', d, d);
  blocks('decoder_blocks');
  norm('decoder_norm', d);
  linear('diffloss.net.time_embed.mlp.0', w, 256);
  linear('diffloss.net.time_embed.mlp.2', w, w);
  linear('diffloss.net.cond_embed', w, d);
  linear('diffloss.net.input_proj', w, token);
  for (let i = 0; i < headDepth; i++) {
    norm(`diffloss.net.res_blocks.${i}.in_ln`, w);
    linear(`diffloss.net.res_blocks.${i}.mlp.0`, w, w);
    linear(`diffloss.net.res_blocks.${i}.mlp.2`, w, w);
    linear(`diffloss.net.res_blocks.${i}.adaLN_modulation.1`, 3 * w, w);
  }
  linear('diffloss.net.final_layer.linear', 2 * token, w);
  linear('diffloss.net.final_layer.adaLN_modulation.1', 2 * w, w);
  return shapes;
}

/** Gains of the formula: the trained weights, and their moving average, which differs in every matrix. */
export const MAR_GAINS = { model: 1, model_ema: 2 } as const;

/** The file with `model` and `model_ema`, and with the arguments of main_mar.py where there are any. */
export function marCheckpoint(shapes: ReadonlyMap<string, number[]>, args?: Record<string, string | number>) {
  const storages: Record<string, Uint8Array> = {};
  const value = (x: string | number) => (typeof x === 'string' ? text(x) : integer(x));
  const dict = (gain: number) => {
    const entries = [...shapes].map(([name, shape]) => {
      const key = `${gain}.${name}`;
      const values = formulaWeight(name, shape, gain);
      storages[key] = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      const stride = shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));
      return pickle(text(name), tensor(shape, stride, { key, length: values.length }));
    });
    return pickle('ccollections\nOrderedDict\n)R(', ...entries, 'u');
  };
  const parts = Object.entries(MAR_GAINS).map(([name, gain]) => pickle(text(name), dict(gain)));
  if (args) {
    const fields = Object.entries(args).map(([name, x]) => pickle(text(name), value(x)));
    parts.push(pickle(text('args'), 'cargparse\nNamespace\n)\x81}(', ...fields, 'ub'));
  }
  return zipCheckpoint(pickle('}(', ...parts, 'u'), storages);
}
