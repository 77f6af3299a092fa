/** DC-AE in float64, plainly, out of the ops' oracles: for configurations that no golden file has. */
import type { DcAeConfig, DcAeStage } from '../../src/models/dc_ae/config.ts';
import { convOp } from '../../src/ops/conv_op.ts';
import { depthwiseGluOp } from '../../src/ops/depthwise_glu.ts';
import { linearAttentionOp } from '../../src/ops/linear_attention.ts';
import { pixelShuffleOp, pixelUnshuffleOp } from '../../src/ops/pixel_shuffle.ts';
import { rmsNormOp } from '../../src/ops/rms_norm.ts';

/** [batch, height, width, channels]. */
export interface OracleMap {
  data: Float64Array;
  batch: number;
  height: number;
  width: number;
  channels: number;
}

type Weights = (name: string) => Float64Array;
type Activation = 'none' | 'relu' | 'silu';

const silu = (v: number) => v / (1 + Math.exp(-v));
const activations = { none: (v: number) => v, relu: (v: number) => Math.max(v, 0), silu };

function conv(
  x: OracleMap,
  weights: Weights,
  name: string,
  { kernel = 3, bias = true, groups = 1, activation = 'none' as Activation } = {},
): OracleMap {
  const w = weights(`${name}.weight`);
  const { batch, height, width, channels: inputs } = x;
  const outputs = (w.length * groups) / kernel ** 2 / inputs;
  const problem = { batch, height, width, inputs, outputs, kernel, groups };
  const { y } = convOp.oracle({ x: x.data, w, ...(bias && { bias: weights(`${name}.bias`) }) }, problem);
  return { ...x, channels: outputs, data: y.map(activations[activation]) };
}

const pointwise = (x: OracleMap, weights: Weights, name: string, options: { bias?: boolean; groups?: number } = {}) =>
  conv(x, weights, name, { ...options, kernel: 1 });

function rms(x: OracleMap, weights: Weights, name: string, residual?: OracleMap, relu = false): OracleMap {
  const arrays = {
    x: x.data,
    weight: weights(`${name}.weight`),
    bias: weights(`${name}.bias`),
    ...(residual && { residual: residual.data }),
  };
  const { y } = rmsNormOp.oracle(arrays, { rows: x.data.length / x.channels, width: x.channels, relu });
  return { ...x, data: y };
}

function batchNorm(x: OracleMap, weights: Weights, name: string): OracleMap {
  const [gamma, beta, mean, variance] = ['weight', 'bias', 'running_mean', 'running_var'].map((part) =>
    weights(`${name}.${part}`),
  );
  const data = x.data.map((v, i) => {
    const c = i % x.channels;
    return ((v - mean[c]) / Math.sqrt(variance[c] + 1e-5)) * gamma[c] + beta[c];
  });
  return { ...x, data };
}

function unshuffle(x: OracleMap, channels: number, factor: number, shortcut?: OracleMap): OracleMap {
  const small = { batch: x.batch, height: x.height / factor, width: x.width / factor };
  const problem = { ...small, factor, channels, x: x.channels, ...(shortcut && { shortcut: shortcut.channels }) };
  const { y } = pixelUnshuffleOp.oracle({ x: x.data, ...(shortcut && { shortcut: shortcut.data }) }, problem);
  return { ...small, channels, data: y };
}

function shuffle(x: OracleMap, channels: number, factor: number, shortcut?: OracleMap): OracleMap {
  const { batch, height, width } = x;
  const sizes = { batch, height, width, factor, channels, x: x.channels };
  const problem = { ...sizes, ...(shortcut && { shortcut: shortcut.channels }) };
  const { y } = pixelShuffleOp.oracle({ x0: x.data, ...(shortcut && { shortcut: shortcut.data }) }, problem);
  return { batch, height: height * factor, width: width * factor, channels, data: y };
}

function block(x: OracleMap, weights: Weights, name: string, stage: DcAeStage, scales: readonly number[]): OracleMap {
  if (stage.block === 'residual') {
    const [first, second] = [`${name}.main.conv1.conv`, `${name}.main.conv2`];
    const hidden = conv(x, weights, first, { activation: stage.norm === 'batch' ? 'relu' : 'silu' });
    const made = conv(hidden, weights, `${second}.conv`, { bias: false });
    if (stage.norm === 'rms') return rms(made, weights, `${second}.norm`, x);
    const normal = batchNorm(made, weights, `${second}.norm`);
    return { ...x, data: normal.data.map((v, i) => v + x.data[i]) };
  }
  const context = `${name}.context_module.main`;
  const { batch, channels } = x;
  const pixels = x.height * x.width;
  const qkv = pointwise(x, weights, `${context}.qkv.conv`, { bias: false });
  const tokens = [qkv];
  scales.forEach((kernel, i) => {
    const depthwise = conv(qkv, weights, `${context}.aggreg.${i}.0`, { kernel, bias: false, groups: 3 * channels });
    const groups = (3 * channels) / 32;
    tokens.push(pointwise(depthwise, weights, `${context}.aggreg.${i}.1`, { bias: false, groups }));
  });
  const parts = tokens.map(({ data }) => {
    return linearAttentionOp.oracle({ qkv: data }, { batch, pixels, heads: channels / 32, headDim: 32 }).out;
  });
  const wide = channels * tokens.length;
  const mixed = Float64Array.from({ length: batch * pixels * wide }, (_, i) => {
    const [row, c] = [Math.floor(i / wide), i % wide];
    return parts[Math.floor(c / channels)][row * channels + (c % channels)];
  });
  const all = { ...x, channels: wide, data: mixed };
  const out = rms(pointwise(all, weights, `${context}.proj.conv`, { bias: false }), weights, `${context}.proj.norm`, x);
  const local = `${name}.local_module.main`;
  const expanded = pointwise(out, weights, `${local}.inverted_conv.conv`);
  const [w, bias] = ['weight', 'bias'].map((part) => weights(`${local}.depth_conv.conv.${part}`));
  const sizes = { batch, height: x.height, width: x.width, channels: 4 * channels };
  const gated = depthwiseGluOp.oracle({ x: expanded.data.map(silu), w, bias }, sizes).y;
  const projected = pointwise({ ...sizes, data: gated }, weights, `${local}.point_conv.conv`, { bias: false });
  return rms(projected, weights, `${local}.point_conv.norm`, out);
}

/** Latents of images, channels last. */
export function dcAeEncodeOracle(config: DcAeConfig, weights: Weights, images: OracleMap): OracleMap {
  const { encoder: stages, channels, scales } = config;
  let x =
    stages[0].depth > 0
      ? conv(images, weights, 'encoder.project_in.conv')
      : unshuffle(conv(images, weights, 'encoder.project_in.conv.conv'), stages[1].width, 2);
  stages.forEach((stage, s) => {
    const name = (i: number) => `encoder.stages.${s}.op_list.${i}`;
    for (let i = 0; i < stage.depth; i++) x = block(x, weights, name(i), stage, scales);
    if (stage.depth > 0 && s + 1 < stages.length) {
      x = unshuffle(conv(x, weights, `${name(stage.depth)}.main.conv.conv`), stages[s + 1].width, 2, x);
    }
  });
  return unshuffle(conv(x, weights, 'encoder.project_out.main.op_list.0.conv'), channels, 1, x);
}

/** Images of latents, channels last. */
export function dcAeDecodeOracle(config: DcAeConfig, weights: Weights, latents: OracleMap): OracleMap {
  const { decoder: stages, image, scales } = config;
  const entered = conv(latents, weights, 'decoder.project_in.main.conv');
  let x = shuffle(entered, entered.channels, 1, latents);
  for (let s = stages.length - 1; s >= 0; s--) {
    const stage = stages[s];
    const name = (i: number) => `decoder.stages.${s}.op_list.${i}`;
    const resamples = stage.depth > 0 && s + 1 < stages.length;
    if (resamples) x = shuffle(conv(x, weights, `${name(0)}.main.conv.conv`), stage.width, 2, x);
    for (let i = 0; i < stage.depth; i++) x = block(x, weights, name(i + (resamples ? 1 : 0)), stage, scales);
  }
  x = rms(x, weights, 'decoder.project_out.op_list.0', undefined, true);
  if (stages[0].depth > 0) return conv(x, weights, 'decoder.project_out.op_list.2.conv');
  return shuffle(conv(x, weights, 'decoder.project_out.op_list.2.conv.conv'), image, 2);
}
