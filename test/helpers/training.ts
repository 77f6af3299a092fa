/** Training cases of golden files: the parameters, the micro-batch and the indices on the device. */
import type { Device } from '../../src/gpu/device.ts';
import { configFromArgs, type ModelConfig, tokenDim } from '../../src/models/config.ts';
import { layOutMicroBatch, type MicroBatch } from '../../src/training/micro_batch.ts';
import type { Golden } from './golden.ts';
import { goldenSource } from './model.ts';

export interface TrainingCase {
  golden: Golden;
  /** Before the names of the case's own tensors: `` or `case.exp.w0.m1.`. */
  prefix: string;
  config: ModelConfig;
  schedule: string;
  weighting: 'uniform' | 'elbo';
  repeats: number;
}

/** The cases of a train_* file: one, or one for each `case.<strategy>.w<0|1>.m<n>.` */
export function trainingCases(golden: Golden): TrainingCase[] {
  const args = golden.meta('config');
  const config = configFromArgs(args);
  const names = golden.names().filter((name) => name.endsWith('imgs'));
  return names.map((name) => {
    const prefix = name.slice(0, -'imgs'.length);
    const of = /^case\.(.+)\.w([01])\.m(\d+)\.$/.exec(prefix);
    // What the metadata leaves out follows from the sizes: rows of the head's batch over tokens.
    const repeats = golden.shape(`${prefix}t`)[0] / golden.f32(`${prefix}mask`).length;
    const weighted = of ? of[2] === '1' : args.use_weighted_loss === true;
    return {
      golden,
      prefix,
      config,
      schedule: of ? of[1] : args.mask_strategy,
      weighting: weighted ? 'elbo' : 'uniform',
      repeats,
    };
  });
}

/** The case's micro-batch, with the head's rows of every token or of the masked ones alone. */
export function goldenMicroBatch(one: TrainingCase, allRows: boolean): MicroBatch {
  const { golden, prefix, config, schedule, weighting, repeats } = one;
  const p = golden.f32(`${prefix}p_mask`);
  const labels = golden.get(`${prefix}labels`) as Int32Array;
  return layOutMicroBatch(config, {
    labels,
    dropped: golden.f32(`${prefix}label_drop`),
    mask: golden.f32(`${prefix}mask`),
    p: Array.from(labels, (_, i) => p[(i * p.length) / labels.length]),
    schedule,
    weighting,
    repeats,
    allRows,
  });
}

/** Rows of the file's head batch [repeats, images, tokens] that the micro-batch has, in its order. */
export function headRows({ repeats, golden, prefix }: TrainingCase, { targets }: MicroBatch): number[] {
  const tokens = golden.f32(`${prefix}mask`).length;
  return Array.from({ length: repeats }, (_, m) => Array.from(targets, (at) => m * tokens + at)).flat();
}

export function rowsOf(values: ArrayLike<number>, rows: readonly number[], width: number): Float32Array {
  return Float32Array.from(
    { length: rows.length * width },
    (_, i) => values[rows[Math.floor(i / width)] * width + (i % width)],
  );
}

export { goldenSource, tokenDim };
export type { Device };
