/** `emigm tune`: what it stores, who takes it up, and when it no longer counts. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import type { DoctorReport } from '../../src/cli/doctor.ts';
import { Device } from '../../src/gpu/device.ts';
import { kernelHash, readTuning, storedTuning, writeTuning } from '../../src/gpu/adapter_cache.ts';
import { adapterName, type OpenedAdapter } from '../../src/gpu/node.ts';
import type { Tuning } from '../../src/gpu/tuning.ts';
import { saveModel } from '../../src/models/checkpoint.ts';
import { emigm } from '../helpers/cli.ts';
import { toyConfig, toySource } from '../helpers/toy.ts';

const folder = mkdtempSync(join(tmpdir(), 'emigm-tune-'));
const model = join(folder, 'toy.safetensors');
/** Layers of few shapes. */
const config = { ...toyConfig, decoderDepth: 1, mlpRatio: 1, encoderHeads: 1, decoderHeads: 1 };
const stored = join(folder, 'tuning');
beforeAll(async () => {
  const read = async (name: string) => new Float32Array(await toySource(config).read(name));
  await saveModel(model, { config, info: { name: 'toy', sampling: { steps: 1 } }, read });
});
beforeEach(() => {
  vi.stubEnv('EMIGM_CACHE', folder);
  vi.stubEnv('EMIGM_TUNING', '');
});
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

/** An adapter as Dawn describes one. */
function opened(info: Partial<GPUAdapterInfo> = {}): OpenedAdapter {
  const own = { vendor: 'nvidia', architecture: 'hopper', device: 'nvidia-h100', description: 'NVIDIA: 570.133.20' };
  return { adapter: { info: { ...own, ...info } }, driver: 'system Vulkan driver' } as unknown as OpenedAdapter;
}

const tuning = (parts: Partial<Tuning> = {}): Tuning => ({
  format: 'emigm-tuning',
  version: 1,
  adapter: 'one',
  driver: 'system Vulkan driver',
  kernels: kernelHash(),
  date: '2026-01-02T03:04:05.000Z',
  choices: { 'layernorm 128': 'reference' },
  ...parts,
});

describe('stored tuning', () => {
  it('is taken up on the same hardware with the same driver and the same kernels', () => {
    expect(storedTuning(opened()).state).toBe('none');
    const file = writeTuning(opened(), tuning());
    expect(storedTuning(opened())).toEqual({ state: 'current', file, tuning: tuning() });
    expect(readTuning(opened())?.choices).toEqual({ 'layernorm 128': 'reference' });
    expect(storedTuning(opened({ device: 'nvidia-h200' })).state).toBe('none');
    expect(readTuning(opened({ device: 'nvidia-h200' }))).toBeUndefined();
  });

  it('is not taken up with EMIGM_TUNING=off', () => {
    vi.stubEnv('EMIGM_TUNING', 'off');
    expect(storedTuning(opened()).state).toBe('off');
    expect(readTuning(opened())).toBeUndefined();
  });

  it('is not taken up with another driver, and the newest of those is named', () => {
    const newer = opened({ description: 'NVIDIA: 575.51.03' });
    writeTuning(newer, tuning({ date: '2026-02-03T04:05:06.000Z' }));
    const now = opened({ description: 'NVIDIA: 580.65.06' });
    expect(storedTuning(now)).toMatchObject({ state: 'driver', tuning: { date: '2026-02-03T04:05:06.000Z' } });
    expect(readTuning(now)).toBeUndefined();
    expect(readTuning(newer)).toBeDefined();
  });

  it('is not taken up with other kernels, or when it is damaged', () => {
    const file = writeTuning(opened(), tuning({ kernels: '0123456789abcdef' }));
    expect(storedTuning(opened()).state).toBe('kernels');
    expect(readTuning(opened())).toBeUndefined();
    writeFileSync(file, readFileSync(file, 'utf8').slice(0, -20));
    expect(storedTuning(opened())).toEqual({ state: 'damaged', file });
    expect(readTuning(opened())).toBeUndefined();
  });
});

describe('an adapter', () => {
  it('of a GPU is named by its hardware, then its driver', () => {
    expect(adapterName(opened().adapter.info)).toBe('nvidia-h100 (NVIDIA: 570.133.20)');
    expect(adapterName({ ...opened().adapter.info, description: '' })).toBe('nvidia-h100');
  });

  it('of a CPU driver is named by its description', () => {
    const { info } = opened({
      vendor: 'mesa',
      device: 'llvmpipe-llvm-15',
      description: 'llvmpipe: Mesa 25.0.7',
    }).adapter;
    expect(adapterName(info)).toBe('llvmpipe: Mesa 25.0.7');
  });
});

describe('emigm tune', () => {
  const tune = (...argv: string[]) =>
    emigm(['tune', '--model', model, '--batch', '1', '--seconds', '0.001', '--quiet', ...argv]);
  const doctor = async (): Promise<DoctorReport> =>
    JSON.parse((await emigm(['doctor', '--only', '--json'])).out) as DoctorReport;
  const open = async (): Promise<Pick<Device, 'tuning' | 'variants'>> => {
    const device = await Device.open();
    device.dispose();
    return device;
  };
  /** The one file that the adapter of the tests has. */
  const file = () => {
    const names = readdirSync(stored).filter((name) => !readFileSync(join(stored, name), 'utf8').includes('"one"'));
    expect(names).toHaveLength(1);
    return join(stored, names[0]);
  };
  const change = (parts: Partial<Tuning>) =>
    writeFileSync(file(), JSON.stringify({ ...JSON.parse(readFileSync(file(), 'utf8')), ...parts }));

  it('stores a choice for each layer, beside earlier ones, which devices take up', async () => {
    const before = await Device.open();
    before.storeTuning(tuning({ adapter: before.name, choices: { 'layernorm 4': 'reference' } }));
    before.dispose();
    vi.stubEnv('EMIGM_TUNING', 'off');
    const { code, err } = await tune();
    expect([code, err]).toEqual([0, expect.stringMatching(/EMIGM_TUNING=off is set/)]);
    const { choices, kernels } = JSON.parse(readFileSync(file(), 'utf8')) as Tuning;
    expect(kernels).toBe(kernelHash());
    expect(Object.keys(choices)).toEqual(expect.arrayContaining([expect.stringMatching(/^matmul \d+x\d+ f32$/)]));
    expect(choices).toMatchObject({ 'layernorm 4': 'reference' });
    const tiles = Object.entries(choices).filter(([key]) => key.includes(' @ '));
    expect(tiles.length).toBeGreaterThan(0);
    for (const [key, value] of tiles) {
      expect(key).toMatch(/^(matmul \d+x\d+|attention \d+) f32 @ \d+$/);
      const [variant, rows] = value.split(' ');
      expect([variant, Number(rows) > 0]).toEqual([choices[key.split(' @ ')[0]], true]);
    }
    expect((await open()).tuning).toBeUndefined();
    expect((await doctor()).chosen).toMatchObject({ choice: 'the built-in table', tuning: { state: 'off' } });

    vi.stubEnv('EMIGM_TUNING', '');
    expect((await open()).variants).toEqual(choices);
    const { chosen, advice } = await doctor();
    expect(chosen?.choice).toMatch(/^emigm tune of \d{4}-\d\d-\d\d \(\d+ shapes\)$/);
    expect(chosen?.tuning).toMatchObject({ state: 'current', file: file() });
    expect(advice.join('\n')).not.toContain('emigm tune');
  });

  it('is to be run again when kernels have changed, which doctor says', async () => {
    change({ kernels: '0123456789abcdef' });
    expect((await open()).tuning).toBeUndefined();
    const { chosen, advice } = await doctor();
    expect(chosen?.tuning.text).toMatch(/^outdated, not taken up: kernels have changed since \(of \d{4}/);
    expect(advice.join('\n')).toContain('run emigm tune again');
  });

  it('--clear forgets what was measured here, and nothing else', async () => {
    const own = file();
    const { code, out } = await emigm(['tune', '--clear']);
    expect([code, out]).toEqual([0, expect.stringMatching(/^forgotten: .* uses the built-in table$/)]);
    expect(existsSync(own)).toBe(false);
    expect(readdirSync(stored)).not.toHaveLength(0); // of other hardware
    expect((await emigm(['tune', '--clear'])).out).toMatch(/^nothing was stored/);
  });
});
