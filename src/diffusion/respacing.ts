/** Respacing: sampling with some of the steps that the diffusion head was trained on. */
import { EmigmError } from '../errors.ts';
import { cosineBetas, cumulativeAlphas, DIFFUSION_STEPS, type DiffusionTables, diffusionTables } from './betas.ts';

/**
 * The steps to keep, ascending (as space_timesteps of guided-diffusion, Dhariwal and Nichol, arXiv 2105.05233).
 * @param respacing '' all of them; '100' so many, evenly; '10,15,20' so many of each of three equal sections;
 *   'ddim25' so many, at the fixed integer stride of DDIM
 * @throws EmigmError('input') when the string cannot be met
 */
export function spacedTimesteps(respacing: string, total = DIFFUSION_STEPS): Int32Array {
  const text = respacing.trim();
  if (text === '') return Int32Array.from({ length: total }, (_, i) => i);
  if (text.startsWith('ddim')) return ddimTimesteps(text, total);
  const counts = text.split(',').map((part) => (/^\s*\d+\s*$/.test(part) ? Number(part) : Number.NaN));
  if (counts.some((count) => !(count >= 1))) {
    throw new EmigmError('input', `respacing "${respacing}" is not understood; write e.g. 100, 10,15,20 or ddim25`);
  }
  const steps: number[] = [];
  let start = 0;
  counts.forEach((count, section) => {
    const size = Math.floor(total / counts.length) + (section < total % counts.length ? 1 : 0);
    if (size < count) {
      throw new EmigmError(
        'input',
        `respacing "${respacing}" takes ${count} steps of a section of ${size}; take fewer`,
      );
    }
    const stride = count <= 1 ? 1 : (size - 1) / (count - 1);
    let at = 0;
    for (let i = 0; i < count; i++) {
      steps.push(start + roundHalfEven(at));
      at += stride;
    }
    start += size;
  });
  return Int32Array.from(new Set(steps)).sort();
}

function ddimTimesteps(text: string, total: number): Int32Array {
  const count = Number(text.slice('ddim'.length));
  for (let stride = 1; stride < total; stride++) {
    if (Math.ceil(total / stride) === count) return Int32Array.from({ length: count }, (_, i) => i * stride);
  }
  throw new EmigmError('input', `respacing "${text}": no integer stride takes ${text.slice(4)} of ${total} steps`);
}

/** Python's round: halves go to the even neighbour. */
function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  if (x - floor === 0.5) return floor % 2 === 0 ? floor : floor + 1;
  return Math.round(x);
}

export interface SpacedDiffusion extends DiffusionTables {
  /** [steps] the step of the trained process that each step stands for: the t given to the network. */
  timestepMap: Int32Array;
}

/** The process restricted to spaced steps: beta_i = 1 - alphaBar(step i) / alphaBar(step i - 1), cosine schedule. */
export function spacedDiffusion(respacing: string, total = DIFFUSION_STEPS): SpacedDiffusion {
  const bar = cumulativeAlphas(cosineBetas(total));
  const timestepMap = spacedTimesteps(respacing, total);
  const betas = Float64Array.from(timestepMap, (step, i) => 1 - bar[step] / (i === 0 ? 1 : bar[timestepMap[i - 1]]));
  return { ...diffusionTables(betas), timestepMap };
}
