// sinusoid: the time embedding [cos(t f_0) .. cos(t f_h-1) | sin(t f_0) .. sin(t f_h-1) | 0 if dim is odd].
//
//   t         [rows]       f32
//   frequency [dim / 2]    f32   exp(-ln(10000) i / (dim / 2)), from the host, rounded once
//   y         [rows, dim]  f32
//
// WGSL's own cos may be off by 2^-11 and worse for large angles, so the angle is reduced here: three parts of pi/2
// with few enough bits that k times each is exact for |t| < 1600, then polynomials (Cephes) on [-pi/4, pi/4].
// One invocation an element. Grid: ceil(rows * dim / 64), folded over y beyond 32768.
// Vaswani et al. 2017, section 3.5; GLIDE's order.
requires immediate_address_space;

struct Params { rows: u32, dim: u32 }

@group(0) @binding(0) var<storage, read> t: array<f32>;
@group(0) @binding(1) var<storage, read> frequency: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
var<immediate> params: Params;

/** cos(x) for quarter = 0, sin(x) for quarter = 3. */
fn wave(x: f32, quarter: u32) -> f32 {
  let k = round(x * 0.63661977);
  let r = ((x - k * 1.5703125) - k * 4.8351287841796875e-4) - k * 3.1385570764541625e-7 - k * 6.0771005065061922e-11;
  let s = r * r;
  let sine = r + r * s * ((-1.9515295891e-4 * s + 8.3321608736e-3) * s - 1.6666654611e-1);
  let cosine = 1 - 0.5 * s + s * s * ((2.443315711809948e-5 * s - 1.388731625493765e-3) * s + 4.166664568298827e-2);
  let n = (u32(i32(k)) + quarter) & 3;
  let value = select(cosine, sine, (n & 1) == 1);
  return select(value, -value, n == 1 || n == 2);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let element = id.y * 32768 * 64 + id.x;
  if (element >= params.rows * params.dim) { return; }
  let row = element / params.dim;
  let i = element % params.dim;
  let half = params.dim / 2;
  var value = 0.0;
  if (i < half) {
    value = wave(t[row] * frequency[i], 0);
  } else if (i < 2 * half) {
    value = wave(t[row] * frequency[i - half], 3);
  }
  y[element] = value;
}
