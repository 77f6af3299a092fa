/** Errors of one sampling setting. */
import { EmigmError } from '../errors.ts';
import type { SampleSettings } from './settings.ts';

/** Finds the name of the setting in the message of a `settingError`, which may stand in a longer one. */
export const SETTING = /sampling settings: ([a-z]\w*): /i;

/** An error of kind 'input' that names the setting first. */
export function settingError(name: keyof SampleSettings, what: string, cause?: unknown): EmigmError {
  return new EmigmError('input', `sampling settings: ${name}: ${what}`, { cause });
}
