/** Points of a sweep: one model, one way of sampling, one way of computing. */
import { EmigmError } from '../errors.ts';
import { axisPresets, type AxisPreset } from '../masking/axes.ts';
import { type ModelConfig, presets } from '../models/config.ts';
import type { DiscreteConfig } from '../models/discrete/config.ts';
import type { Stored } from '../ops/matmul_kernels.ts';
import { settingsOfAxes } from '../sampling/axes.ts';
import type { SampleSettings } from '../sampling/settings.ts';

/** What is measured. What is undefined is as the model file recommends, else as the defaults are. */
export interface Point {
  /** A model file, or an official size (`b-256`), which gets random weights. */
  model: string;
  /** A known model as a point on the axes of masked generation: mask schedule, counts, order, guidance, network. */
  preset?: AxisPreset;
  /** Codes of the random codebook, for sizes with a preset that draws codes; undefined: 1024. */
  codes?: number;
  /** How weights of linear layers are stored; undefined: f16 on GPUs that have it, else f32. */
  stored?: Stored;
  /** Implementations by op, where not the device's first choice: `{ matmul: 'reference' }`. */
  kernel?: Readonly<Record<string, string>>;
  steps?: number;
  headSteps?: number | string;
  headSampler?: SampleSettings['headSampler'];
  cfg?: number;
  cfgInterval?: readonly [number, number];
  /** Savings, see docs/savings.md. */
  headStepsLast?: number;
  shareEarly?: number;
  reuseEncoder?: number;
  counts?: SampleSettings['counts'];
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

/** Fields of models with a diffusion head alone. */
const HEAD_FIELDS = ['headSampler', 'headSteps', 'headStepsLast', 'shareEarly', 'reuseEncoder'] as const;

/**
 * The combinations of one model, a file or a size. Where codes are drawn there is no diffusion head: what is for models
 * with one makes no further points; nor do sizes of a codebook where it is the file's, or there is none.
 * @throws EmigmError 'input' when a preset draws the other kind of tokens than the file's network
 */
export function modelPoints(axes: Axes, fileDrawsCodes: boolean): Point[] {
  return axes.model.flatMap((model) =>
    axes.preset.flatMap((preset) => {
      const isSize = presets[model] !== undefined;
      if (!isSize) checkPreset({ model, preset }, fileDrawsCodes);
      const ofCodes = fileDrawsCodes || (preset !== undefined && drawsCodes(preset));
      return points({
        ...axes,
        ...{ model: [model], preset: [preset] },
        ...(!(isSize && ofCodes) && { codes: [undefined] }),
        ...(ofCodes && Object.fromEntries(HEAD_FIELDS.map((field) => [field, [undefined]]))),
      });
    }),
  );
}

/** `matmul=reference+attention=reference`; `default` for the device's own choice. */
export function rungName(kernel: Point['kernel']): string {
  const names = Object.entries(kernel ?? {}).map(([op, variant]) => `${op}=${variant}`);
  return names.length > 0 ? names.join('+') : 'default';
}

/** What tells the point from all others in a file of measurements, and a person what it is. */
export function pointId(point: Point): string {
  const { model, preset, codes, stored, kernel, steps, headSteps, headSampler, cfg, cfgInterval, batch } = point;
  const { headStepsLast, shareEarly, reuseEncoder, counts } = point;
  const parts = [
    model.split(/[\\/]/).at(-1)!,
    preset,
    codes && `codes=${codes}`,
    stored,
    kernel && Object.keys(kernel).length > 0 ? rungName(kernel) : undefined,
    steps && `steps=${steps}`,
    headSteps && `head=${headSteps}`,
    headStepsLast && `head-last=${headStepsLast}`,
    headSampler,
    cfg !== undefined && `cfg=${cfg}`,
    cfgInterval && `interval=${cfgInterval.join('..')}`,
    shareEarly && `share-early=${shareEarly}`,
    reuseEncoder && `reuse-encoder=${reuseEncoder}`,
    counts && `counts=${counts}`,
    `batch=${batch}`,
  ];
  return parts.filter(Boolean).join(' ');
}

/** Codes of MaskGIT's VQ-GAN (Chang et al. 2022, section 4), and the pixels of a side that one stands for. */
const CODES = 1024;
const CODE_STRIDE = 16;

/** Whether the preset draws codes of a codebook. */
export const drawsCodes = (preset: AxisPreset): boolean => axisPresets[preset].conditional === 'categorical';

/** How a preset samples, as sampling settings. */
export const presetSettings = (preset: AxisPreset): Partial<SampleSettings> => settingsOfAxes(axisPresets[preset]);

/** The network of a size that gets random weights: the preset's, of codes where it draws codes. */
export function sizeConfig(
  size: ModelConfig,
  { preset, codes = CODES }: Pick<Point, 'preset' | 'codes'>,
): ModelConfig | DiscreteConfig {
  if (!preset) return size;
  const { network, unconditional } = axisPresets[preset];
  const config = { ...size, mae: network === 'mae', maskGuidance: unconditional === 'mask' };
  if (!drawsCodes(preset)) return config;
  const { headDepth: _, headWidth: __, ...trunk } = config;
  return { ...trunk, vaeStride: CODE_STRIDE, patchSize: 1, codes };
}

/** A file's network is as it is: @throws EmigmError 'input' when the preset draws the other kind of tokens */
export function checkPreset({ model, preset }: Pick<Point, 'model' | 'preset'>, isDiscrete: boolean): void {
  if (!preset || drawsCodes(preset) === isDiscrete) return;
  const name = model.split(/[\\/]/).at(-1)!;
  const kinds = isDiscrete ? 'continuous tokens' : 'codes';
  const those = Object.keys(axisPresets).filter((one) => drawsCodes(one as AxisPreset) === isDiscrete);
  throw new EmigmError(
    'input',
    `preset ${preset} draws ${kinds}, ${name} ${isDiscrete ? 'codes' : 'continuous tokens'}: take --preset ${those.join(' or ')} ` +
      `with this file, or a size with random weights, such as --model b-256`,
  );
}

/** The settings that the point asks for itself, above its preset's. */
export function askedOf(point: Point): Partial<SampleSettings> {
  const { preset, steps, headSteps, headSampler, cfg, cfgInterval } = point;
  const { headStepsLast, shareEarly, reuseEncoder, counts } = point;
  const asked = { steps, headSteps, headSampler, cfg, headStepsLast, shareEarly, reuseEncoder, counts };
  const given = Object.entries(asked).filter(([, value]) => value !== undefined);
  return {
    ...(preset && presetSettings(preset)),
    ...Object.fromEntries(given),
    ...(cfgInterval && { cfgInterval: [...cfgInterval] }),
  };
}
