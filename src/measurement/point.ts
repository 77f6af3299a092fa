/** Points of a sweep: one model, one way of sampling, one way of computing. */
import { EmigmError } from '../errors.ts';
import { axisPresets, type AxisPreset } from '../masking/axes.ts';
import type { ModelConfig } from '../models/config.ts';
import type { Stored } from '../ops/matmul_kernels.ts';
import { settingsOfAxes } from '../sampling/axes.ts';
import type { SampleSettings } from '../sampling/settings.ts';

/** What is measured. What is undefined is as the model file recommends, else as the defaults are. */
export interface Point {
  /** A model file, or an official size (`b-256`), which gets random weights. */
  model: string;
  /** A known model as a point on the axes of masked generation: mask schedule, counts, order, guidance, network. */
  preset?: AxisPreset;
  /** How weights of linear layers are stored; undefined: f16 on GPUs that have it, else f32. */
  stored?: Stored;
  /** Implementations by op, where not the device's first choice: `{ matmul: 'reference' }`. */
  kernel?: Readonly<Record<string, string>>;
  steps?: number;
  headSteps?: number | string;
  headSampler?: SampleSettings['headSampler'];
  cfg?: number;
  cfgInterval?: readonly [number, number];
  /** Images at once. */
  batch: number;
}

/** Values of each field to measure; every combination is a point. */
export type Axes = { readonly [Field in keyof Point]-?: readonly Point[Field][] };

/** Every combination; the fields that are named first vary slowest. */
export function points(axes: Axes): Point[] {
  const fields = Object.keys(axes) as (keyof Point)[];
  let all: Partial<Point>[] = [{}];
  for (const field of fields) all = all.flatMap((point) => axes[field].map((value) => ({ ...point, [field]: value })));
  const found = new Map(all.map((point) => [pointId(point as Point), point as Point]));
  return [...found.values()];
}

/** `matmul=reference+attention=reference`; `default` for the device's own choice. */
export function rungName(kernel: Point['kernel']): string {
  const names = Object.entries(kernel ?? {}).map(([op, variant]) => `${op}=${variant}`);
  return names.length > 0 ? names.join('+') : 'default';
}

/** What tells the point from all others in a file of measurements, and a person what it is. */
export function pointId(point: Point): string {
  const { model, preset, stored, kernel, steps, headSteps, headSampler, cfg, cfgInterval, batch } = point;
  const parts = [
    model.split(/[\\/]/).at(-1)!,
    preset,
    stored,
    kernel && Object.keys(kernel).length > 0 ? rungName(kernel) : undefined,
    steps && `steps=${steps}`,
    headSteps && `head=${headSteps}`,
    headSampler,
    cfg !== undefined && `cfg=${cfg}`,
    cfgInterval && `interval=${cfgInterval.join('..')}`,
    `batch=${batch}`,
  ];
  return parts.filter(Boolean).join(' ');
}

/**
 * How a preset samples, as sampling settings.
 * @throws EmigmError 'input' for presets that draw codes: the sampler draws continuous tokens
 */
export function presetSettings(preset: AxisPreset): Partial<SampleSettings> {
  const axes = axisPresets[preset];
  if (axes.conditional !== 'diffusion') {
    const usable = Object.entries(axisPresets).filter(([, one]) => one.conditional === 'diffusion');
    throw new EmigmError(
      'input',
      `preset ${preset} draws codes of a codebook; latency is measured for ${usable.map(([name]) => name).join(', ')}`,
    );
  }
  return settingsOfAxes(axes);
}

/** The preset's network of the same size; weights are random then. */
export function presetConfig(config: ModelConfig, preset: AxisPreset): ModelConfig {
  const { network, unconditional } = axisPresets[preset];
  return { ...config, mae: network === 'mae', maskGuidance: unconditional === 'mask' };
}

/** The settings that the point asks for itself, above its preset's. */
export function askedOf({ preset, steps, headSteps, headSampler, cfg, cfgInterval }: Point): Partial<SampleSettings> {
  return {
    ...(preset && presetSettings(preset)),
    steps,
    headSteps,
    headSampler,
    cfg,
    cfgInterval: cfgInterval && [...cfgInterval],
  };
}
