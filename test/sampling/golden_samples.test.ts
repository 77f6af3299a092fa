/** Whole trajectories of the official sampler, replayed from the recorded draws: sample_* files, every case in them. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { officialRevealPlan } from '../../src/masking/official_reveal.ts';
import { configFromArgs } from '../../src/models/config.ts';
import { Emigm } from '../../src/models/emigm.ts';
import { gatherRows } from '../../src/ops/tokens.ts';
import { type BatchInput, BatchSampler } from '../../src/sampling/batch.ts';
import { HeadSampler, type NoiseSource } from '../../src/sampling/head_sampler.ts';
import { describeGolden, expectClose } from '../helpers/golden.ts';
import { goldenSource } from '../helpers/model.ts';
import { replayDraws } from '../helpers/replay_draws.ts';

interface Case {
  bsz: number;
  num_iter: number;
  cfg: number;
  sched: string;
  temp: number;
  labels: number[] | null;
  sampling_algo: 'ddpm' | 'dpm-solver';
  num_sampling_steps: string;
  mask_strategy?: string;
  cfg_t_min: number;
  cfg_t_max: number;
}

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

describeGolden('sample_*', (golden) => {
  const config = golden.meta('config') as Record<string, unknown>;
  const cases = golden.meta('cases') as Record<string, Case>;
  let model: Emigm;
  beforeAll(async () => {
    model = await Emigm.load(device, configFromArgs(config), goldenSource(golden));
  });
  afterAll(() => model?.dispose());

  it.each(Object.keys(cases))('case %s', async (name) => {
    const settings = cases[name];
    const { bsz: batch, labels } = settings;
    const n = model.sequenceLength;
    const plan = officialRevealPlan(replayDraws(golden, `${name}.`, ['randn', 'randn_like']), {
      steps: settings.num_iter,
      schedule: settings.mask_strategy ?? String(config.mask_strategy),
      batch,
      seqLen: n,
      guidance: {
        cfg: settings.cfg,
        schedule: settings.sched,
        interval: [settings.cfg_t_min, settings.cfg_t_max],
      },
    });
    const input: BatchInput = {
      classRows: Array.from({ length: batch }, (_, i) => labels?.[i] ?? model.unconditional),
      imageIndices: Array.from({ length: batch }, (_, i) => i),
      steps: plan.steps.map(({ maskToPredict, guided, scale }) => ({
        positions: Array.from({ length: batch }, (_, i) => {
          return [...maskToPredict.subarray(i * n, (i + 1) * n).entries()].filter(([, on]) => on).map(([p]) => p);
        }),
        guidance: guided ? scale : undefined,
      })),
    };

    // All recorded noise in one tensor: row numbers of each draw by step and head step.
    const channels = model.tokenDim;
    const recorded: number[] = [];
    const starts = new Map<string, number>();
    for (const step of plan.steps.keys()) {
      const draws = golden
        .names(`${name}.step${String(step).padStart(3, '0')}.draw`)
        .filter((key) => /\.randn(_like)?$/.test(key))
        .sort((a, b) => (a < b ? -1 : 1));
      for (const [headStep, key] of draws.entries()) {
        starts.set(`${step} ${headStep}`, recorded.length / channels);
        recorded.push(...golden.f32(key));
      }
    }
    const noiseTensor = device.tensor([recorded.length / channels, channels], 'f32', 'recorded noise', recorded);
    const rows: number[] = [];
    const rowTensor = device.tensor([recorded.length * 4], 'u32', 'noise order');
    const noise: NoiseSource = (r, out, { step, headStep, first, count, copy }) => {
      const start = starts.get(`${step} ${headStep}`)! + first;
      const own = Array.from({ length: count }, (_, i) => start + i);
      const offset = rows.length;
      rows.push(...own, ...(copy ? own : []));
      gatherRows(r, noiseTensor, { tensor: rowTensor, offset }, copy ? 2 * count : count, channels, { out });
    };

    const head = new HeadSampler({
      headSampler: settings.sampling_algo,
      headSteps: settings.num_sampling_steps,
      temperature: settings.temp,
    });
    const sampler = new BatchSampler(model, input, { seed: 0, head, noise });
    device.write(rowTensor, rows);
    await sampler.prepare();
    sampler.load(input);
    sampler.begin();
    for (let step = 0; step < sampler.stepCount; step++) sampler.step(step);
    const latents = await sampler.images();

    // README: 1e-4 of the scale against float64, for DPM-Solver and for DDPM alike.
    const relative = 1e-4;
    expectClose(latents, golden.f64(`${name}.latents_f64`), { relative }, 'latents_f64');
    // The official float32 run: its solver schedule is float32 too, which moves samples by up to 2e-3.
    expectClose(latents, golden.f32(`${name}.latents`), { relative: 2e-3 }, 'latents');
    // What was run: steps, and as many guided ones as the official code ran.
    const guidedSteps = plan.steps.filter(({ guided }) => guided).length;
    expect(sampler.nfe).toBe(plan.steps.length + guidedSteps);
    sampler.dispose();
    noiseTensor.destroy();
    rowTensor.destroy();
  });
});
