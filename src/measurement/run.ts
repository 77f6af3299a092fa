/** One timed run of a point, and what is known of it without a clock. */
import { EmigmError } from '../errors.ts';
import { Session } from '../gpu/session.ts';
import { parameterCounts } from '../models/config.ts';
import { discreteParameterCount, isDiscrete } from '../models/discrete/config.ts';
import { decodeFloats } from '../sampling/decode.ts';
import { rungName } from './point.ts';
import type { KernelTime, PointFacts, RunSeconds } from './schema.ts';
import type { Prepared } from './workbench.ts';

/**
 * Draws the point's batch once, as `sampleBatches` does: a submit a step, waiting for each. Seconds, see docs/nfe.md.
 * @throws EmigmError 'aborted', 'numeric' when an image is not finite
 */
export async function timedRun(prepared: Prepared, signal?: AbortSignal): Promise<RunSeconds> {
  const { model, sampler, timer } = prepared;
  const { device, tokenizer } = model;
  const start = performance.now();
  const seconds = (from: number) => (performance.now() - from) / 1000;
  prepared.load();
  const began = performance.now();
  sampler.begin(timer);
  let host = seconds(began);
  for (let step = 0; step < sampler.stepCount; step++) {
    if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
    const submit = performance.now();
    sampler.step(step, timer);
    host += seconds(submit);
    await device.done();
  }
  const latents = await sampler.images();
  const drawn = seconds(began);
  let firstImage = seconds(start);
  const onDevice = (await timer?.read()) ?? {};
  if (!latents.every(Number.isFinite)) throw new EmigmError('numeric', 'an image is not finite');
  const parts: Record<string, number> = {};
  if (timer) {
    const busy = Object.values(onDevice).reduce((sum, part) => sum + part, 0);
    Object.assign(parts, onDevice, { idle: Math.max(0, drawn - busy) });
  }
  let decode = 0;
  if (tokenizer) {
    const each = latents.length / prepared.point.batch;
    const images = Array.from({ length: prepared.point.batch }, (_, i) => latents.slice(i * each, (i + 1) * each));
    const decoding = performance.now();
    let first: number | undefined;
    const info = { ...model.info };
    for await (const _ of decodeFloats({ config: model.config, info }, tokenizer, images, signal)) {
      first ??= seconds(decoding);
    }
    decode = seconds(decoding);
    firstImage += first ?? 0;
    parts.decode = decode;
  }
  return { total: drawn + decode, firstImage, host, parts };
}

/** Everything about a point but its times. */
export function factsOf({ point, model, settings, sampler, seconds }: Prepared): PointFacts {
  const { config, isRandom, network, name, info } = model;
  const parts: Record<string, { flops: number; bytes: number }> = {};
  for (const { dispatches } of sampler.allPrograms) {
    for (const { part, flops, bytes } of dispatches) {
      parts[part] ??= { flops: 0, bytes: 0 };
      parts[part].flops += flops;
      parts[part].bytes += bytes;
    }
  }
  const { seed, headSteps, headSampler, headStepsLast, ...rest } = settings;
  const ofCodes = isDiscrete(config);
  const head = ofCodes ? undefined : { headSteps, headSampler, headStepsLast };
  const sum = (field: 'flops' | 'bytes') => Object.values(parts).reduce((total, part) => total + part[field], 0);
  return {
    model: {
      name: info.name ?? name.split(/[\\/]/).at(-1)!,
      weights: isRandom ? 'random' : 'file',
      parameters: ofCodes ? discreteParameterCount(config) : parameterCounts(config).total,
      imageSize: config.imageSize,
      tokens: network.sequenceLength,
      codes: ofCodes ? config.codes : undefined,
      tokenizer: model.tokenizer?.kind,
    },
    preset: point.preset,
    stored: network.stored,
    kernel: rungName(point.kernel),
    settings: { ...head, ...rest, seed: Number(seed) },
    batch: point.batch,
    nfe: sampler.nfe,
    headEvaluations: ofCodes ? 0 : sampler.headEvaluations,
    dispatches: sampler.dispatches,
    flops: sum('flops'),
    bytes: sum('bytes'),
    work: parts,
    prepare: seconds,
    memory: { weights: model.bytes, activations: sampler.memory.total },
  };
}

/**
 * Device time of every kernel over a whole batch, by part, the slowest first. Each dispatch is timed by itself, so that
 * the sum is somewhat more than an ordinary run takes. Undefined where the adapter has no timestamps.
 */
export async function kernelTimes(prepared: Prepared, signal?: AbortSignal): Promise<KernelTime[] | undefined> {
  const { sampler, model } = prepared;
  if (!model.device.hasTimestamps) return undefined;
  const session = new Session(model.device, { nanGuard: false });
  prepared.load();
  const found = new Map<string, KernelTime>();
  for (const program of sampler.allPrograms) {
    if (signal?.aborted) throw new EmigmError('aborted', 'stopped');
    for (const { op, part, kernel, seconds, flops, bytes } of await session.profile(program)) {
      const key = `${kernel} ${op} ${part}`;
      const row = found.get(key) ?? { kernel, op, part, dispatches: 0, seconds: 0, flops: 0, bytes: 0 };
      row.dispatches++;
      row.seconds += seconds;
      row.flops += flops;
      row.bytes += bytes;
      found.set(key, row);
    }
  }
  return [...found.values()].sort((a, b) => b.seconds - a.seconds);
}
