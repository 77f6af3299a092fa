/** Blocks of a DC-AE, channels last: residual block, EfficientViT block, and the resampling between stages. */
import type { Recorder } from '../../gpu/recorder.ts';
import type { Tensor } from '../../gpu/tensor.ts';
import { type ConvLoader, loadConv } from '../../nn/conv_blocks.ts';
import { type Conv, type ConvActivation, conv } from '../../ops/conv.ts';
import { createDepthwiseGlu, type DepthwiseGlu, depthwiseGlu } from '../../ops/depthwise_glu.ts';
import type { Norm } from '../../ops/layernorm.ts';
import { linearAttention } from '../../ops/linear_attention.ts';
import { type Linear, linear } from '../../ops/matmul.ts';
import { pixelShuffle, pixelUnshuffle } from '../../ops/pixel_shuffle.ts';
import { rmsNorm } from '../../ops/rms_norm.ts';
import type { Seen } from '../observer.ts';
import { DC_AE_HEAD, type DcAeStage } from './config.ts';
import { foldBatchNorm, loadConvParts, loadPointwise } from './weights.ts';

/** x + norm(conv2(activation(conv1 x))); a batch norm is part of conv2. (ResBlock) */
export interface DcAeResidual {
  kind: 'residual';
  conv1: Conv;
  activation: ConvActivation;
  conv2: Conv;
  norm?: Norm;
}

/** x + norm(proj(attention(qkv x))), then the same with a GLU mobile convolution. (EfficientViTBlock) */
export interface DcAeAttention {
  kind: 'attention';
  qkv: Linear;
  /** Further tokens out of q, k and v: a depthwise convolution, then one by heads. (aggreg) */
  aggregate: { depthwise: Conv; heads: Conv }[];
  proj: Linear;
  projNorm: Norm;
  expand: Linear;
  gated: DepthwiseGlu;
  project: Linear;
  projectNorm: Norm;
}

export type DcAeLayer = DcAeResidual | DcAeAttention;

/** The block by its official names under `name`. */
export async function loadBlock(from: ConvLoader, name: string, stage: DcAeStage, scales: number): Promise<DcAeLayer> {
  if (stage.block === 'residual') return loadResidual(from, `${name}.main`, stage.norm);
  const { load, source } = from;
  const context = `${name}.context_module.main`;
  const local = `${name}.local_module.main`;
  const aggregate: DcAeAttention['aggregate'] = [];
  for (let i = 0; i < scales; i++) {
    aggregate.push({
      depthwise: await loadConv(from, `${context}.aggreg.${i}.0`, { bias: false, groups: 3 * stage.width }),
      heads: await loadConv(from, `${context}.aggreg.${i}.1`, { bias: false, groups: (3 * stage.width) / DC_AE_HEAD }),
    });
  }
  const depth = `${local}.depth_conv.conv`;
  const [weight, bias] = [await source.read(`${depth}.weight`), await source.read(`${depth}.bias`)];
  const gated = createDepthwiseGlu(load.device, depth, weight, bias);
  load.adopt(gated.weight);
  load.adopt(gated.bias);
  return {
    kind: 'attention',
    qkv: await loadPointwise(from, `${context}.qkv.conv`, { bias: false }),
    aggregate,
    proj: await loadPointwise(from, `${context}.proj.conv`, { bias: false }),
    projNorm: await load.norm(`${context}.proj.norm`),
    expand: await loadPointwise(from, `${local}.inverted_conv.conv`),
    gated,
    project: await loadPointwise(from, `${local}.point_conv.conv`, { bias: false }),
    projectNorm: await load.norm(`${local}.point_conv.norm`),
  };
}

async function loadResidual(from: ConvLoader, name: string, norm: DcAeStage['norm']): Promise<DcAeResidual> {
  const conv1 = await loadConv(from, `${name}.conv1.conv`);
  const second = `${name}.conv2.conv`;
  if (norm === 'batch') {
    const source = foldBatchNorm(from.source, second, `${name}.conv2.norm`);
    return { kind: 'residual', conv1, activation: 'relu', conv2: await loadConv({ ...from, source }, second) };
  }
  return {
    kind: 'residual',
    conv1,
    activation: 'silu',
    conv2: await loadConv(from, second, { bias: false }),
    norm: await from.load.norm(`${name}.conv2.norm`),
  };
}

/** The block's output for x[batch, height, width, channels], of the same shape. */
export function runBlock(r: Recorder, x: Tensor, block: DcAeLayer, name: string, seen: Seen): Tensor {
  if (block.kind === 'attention') {
    const mixed = seen(`${name}.context_module`, mixPixels(r, x, block, `${name}.context_module`, seen));
    return seen(`${name}.local_module`, mobileConv(r, mixed, block));
  }
  const { conv1, activation, conv2, norm } = block;
  const hidden = conv(r, x, conv1, { activation });
  if (!norm) return conv(r, hidden, conv2, { residual: x });
  return rmsNorm(r, conv(r, hidden, conv2), norm, { residual: x });
}

function mixPixels(r: Recorder, x: Tensor, block: DcAeAttention, name: string, seen: Seen): Tensor {
  const [batch, height, width, channels] = x.shape;
  const { qkv, aggregate, proj, projNorm } = block;
  const heads = channels / DC_AE_HEAD;
  const out = r.temp([batch, height, width, channels * (1 + aggregate.length)], 'f32', 'linear attention out');
  const first = r.temp([batch, height, width, 3 * channels], 'f32', 'q, k and v');
  seen(`${name}.main.qkv`, linear(r, x, qkv, { out: first }));
  linearAttention(r, first, { out: { tensor: out, head: 0 } });
  aggregate.forEach((layer, i) => {
    const further = conv(r, conv(r, first, layer.depthwise), layer.heads);
    linearAttention(r, further, { out: { tensor: out, head: (i + 1) * heads } });
  });
  return rmsNorm(r, linear(r, out, proj), projNorm, {
    residual: x,
    out: r.temp(x.shape, 'f32', 'attention block out'),
  });
}

function mobileConv(r: Recorder, x: Tensor, { expand, gated, project, projectNorm }: DcAeAttention): Tensor {
  const [batch, height, width] = x.shape;
  const hidden = r.temp([batch, height, width, 2 * gated.channels], 'f32', 'mobile convolution hidden');
  linear(r, x, expand, { activation: 'silu', out: hidden });
  const projected = linear(r, depthwiseGlu(r, hidden, gated), project);
  return rmsNorm(r, projected, projectNorm, { residual: x, out: r.temp(x.shape, 'f32', 'mobile convolution out') });
}

/** Half the side: unshuffled convolution, plus averages of the unshuffled input. */
export interface Downsample {
  conv: Conv;
  channels: number;
}

/** Twice the side: shuffled convolution, plus the shuffled repeated input. The convolution may be in parts. */
export interface Upsample {
  parts: Conv[];
  channels: number;
}

/** The convolution `name`.main.conv.conv, whose result has `channels` after pixels went into channels. */
export async function loadDownsample(from: ConvLoader, name: string, channels: number): Promise<Downsample> {
  return { conv: await loadConv(from, `${name}.main.conv.conv`), channels };
}

/** The convolution `name`.main.conv.conv, whose result has `channels` after channels went into pixels. */
export async function loadUpsample(from: ConvLoader, name: string, channels: number): Promise<Upsample> {
  return { parts: await loadConvParts(from, `${name}.main.conv.conv`, 4), channels };
}

/** [batch, height / 2, width / 2, channels] of x[batch, height, width, inputs]. */
export function downsample(r: Recorder, x: Tensor, { conv: layer, channels }: Downsample): Tensor {
  return pixelUnshuffle(r, conv(r, x, layer), channels, { shortcut: x });
}

/** [batch, 2 height, 2 width, channels] of x[batch, height, width, inputs]. */
export function upsample(r: Recorder, x: Tensor, { parts, channels }: Upsample): Tensor {
  const made = parts.map((part) => conv(r, x, part));
  return pixelShuffle(r, made, channels, { shortcut: x });
}
