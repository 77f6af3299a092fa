/** Half precision and bfloat16 to and from float32, by bits; Node 20 has no Float16Array. */

let halfTable: Uint32Array | undefined;

/** The float32 bits of each of the 65536 half precision numbers (256 KiB, built on first use). */
function floatBitsOfHalf(): Uint32Array {
  if (halfTable) return halfTable;
  halfTable = new Uint32Array(65536);
  for (let h = 0; h < 65536; h++) {
    const sign = (h & 0x8000) << 16;
    const exponent = (h >>> 10) & 31;
    const fraction = h & 0x3ff;
    let bits: number;
    if (exponent === 31) bits = 0x7f800000 | (fraction << 13);
    else if (exponent > 0) bits = ((exponent + 112) << 23) | (fraction << 13);
    else if (fraction === 0) bits = 0;
    else {
      const shift = Math.clz32(fraction) - 21; // moves the leading one to bit 10
      bits = ((113 - shift) << 23) | (((fraction << shift) & 0x3ff) << 13);
    }
    halfTable[h] = sign | bits;
  }
  return halfTable;
}

function bitsOf(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}

/** Half precision bits (IEEE 754 binary16) to float32; exact, NaN payloads kept. */
export function halfToFloat32(half: Uint16Array): Float32Array<ArrayBuffer> {
  const table = floatBitsOfHalf();
  const out = new Float32Array(half.length);
  const bits = bitsOf(out);
  for (let i = 0; i < half.length; i++) bits[i] = table[half[i]];
  return out;
}

/** Float32 to half precision bits, to the nearest, ties to even; too large becomes infinity, NaN stays NaN. */
export function float32ToHalf(values: Float32Array): Uint16Array<ArrayBuffer> {
  const bits = bitsOf(values);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i];
    const a = x & 0x7fffffff;
    let h: number;
    if (a > 0x7f800000)
      h = 0x7e00 | ((a >>> 13) & 0x3ff); // NaN, made quiet
    else if (a >= 0x477ff000)
      h = 0x7c00; // 65520 and above
    else if (a >= 0x38800000) {
      const r = a - 0x38000000; // exponent bias 127 -> 15
      h = (r + 0xfff + ((r >>> 13) & 1)) >>> 13;
    } else if (a <= 0x33000000)
      h = 0; // 2^-25 and below
    else {
      const shift = 126 - (a >>> 23); // 14..24
      const m = (a & 0x7fffff) | 0x800000;
      h = (m + (1 << (shift - 1)) - 1 + ((m >>> shift) & 1)) >>> shift;
    }
    out[i] = ((x >>> 16) & 0x8000) | h;
  }
  return out;
}

/** bfloat16 bits to float32; exact. */
export function bfloat16ToFloat32(values: Uint16Array): Float32Array {
  const out = new Float32Array(values.length);
  const bits = bitsOf(out);
  for (let i = 0; i < values.length; i++) bits[i] = values[i] << 16;
  return out;
}

/** Float32 to bfloat16 bits, to the nearest, ties to even; NaN stays NaN. */
export function float32ToBfloat16(values: Float32Array): Uint16Array {
  const bits = bitsOf(values);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i];
    out[i] = (x & 0x7fffffff) > 0x7f800000 ? (x >>> 16) | 0x40 : (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
  }
  return out;
}
