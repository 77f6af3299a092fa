/** Weights rounded to int8, and what lies in the buffer. */
import { describe, expect, it } from 'vitest';
import { int8Words, packInt8, quantiseRows, roundToInt8 } from '../../src/ops/int8.ts';
import { random } from '../helpers/golden.ts';

describe('rounding to int8', () => {
  it('moves no weight by more than half a step of its row, and uses all levels', () => {
    const [outputs, inputs] = [9, 301];
    const weight = random().normal(outputs * inputs);
    // Rows of very different size do not share a step.
    for (let at = 0; at < weight.length; at++) weight[at] *= 10 ** (Math.floor(at / inputs) - 4);
    const { numbers, scales } = quantiseRows(weight, outputs, inputs, 'w');
    for (let j = 0; j < outputs; j++) {
      const row = weight.subarray(j * inputs, (j + 1) * inputs);
      const largest = Math.max(...row.map(Math.abs));
      expect(scales[j]).toBe(Math.fround(largest / 127));
      const levels = numbers.subarray(j * inputs, (j + 1) * inputs);
      expect(Math.max(...levels.map(Math.abs))).toBe(127);
      for (let i = 0; i < inputs; i++) {
        expect(Math.abs(levels[i] * scales[j] - row[i])).toBeLessThanOrEqual((scales[j] / 2) * (1 + 1e-5));
      }
    }
    expect(roundToInt8(weight, outputs, inputs)).toEqual(
      Float32Array.from(numbers, (q, at) => q * scales[Math.floor(at / inputs)]),
    );
  });

  it('leaves rows of zeros zero, and those too small for a scale that every adapter keeps', () => {
    const weight = Float32Array.from([0, 0, 0, 1e-40, -1e-44, 0, 1, -2, 0.5]);
    const { numbers, scales } = quantiseRows(weight, 3, 3, 'w');
    expect([...scales.subarray(0, 2)]).toEqual([0, 0]);
    expect([...numbers]).toEqual([0, 0, 0, 0, 0, 0, 64, -127, 32]);
    expect(roundToInt8(weight, 3, 3).every(Number.isFinite)).toBe(true);
  });

  it('keeps the largest finite weights', () => {
    const weight = Float32Array.from([3.4028234663852886e38, -3.4028234663852886e38]);
    expect([...quantiseRows(weight, 1, 2, 'w').numbers]).toEqual([127, -127]);
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])('refuses %s', (bad) => {
    const weight = Float32Array.from([1, 2, 3, 4, bad, 6]);
    expect(() => quantiseRows(weight, 2, 3, 'blocks.0.mlp.fc1')).toThrow(
      expect.objectContaining({
        code: 'numeric',
        message: expect.stringMatching(/^blocks\.0\.mlp\.fc1: weight \[1, 1\] is/),
      }),
    );
  });
});

describe('the buffer', () => {
  const [outputs, inputs] = [5, 6];
  const weight = Float32Array.from({ length: outputs * inputs }, (_, at) => ((at * 7) % 19) - 9);
  const { numbers, scales } = quantiseRows(weight, outputs, inputs, 'w');

  it('holds rows padded to whole words, then the scales', () => {
    const words = packInt8(weight, outputs, inputs, { label: 'w' });
    expect(words.length).toBe(int8Words(outputs, inputs));
    const bytes = new Int8Array(words.buffer);
    for (let j = 0; j < outputs; j++) {
      expect([...bytes.subarray(8 * j, 8 * j + 8)]).toEqual([...numbers.subarray(6 * j, 6 * j + 6), 0, 0]);
    }
    expect(new Float32Array(words.buffer, 8 * outputs)).toEqual(scales);
  });

  it.each([4, 8])('holds blocks of 4 x 4 for %i lanes, then the scales', (lanes) => {
    const words = packInt8(weight, outputs, inputs, { label: 'w', lanes });
    expect(words.length).toBe(int8Words(outputs, inputs, lanes));
    const bytes = new Int8Array(words.buffer);
    const expected = new Int8Array(2 * lanes * 16);
    for (let j = 0; j < outputs; j++) {
      for (let i = 0; i < inputs; i++) {
        const block = Math.floor(i / 4) * lanes + Math.floor(j / 4);
        expected[block * 16 + (i % 4) * 4 + (j % 4)] = numbers[j * inputs + i];
      }
    }
    expect(bytes.subarray(0, expected.length)).toEqual(expected);
    expect([...new Float32Array(words.buffer, expected.length)]).toEqual([
      ...scales,
      ...Array.from({ length: 4 * lanes - outputs }, () => 0),
    ]);
  });
});
