/** Made-up reports, for tests of what is written of them. */
import type { NfeReport, Row } from '../../src/measurement/schema.ts';
import { pointId } from '../../src/measurement/point.ts';

/** Times grow with the steps; `speed` makes another adapter. */
export function madeRow(steps: number, batch: number, speed = 1): Row {
  const total = (batch * (0.1 + 0.02 * steps)) / speed;
  const summary = (seconds: number) => ({
    median: seconds,
    spread: 0.04,
    samples: [seconds, 0.98 * seconds, 1.03 * seconds],
  });
  const flops = 1e9 * steps * batch;
  const kernel = (name: string, share: number) => {
    return {
      kernel: name,
      op: name,
      part: 'encoder',
      dispatches: 4,
      seconds: share * total,
      flops: share * flops,
      bytes: 1e8,
    };
  };
  return {
    id: pointId({ model: 'b-256', steps, batch }),
    model: { name: 'b-256', weights: 'random', parameters: 2e8, imageSize: 256, tokens: 256 },
    stored: 'f16',
    kernel: 'default',
    settings: { steps, headSteps: 8, headSampler: 'dpm-solver', cfg: 4, cfgInterval: [0.1, 0.3] },
    batch,
    nfe: steps + 2,
    headEvaluations: 2048 * batch,
    dispatches: 100 * steps,
    flops,
    bytes: 1e8 * steps,
    work: { encoder: { flops, bytes: 1e8 * steps } },
    prepare: 0.2,
    memory: { weights: 4e8, activations: 1e8 * batch },
    seconds: {
      anImage: summary(total / batch),
      firstImage: summary(total),
      batch: summary(total),
      host: summary(total / 50),
    },
    parts: { encoder: 0.3 * total, decoder: 0.4 * total, head: 0.2 * total, rest: 0.05 * total, idle: 0.05 * total },
    flopsPerSecond: flops / total,
    bytesPerSecond: (1e8 * steps) / total,
    shareOfPeak: flops / total / 1e12,
    process: 1e9,
    kernels: [kernel('matmul/tiled', 0.7), kernel('attention/flash', 0.2), kernel('norm/layernorm', 0.1)],
  };
}

export function madeReport(adapter: string, rows: Row[]): NfeReport {
  return {
    format: 'emigm-nfe',
    version: 1,
    date: '2026-01-02T03:04:05Z',
    command: 'emigm bench nfe',
    machine: { adapter, driver: 'driver <1>', isCpu: false, cpu: '2 x CPU', versions: { 'emigm-wgsl': '0.1.0' } },
    peak: {
      flops: { perSecond: 1e12, size: 4096, stored: 'f16', kernel: 'matmul/tiled' },
      bytes: { perSecond: 1e11, size: 2 ** 26 },
    },
    repeats: 3,
    rows,
  };
}
