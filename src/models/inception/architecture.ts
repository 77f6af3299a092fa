/**
 * Inception-v3 as FID uses it: the TensorFlow network of 2015-12-05 with 1008 classes, which torch-fidelity and
 * pytorch-fid ported. Names are theirs (and torchvision's). Szegedy et al. 2016, "Rethinking the Inception architecture".
 */

/** Pixels of a side that images are resized to. */
export const IMAGE_SIZE = 299;
export const CLASSES = 1008;
export const BATCH_NORM_EPS = 1e-3;

/** Convolution without bias, batch norm, ReLU. Padding keeps the size, unless there is none. */
export interface ConvStep {
  kind: 'conv';
  name: string;
  outputs: number;
  kernel: readonly [number, number];
  stride: 1 | 2;
  padded: boolean;
}
/** Windows of 3 x 3; of stride 1 with padding that counts for nothing, of stride 2 without. */
export interface PoolStep {
  kind: 'max' | 'mean';
  stride: 1 | 2;
}
/** Convolutions side by side, of one input; the end of a branch. */
export interface ForkStep {
  kind: 'fork';
  ends: readonly ConvStep[];
}
export type Step = ConvStep | PoolStep | ForkStep;

/** Branches of one input; their channels side by side are the output. */
export interface Block {
  name: string;
  branches: readonly (readonly Step[])[];
}

const conv = (name: string, outputs: number, rows = 1, columns = rows): ConvStep => {
  return { kind: 'conv', name, outputs, kernel: [rows, columns], stride: 1, padded: true };
};
/** 3 x 3, stride 2: halves the image. */
const halving = (name: string, outputs: number): ConvStep => ({ ...conv(name, outputs, 3), stride: 2, padded: false });
const unpadded = (step: ConvStep): ConvStep => ({ ...step, padded: false });
const mean: PoolStep = { kind: 'mean', stride: 1 };
const max: PoolStep = { kind: 'max', stride: 1 };
const halvingMax: PoolStep = { kind: 'max', stride: 2 };

/** 299 -> 73 pixels, 64 channels: feature `64`. */
export const STEM: readonly Step[] = [
  halving('Conv2d_1a_3x3', 32),
  unpadded(conv('Conv2d_2a_3x3', 32, 3)),
  conv('Conv2d_2b_3x3', 64, 3),
  halvingMax,
];
/** 73 -> 35 pixels, 192 channels: feature `192`. */
export const STEM_END: readonly Step[] = [
  conv('Conv2d_3b_1x1', 80),
  unpadded(conv('Conv2d_4a_3x3', 192, 3)),
  halvingMax,
];

/** 35 x 35. */
const blockA = (name: string, pooled: number): Block => ({
  name,
  branches: [
    [conv('branch1x1', 64)],
    [conv('branch5x5_1', 48), conv('branch5x5_2', 64, 5)],
    [conv('branch3x3dbl_1', 64), conv('branch3x3dbl_2', 96, 3), conv('branch3x3dbl_3', 96, 3)],
    [mean, conv('branch_pool', pooled)],
  ],
});

/** 17 x 17, convolutions of one row or one column. */
const blockC = (name: string, width: number): Block => ({
  name,
  branches: [
    [conv('branch1x1', 192)],
    [conv('branch7x7_1', width), conv('branch7x7_2', width, 1, 7), conv('branch7x7_3', 192, 7, 1)],
    [
      conv('branch7x7dbl_1', width),
      conv('branch7x7dbl_2', width, 7, 1),
      conv('branch7x7dbl_3', width, 1, 7),
      conv('branch7x7dbl_4', width, 7, 1),
      conv('branch7x7dbl_5', 192, 1, 7),
    ],
    [mean, conv('branch_pool', 192)],
  ],
});

/** 8 x 8. The last block pools by maximum, by a slip of the network that the weights were trained with. */
const blockE = (name: string, pool: PoolStep): Block => ({
  name,
  branches: [
    [conv('branch1x1', 320)],
    [conv('branch3x3_1', 384), fork(conv('branch3x3_2a', 384, 1, 3), conv('branch3x3_2b', 384, 3, 1))],
    [
      conv('branch3x3dbl_1', 448),
      conv('branch3x3dbl_2', 384, 3),
      fork(conv('branch3x3dbl_3a', 384, 1, 3), conv('branch3x3dbl_3b', 384, 3, 1)),
    ],
    [pool, conv('branch_pool', 192)],
  ],
});
function fork(...ends: ConvStep[]): ForkStep {
  return { kind: 'fork', ends };
}

/** To 17 x 17, 768 channels: feature `768`. */
export const BLOCKS: readonly Block[] = [
  blockA('Mixed_5b', 32),
  blockA('Mixed_5c', 64),
  blockA('Mixed_5d', 64),
  {
    name: 'Mixed_6a',
    branches: [
      [halving('branch3x3', 384)],
      [conv('branch3x3dbl_1', 64), conv('branch3x3dbl_2', 96, 3), halving('branch3x3dbl_3', 96)],
      [halvingMax],
    ],
  },
  blockC('Mixed_6b', 128),
  blockC('Mixed_6c', 160),
  blockC('Mixed_6d', 160),
  blockC('Mixed_6e', 192),
];
/** To 8 x 8, 2048 channels; their mean is feature `2048`, the one of FID. */
export const LAST_BLOCKS: readonly Block[] = [
  {
    name: 'Mixed_7a',
    branches: [
      [conv('branch3x3_1', 192), halving('branch3x3_2', 320)],
      [
        conv('branch7x7x3_1', 192),
        conv('branch7x7x3_2', 192, 1, 7),
        conv('branch7x7x3_3', 192, 7, 1),
        halving('branch7x7x3_4', 192),
      ],
      [halvingMax],
    ],
  },
  blockE('Mixed_7b', mean),
  blockE('Mixed_7c', max),
];

/** The convolution whose first 7 channels ADM's sFID takes: TensorFlow's `mixed_6/conv`, 17 x 17. */
export const SPATIAL_LAYER = 'Mixed_6d.branch1x1';
export const SPATIAL_CHANNELS = 7;

/** A convolution under its full name, with the channels that come in. */
export interface NamedConv extends ConvStep {
  inputs: number;
}

/** Every convolution, in the order of the network. */
export function convolutions(): NamedConv[] {
  const all: NamedConv[] = [];
  const walk = (steps: readonly Step[], prefix: string, inputs: number): number => {
    let channels = inputs;
    for (const step of steps) {
      if (step.kind === 'conv') {
        all.push({ ...step, name: prefix + step.name, inputs: channels });
        channels = step.outputs;
      } else if (step.kind === 'fork') {
        channels = step.ends.map((end) => walk([end], prefix, channels)).reduce((a, b) => a + b, 0);
      }
    }
    return channels;
  };
  let channels = walk([...STEM, ...STEM_END], '', 3);
  for (const { name, branches } of [...BLOCKS, ...LAST_BLOCKS]) {
    channels = branches.map((branch) => walk(branch, `${name}.`, channels)).reduce((a, b) => a + b, 0);
  }
  return all;
}

/** Name and shape of every parameter that is read. */
export function parameterShapes(): Map<string, readonly number[]> {
  const shapes = new Map<string, readonly number[]>();
  for (const { name, inputs, outputs, kernel } of convolutions()) {
    shapes.set(`${name}.conv.weight`, [outputs, inputs, ...kernel]);
    for (const part of ['weight', 'bias', 'running_mean', 'running_var']) shapes.set(`${name}.bn.${part}`, [outputs]);
  }
  shapes.set('fc.weight', [CLASSES, 2048]);
  shapes.set('fc.bias', [CLASSES]);
  return shapes;
}
