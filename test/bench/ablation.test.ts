/** The ablation in miniature: it measures, goes on where it was stopped, and the report has every row. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BASE_SAMPLING, pointId, type Study, study } from '../../bench/ablation/axes.ts';
import { type Line, ofKind } from '../../bench/ablation/log.ts';
import { mergeMeasurements, readMeasurements, report, reportText } from '../../bench/ablation/report.ts';
import { measuredCases, resultJson, spread } from '../../bench/ablation/result.ts';
import { ablate } from '../../bench/ablation/run.ts';
import { type RunOptions, runStudy } from '../../bench/ablation/study.ts';
import type { Io } from '../../src/cli/io.ts';
import { EmigmError } from '../../src/errors.ts';
import { checkHyperparameters } from '../../src/training/settings.ts';
import { Device } from '../../src/gpu/device.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-ablation-'));
const out = join(folder, 'run');
mkdirSync(out);
let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => {
  device.dispose();
  rmSync(folder, { recursive: true });
});

const network = JSON.stringify({
  model: {
    ...{ imageSize: 16, vaeStride: 1, patchSize: 8, channels: 3, bufferSize: 2, headDepth: 1, headWidth: 16 },
    ...{ encoderWidth: 16, encoderDepth: 1, encoderHeads: 2, decoderWidth: 16, decoderDepth: 1, decoderHeads: 2 },
    ...{ mae: true, maskGuidance: true, mlpRatio: 2 },
  },
  training: { batch: 10, learningRate: 1e-3, diffusionBatchMul: 1, saveEvery: 1, sampleEvery: 0, keep: 1, flip: false },
});

const sampling = { ...BASE_SAMPLING, steps: 2, headSteps: 2 };
const small: Study = {
  trainings: { base: {}, cosine: { maskSchedule: 'cosine' } },
  axes: [
    {
      ...{ name: 'schedule', title: 'Schedules', paper: 'one is better.', series: ['schedule'], cost: 'nfe' },
      figure: 'training',
      cases: ['base', 'cosine'].map((training) => ({ values: { schedule: training }, training, sampling })),
    },
  ],
};

const options: RunOptions = {
  ...{ study: small, out, seeds: [0], images: 20, samples: 10, network, pictures: 70, reference: 40 },
  ...{ classifierSteps: 1, command: 'the command' },
  machine: { adapter: 'A', driver: 'D', isCpu: true, cpu: 'C', versions: {}, commit: 'abc' },
};
const run = (changes: Partial<RunOptions> = {}) => runStudy(device, { ...options, ...changes });
const points = (lines: readonly Line[]) => ofKind(lines, 'point');

describe('a study', () => {
  it('stopped in a training, it goes on from the checkpoint; all is measured', async () => {
    const stop = new AbortController();
    const shares: number[] = [];
    const onProgress = (done: number, what: string) => {
      shares.push(done);
      if (what.startsWith('training base')) stop.abort();
    };
    await expect(run({ signal: stop.signal, onProgress })).rejects.toMatchObject({ code: 'aborted' });
    expect(points(await readMeasurements(out))).toEqual([]);

    const lines = await run({ onProgress: (done) => shares.push(done) });
    expect(shares.at(-1)).toBe(1);
    expect(ofKind(lines, 'training').map(({ training, steps }) => [training, steps])).toEqual([
      ['base', 2],
      ['cosine', 2],
    ]);
    const log = readFileSync(join(out, 'runs', 'base-0', 'log.jsonl'), 'utf8')
      .trim()
      .split('\n');
    expect(log.map((line) => JSON.parse(line).step)).toEqual([1, 2]);
    expect(points(lines).map(({ id }) => id)).toEqual(small.axes[0].cases.map(pointId));
    for (const { distance, agreement, nfe, headEvaluations, images } of points(lines)) {
      expect(distance).toBeGreaterThan(0);
      expect(agreement).toBeGreaterThanOrEqual(0);
      // Both steps are guided; 4 tokens by 2 evaluations of the head by 2.
      expect({ nfe, headEvaluations, images }).toEqual({ nfe: 4, headEvaluations: 16, images: 10 });
    }
    const [judge] = ofKind(lines, 'judge');
    expect(judge.floor).toHaveLength(3);
    expect(await readMeasurements(out)).toEqual(lines);
  });

  it('what is measured is not measured again; a point that is missing is', async () => {
    const before = await readMeasurements(out);
    expect(await run()).toEqual(before);
    const [, lost] = points(before);
    const file = join(out, 'measurements.jsonl');
    writeFileSync(
      file,
      before
        .filter((line) => line !== lost)
        .map((line) => `${JSON.stringify(line)}\n`)
        .join(''),
    );
    const model = join(out, 'runs', 'cosine-0', 'model.safetensors');
    const { mtimeMs } = statSync(model);
    const lines = await run();
    expect(statSync(model).mtimeMs).toBe(mtimeMs);
    expect(ofKind(lines, 'training')).toEqual(ofKind(before, 'training'));
    const { seconds, ...again } = points(lines)[1];
    expect({ ...again, seconds: lost.seconds }).toEqual(lost); // the same images, the same numbers
  });

  it('the folder of other options is refused in one line', async () => {
    await expect(run({ samples: 20 })).rejects.toThrow(/was begun with samples 10, now it is 20; name another folder$/);
    await expect(run({ images: 25 })).rejects.toThrow('--images 25 is no multiple of 10, the size of a batch');
    await expect(run({ samples: 15 })).rejects.toThrow('--samples 15 is no multiple of 10, the classes');
  });

  it('the report has every row; a kept result gives the same', async () => {
    const docs = join(folder, 'docs');
    mkdirSync(docs);
    await expect(report(await readMeasurements(out), { docs })).rejects.toThrow(/ablation\.md: no such file/);
    const page = join(docs, 'ablation.md');
    const [before, after] = ['# Ours\n', '\nRead by people.\n'];
    const marks = '<!-- begin of what bench/ablation/report.ts writes -->\n<!-- end of it -->';
    writeFileSync(page, `${before}${marks}${after}`);
    const lines = await readMeasurements(out);
    const files = await report(lines, { docs, results: join(folder, 'results') }, small.axes);
    const text = readFileSync(page, 'utf8');
    expect(text.startsWith(before)).toBe(true);
    expect(text.endsWith(after)).toBe(true);
    expect(text).toContain('The paper: one is better.');
    expect(text).toMatch(/\| base \| 4 \| 16 \| [\d.]+ \| [\d.]+ % \| {2}\|/);
    expect(text).toMatch(/\| cosine \| 4 \| 16 \| [\d.]+ \| [\d.]+ % \| [01] of 1 \|/);
    const kept = files.find((file) => file.endsWith('-A-ablation.json') || file.endsWith('-a-ablation.json'))!;
    expect(resultJson(await readMeasurements(kept))).toBe(readFileSync(kept, 'utf8'));
    await report(await readMeasurements(kept), { docs }, small.axes);
    expect(readFileSync(page, 'utf8')).toBe(text);
    const svg = readFileSync(join(docs, 'images', 'ablation-training.svg'), 'utf8');
    expect(svg).toContain('cosine');
    expect(files.some((file) => file.endsWith('ablation-sampling.svg'))).toBe(false);
  });
});

it('the whole ablation: trainings exist, their changes are known, and each row is in the report', async () => {
  for (const { name, cases } of study.axes) {
    const ids = cases.map((one) => JSON.stringify(one.values));
    expect(new Set(ids).size, name).toBe(ids.length);
    for (const { training } of cases) expect(study.trainings).toHaveProperty([training]);
  }
  for (const [name, changes] of Object.entries(study.trainings)) {
    expect(() => checkHyperparameters({}, name, changes)).not.toThrow();
  }
  const lines = (await readMeasurements(out)).filter(({ kind }) => kind !== 'point');
  const rows = reportText(study.axes, lines)
    .split('\n')
    .filter((line) => line.startsWith('| '));
  const wanted = study.axes.reduce((sum, { cases }) => sum + cases.length + 2, 0);
  expect(rows).toHaveLength(wanted);
});

it('seeds that were measured side by side are reported together, when they were made alike', async () => {
  const lines = await readMeasurements(out);
  const write = (name: string, changed: readonly Line[]) => {
    const path = join(folder, name);
    writeFileSync(path, resultJson(changed));
    return path;
  };
  const seedOne = lines.map((line): Line => ('seed' in line ? { ...line, seed: 1 } : line));
  const other = write('one.json', seedOne);
  const merged = await mergeMeasurements([out, other, other]);
  expect(measuredCases(small.axes[0], merged).map(({ seeds }) => seeds)).toEqual([2, 2]);
  expect(ofKind(merged, 'judge')).toHaveLength(1);
  const worse = write(
    'judge.json',
    lines.map((line): Line => (line.kind === 'judge' ? { ...line, accuracy: 2 } : line)),
  );
  await expect(mergeMeasurements([out, worse])).rejects.toThrow(/judge\.json has other options or another classifier/);
});

it('the base is compared seed by seed, sampled by its own schedule', () => {
  expect(spread([1, 3])).toEqual({ mean: 2, deviation: Math.SQRT2, values: [1, 3] });
  const cosine = { ...sampling, maskSchedule: 'cosine' };
  const axis = {
    ...small.axes[0],
    cases: [{ values: {}, training: 'cosine', sampling: cosine }],
  };
  const point = (training: string, settings: typeof sampling, seed: number, distance: number): Line => ({
    ...{ kind: 'point', id: pointId({ training, sampling: settings }), seed, distance },
    ...{ images: 10, nfe: 4, headEvaluations: 16, agreement: 0.5, seconds: 1 },
  });
  const lines = [0, 1, 2].flatMap((seed) => [
    point('base', sampling, seed, 2),
    point('cosine', cosine, seed, 1 + seed),
  ]);
  const [row] = measuredCases(axis, lines);
  expect(row).toMatchObject({ seeds: 3, worse: { seeds: 1, of: 3 }, distance: { mean: 2, deviation: 1 } });
});

it('bad options end in one clear line', async () => {
  const said: string[] = [];
  const io: Io = {
    out: (line) => said.push(line),
    err: (line) => said.push(line),
    columns: undefined,
    signal: new AbortController().signal,
  };
  const bad = (...argv: string[]) => ablate(argv, io);
  await expect(bad()).rejects.toThrow(/required option '-o, --out <folder>'/);
  await expect(bad('--out', out, '--only', 'networ')).rejects.toThrow(/Did you mean network\?/);
  await expect(bad('--out', out, '--seeds', '0,one')).rejects.toThrow(/whole numbers, such as 0,1,2/);
  await expect(bad('--out', join(out, 'measurements.jsonl'))).rejects.toBeInstanceOf(EmigmError);
  await expect(readMeasurements(join(folder, 'none'))).rejects.toThrow(/none: no such file or folder/);
});
