import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import {
  describeGolden,
  expectClose,
  formulaUniform,
  formulaWeight,
  goldenFiles,
  goldenFolder,
  random,
} from '../helpers/golden.ts';

/** Every pattern that some test of this project passes to describeGolden or describeGoldenFile. */
function patternsOfTests(): string[] {
  const tests = fileURLToPath(new URL('..', import.meta.url));
  const sources = readdirSync(tests, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.test.ts'));
  return sources.flatMap((name) =>
    [...readFileSync(join(tests, name), 'utf8').matchAll(/describeGolden(?:File)?\(\s*'([^']+)'/g)].map((m) => m[1]),
  );
}

test('the golden folder holds at least one file that some test reads', () => {
  const patterns = patternsOfTests().filter((pattern) => pattern !== '*');
  expect(patterns.length).toBeGreaterThan(0);
  const found = patterns.filter((p) => goldenFiles(p).length > 0 || goldenFiles(`${p}.safetensors`).length > 0);
  expect(found, `no golden file of any test in ${goldenFolder()}`).not.toEqual([]);
});

describeGolden('*', (golden) => {
  test('every tensor is finite, unless the file says otherwise', () => {
    const finite = !golden.metaKeys().includes('allow_nonfinite');
    for (const name of golden.names()) {
      if (finite) expect(golden.f64(name).every(Number.isFinite), name).toBe(true);
      expect(golden.get(name).length, name).toBe(golden.shape(name).reduce((a, b) => a * b, 1));
    }
    expect(golden.names().length).toBeGreaterThan(0);
  });
});

describe('formula weights', () => {
  test('the published check values', () => {
    const published = [-0.00968851475045085, -0.731619719415903, 0.576481126714498, 0.763905305881053];
    expectClose(formulaUniform('encoder.conv_in.weight', 4), published, { absolute: 1e-15 }, 'u');
  });

  test('scale and offset by kind', () => {
    const u = formulaUniform('x.weight', 6);
    const fan = Float32Array.from(u, (v) => v * Math.sqrt(3 / 3) * 1.2);
    expect(formulaWeight('x.weight', [2, 3], 1.2)).toEqual(fan);
    expect(formulaWeight('x.weight', [6])).toEqual(Float32Array.from(u, (v) => 1 + 0.2 * v));
    const variance = formulaUniform('n.running_var', 2);
    expect(formulaWeight('n.running_var', [2])).toEqual(Float32Array.from(variance, (v) => 1 + 0.4 * v));
    const bias = formulaUniform('n.bias', 2);
    expect(formulaWeight('n.bias', [2])).toEqual(Float32Array.from(bias, (v) => 0.1 * v));
  });

  test('a million and more a second', () => {
    const start = performance.now();
    formulaWeight('speed.weight', [1024, 1024]);
    expect(performance.now() - start).toBeLessThan(1000);
  });
});

describe('expectClose', () => {
  test('fails on NaN, length and distance; passes within', () => {
    expect(() => expectClose([1, Number.NaN], [1, 2], { relative: 1 })).toThrow(/NaN/);
    expect(() => expectClose([1, 2], [1, Number.NaN], { relative: 1 })).toThrow(/NaN/);
    expect(() => expectClose([1], [1, 2], { relative: 1 })).toThrow(/elements/);
    expect(() => expectClose([1, 2.1], [1, 2], { relative: 0.01 })).toThrow(/element 1/);
    expect(() => expectClose([0, 1e-9], [0, 0], { relative: 0.1 })).toThrow();
    expect(expectClose([1, 2.01], [1, 2], { relative: 0.01 })).toBeCloseTo(0.005, 6);
  });

  test('random inputs repeat by seed', () => {
    expect(random(7).normal(5)).toEqual(random(7).normal(5));
    expect(random(7).uniform(5)).not.toEqual(random(8).uniform(5));
    const normal = random(3).normal(20000);
    expect(normal.reduce((a, b) => a + b) / 20000).toBeCloseTo(0, 1);
    expect(normal.reduce((a, b) => a + b * b) / 20000).toBeCloseTo(1, 1);
  });
});
