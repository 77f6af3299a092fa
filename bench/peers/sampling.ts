/** Whole sampling runs of the official sizes: the same steps, guidance and head solver for every peer. */
import { dpmSolverPlan } from '../../src/diffusion/dpm_solver.ts';
import { gridSize, type ModelConfig, presets } from '../../src/models/config.ts';
import { planBatch } from '../../src/sampling/plan.ts';
import { resolveSettings } from '../../src/sampling/settings.ts';
import type { Workload } from './workloads.ts';

const SIZES = ['b-256', 'l-256', 'h-256'];

export const samplingConfig = ({ sizes }: Workload): Readonly<ModelConfig> => presets[SIZES[sizes.model]];

/** The engine's defaults, which are the official settings: 16 steps. */
export const samplingSettings = () => resolveSettings({});

/** What is known before the run: tokens revealed in each step, its guidance, the head solver's evaluations. */
export function samplingPlan(work: Workload) {
  const config = samplingConfig(work);
  const { batch } = work.sizes;
  const settings = samplingSettings();
  const grid = gridSize(config) ** 2;
  const model = { config, sequenceLength: grid, unconditional: config.classes };
  const images = Array.from({ length: batch }, (_, i) => i);
  const { steps } = planBatch(model as Parameters<typeof planBatch>[0], settings, images, images);
  return {
    batch,
    grid,
    steps: steps.map(({ positions, guidance }) => [positions[0].length, guidance ?? null] as const),
    solver: dpmSolverPlan(Number(settings.headSteps)),
  };
}

export function samplingWork(model: number, batch: number): Workload {
  return {
    name: `sampling ${SIZES[model]}, 16 steps, batch ${batch}`,
    kind: 'sampling',
    forGpus: true,
    sizes: { model, batch },
    flops: 0,
    inputs: () => ({}),
    parameters: async () => ({}),
    build: () => {
      throw new Error('whole sampling runs are written for PyTorch alone');
    },
  };
}
