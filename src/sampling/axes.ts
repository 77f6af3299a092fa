/** The axes of masked generation in sampling: which a model was trained on, and the settings that follow from them. */
import { type Axes, type AxisPreset, axisPresets, overrideAxes, resolveAxes } from '../masking/axes.ts';
import { named } from '../masking/named.ts';
import type { ModelInfo } from '../models/info.ts';
import type { SampleSettings } from './settings.ts';

/** What the code of each model samples with besides the axes; guidance is a matter of the trained weights. */
const presetSampling: Readonly<Record<AxisPreset, Partial<SampleSettings>>> = {
  // Chang et al. 2022, section 4: 8 steps.
  maskgit: { steps: 8, cfgInterval: [0, 1] },
  mdm: { steps: 64, cfgInterval: [0, 1] },
  // LTH14/mar, main_mar.py: --num_iter 64 --num_sampling_steps 100.
  mar: { steps: 64, headSampler: 'ddpm', headSteps: 100, cfgInterval: [0, 1] },
  emigm: { steps: 16, headSampler: 'dpm-solver', headSteps: 8, cfgInterval: [0.1, 0.3] },
};

/** The sampling settings among the axes; the noise of the order where there is any. */
export function settingsOfAxes(point: Axes): Partial<SampleSettings> {
  const { samplingSchedule, counts, order, choiceTemperature, guidanceSchedule } = point;
  const settings = { maskSchedule: samplingSchedule, counts, order, cfgSchedule: guidanceSchedule };
  return order === 'confidence' ? { ...settings, choiceTemperature } : settings;
}

/** How the model of a preset samples: its axes, its numbers of steps. @throws EmigmError 'input' for an unknown one */
export function presetSettings(preset: string): Partial<SampleSettings> {
  const axes = named<Axes>(axisPresets, preset, 'preset');
  return { ...presetSampling[preset as AxisPreset], ...settingsOfAxes(axes) };
}

/** What a model's file tells of its axes. */
export type AxesSource = Pick<ModelInfo, 'preset' | 'axes' | 'sampling'>;

/** Settings that a model's file recommends: those of its axes, then those that it names. */
export function recommendedSettings({ preset, axes, sampling }: AxesSource): Partial<SampleSettings> {
  return {
    ...(preset !== undefined && presetSettings(preset)),
    ...(axes && settingsOfAxes(resolveAxes(preset ?? 'emigm', axes, 'axes of the model file'))),
    ...(sampling as Partial<SampleSettings> | undefined),
  };
}

/** The axes that a model was trained on: what its file says, else eMIGM's on this network. */
export function modelAxes(config: { mae: boolean; maskGuidance: boolean }, info: AxesSource): Axes {
  const known = {
    samplingSchedule: info.sampling?.maskSchedule,
    guidanceSchedule: info.sampling?.cfgSchedule,
    network: config.mae ? 'mae' : 'single',
    unconditional: config.maskGuidance ? 'mask' : 'fake-class',
  };
  // Without axes in the file the schedule that it recommends is the one it was trained with.
  const schedule = info.axes || info.preset ? undefined : info.sampling?.maskSchedule;
  const where = 'axes of the model file';
  return overrideAxes(resolveAxes(info.preset ?? 'emigm', { ...known, schedule }, where), info.axes ?? {}, where);
}

/** The axes of a run: the model's, with the settings that it samples with. */
export function axesOfRun(model: Axes, settings: SampleSettings): Axes {
  const { maskSchedule: samplingSchedule, counts, order, choiceTemperature, cfgSchedule: guidanceSchedule } = settings;
  return overrideAxes(model, { samplingSchedule, counts, order, choiceTemperature, guidanceSchedule }, 'settings');
}
