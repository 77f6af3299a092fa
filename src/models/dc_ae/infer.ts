/** The configuration of a DC-AE from the shapes of its state dict. */
import { EmigmError } from '../../errors.ts';
import { checkShapes, type Shapes } from '../shapes.ts';
import { borderConv, type DcAeConfig, type DcAeStage, dcAeShapes, isUnread } from './config.ts';

/**
 * The configuration that a state dict's shapes tell.
 * @throws EmigmError 'model' when a tensor is missing, has another shape than the rest asks for, or does not belong
 */
export function inferDcAe(shapes: Shapes, file: string): DcAeConfig {
  const size = (name: string, dim: number): number => {
    const value = shapes.get(name)?.[dim];
    if (value === undefined) throw new EmigmError('model', `${file}: no DC-AE autoencoder: tensor ${name} is missing`);
    return value;
  };
  const halved = shapes.has(`${borderConv('encoder', true)}.weight`);
  const [encoder, decoder] = (['encoder', 'decoder'] as const).map((half) => inferStages(shapes, half));
  const inner = size('encoder.project_out.main.op_list.0.conv.weight', 1);
  const config: DcAeConfig = {
    encoder: withLast(encoder, inner),
    decoder: withLast(decoder, size('decoder.project_in.main.conv.weight', 0)),
    channels: size('decoder.project_in.main.conv.weight', 1),
    image: size(`${borderConv('encoder', halved)}.weight`, 1),
    scales: inferScales(shapes),
  };
  checkStages(config, file);
  checkShapes(dcAeShapes(config), shapes, { file, network: 'DC-AE', isOptional: isUnread });
  return config;
}

function inferStages(shapes: Shapes, half: 'encoder' | 'decoder'): DcAeStage[] {
  const found: DcAeStage[] = [];
  for (const name of shapes.keys()) {
    const [, stage, index, rest] = /^(\w+\.stages\.\d+)\.op_list\.(\d+)\.(.+)$/.exec(name) ?? [];
    if (!stage?.startsWith(`${half}.`)) continue;
    const number = Number(stage.split('.')[2]);
    // The sizes of a file may be anything: no more stages than an image has halvings.
    if (number > 16 || Number(index) > 1000) continue;
    // A stage that resamples has another after it, with blocks or without.
    const stages = number + (rest === 'main.conv.conv.weight' ? 2 : 1);
    while (found.length < stages) found.push({ width: 0, depth: 0, block: 'residual', norm: 'rms' });
    const at = found[number];
    if (rest === 'main.conv2.conv.weight') {
      found[number] = { ...at, width: shapes.get(name)![0], depth: at.depth + 1 };
    } else if (rest === 'context_module.main.qkv.conv.weight') {
      found[number] = { ...at, width: shapes.get(name)![1], depth: at.depth + 1, block: 'attention' };
    } else if (rest === 'main.conv2.norm.running_mean') {
      found[number] = { ...at, norm: 'batch' };
    }
  }
  return found;
}

/** The last stage has the width of the projection beside it, whether it has blocks or not. */
const withLast = (found: readonly DcAeStage[], width: number): DcAeStage[] => {
  return found.map((stage, i) => (i === found.length - 1 ? { ...stage, width } : stage));
};

function inferScales(shapes: Shapes): number[] {
  const scales: number[] = [];
  for (const [name, shape] of shapes) {
    const index = /^encoder\..*\.context_module\.main\.aggreg\.(\d+)\.0\.weight$/.exec(name)?.[1];
    if (index !== undefined && Number(index) < 16) scales[Number(index)] = shape[2];
  }
  return Array.from(scales, (side) => side ?? 0);
}

/** @throws EmigmError 'model' for stages that no DC-AE has */
function checkStages({ encoder, decoder, channels }: DcAeConfig, file: string): void {
  const refuse = (why: string) => new EmigmError('model', `${file}: no DC-AE autoencoder: ${why}`);
  if (encoder.length < 2 || encoder.length !== decoder.length) {
    throw refuse(`${encoder.length} stages in the encoder, ${decoder.length} in the decoder`);
  }
  for (const [half, list] of Object.entries({ encoder, decoder })) {
    const last = list.length - 1;
    list.forEach(({ width, depth, block }, s) => {
      if (depth === 0 && s > 0 && s < last) throw refuse(`${half}.stages.${s} has no blocks`);
      if (depth === 0 && s === 0) return;
      const unit = block === 'attention' ? 32 : 4;
      if (width === 0 || width % unit !== 0)
        throw refuse(`${half}.stages.${s} has ${width} channels, not times ${unit}`);
      if (s === last || list[s + 1].width === 0) return;
      // The shortcuts average or repeat whole groups of channels.
      const few = list[s + 1].width;
      if ((4 * width) % few !== 0) throw refuse(`${4 * width} channels of ${half}.stages.${s} are no groups of ${few}`);
    });
    if (list[last].width % channels !== 0 || channels % 4 !== 0) {
      throw refuse(`${list[last].width} channels are no groups of ${channels}, a multiple of 4`);
    }
  }
}
