import { expect, test } from 'vitest';
import { bfloat16ToFloat32, float32ToBfloat16, float32ToHalf, halfToFloat32 } from '../../src/float16.ts';
import { random } from '../helpers/golden.ts';

/** The value of half precision bits, from its definition. */
function halfValue(h: number): number {
  const sign = h & 0x8000 ? -1 : 1;
  const exponent = (h >> 10) & 31;
  const fraction = h & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

const all = Uint16Array.from({ length: 65536 }, (_, i) => i);

test('every half precision number is exact and comes back', () => {
  const values = halfToFloat32(all);
  for (let h = 0; h < 65536; h++) {
    if (!Object.is(values[h], halfValue(h))) expect.fail(`${h.toString(16)}: ${values[h]}`);
  }
  const back = float32ToHalf(values);
  for (let h = 0; h < 65536; h++) {
    if (Number.isNaN(values[h])) expect(halfValue(back[h])).toBeNaN();
    else if (back[h] !== h) expect.fail(`${h.toString(16)} came back as ${back[h].toString(16)}`);
  }
});

test('half precision rounds to the nearest, ties to even', () => {
  // Between neighbours: the middle goes to the even one, a little to either side to the nearer.
  for (let h = 0; h < 0x7bff; h++) {
    const middle = (halfValue(h) + halfValue(h + 1)) / 2; // exact in float32
    const bits = new Uint32Array(new Float32Array([middle]).buffer)[0];
    const near = new Float32Array(new Uint32Array([bits - 1, bits, bits + 1]).buffer);
    const rounded = float32ToHalf(near);
    const even = h % 2 === 0 ? h : h + 1;
    if (rounded[0] !== h || rounded[1] !== even || rounded[2] !== h + 1) expect.fail(`about ${middle}: ${rounded}`);
  }
  const edge = new Float32Array([65504, 65519.996, 65520, 1e30, -1e30, 2 ** -25, -(2 ** -25), 1e-45, -0]);
  expect([...float32ToHalf(edge)]).toEqual([0x7bff, 0x7bff, 0x7c00, 0x7c00, 0xfc00, 0, 0x8000, 0, 0x8000]);
});

test('bfloat16: exact, and to the nearest even', () => {
  const values = bfloat16ToFloat32(all);
  const back = float32ToBfloat16(values);
  for (let b = 0; b < 65536; b++) {
    if (Number.isNaN(values[b])) expect(bfloat16ToFloat32(back.subarray(b, b + 1))[0]).toBeNaN();
    else if (back[b] !== b) expect.fail(`${b.toString(16)} came back as ${back[b].toString(16)}`);
  }
  const bits = Uint32Array.from([0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff, 0x7f7fffff, 0x7f800001]);
  const rounded = float32ToBfloat16(new Float32Array(bits.buffer));
  expect([...rounded]).toEqual([0x3f80, 0x3f82, 0x3f81, 0x3f80, 0x7f80, 0x7fc0]);
});

test('ten million elements in seconds', () => {
  const values = random(1).uniform(1 << 16);
  const many = new Float32Array(10_000_000);
  for (let at = 0; at + values.length <= many.length; at += values.length) many.set(values, at);
  const start = performance.now();
  halfToFloat32(float32ToHalf(many));
  expect(performance.now() - start).toBeLessThan(3000);
});
