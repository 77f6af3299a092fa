// matmul (reference, int8 weights): y = epilogue(x . w^T), w[j, i] = scale[j] q[j, i], one invocation an output.
//
//   x        [m, k]            In       row-major
//   w        [n, k]            int8     q in PyTorch's layout [out, in], four along k to a word, the first in the low
//                                       byte, each row padded to whole words; after all rows [n] scales, as f32 bits
//   bias     [n]               f32      read when HAS_BIAS
//   gate     [m, gate_stride]  f32      columns gate_offset .. gate_offset + n, read when HAS_GATE
//   residual [m, n]            f32      read when HAS_RESIDUAL; may not be the buffer of y
//   y        [m, n]            Out      written; added to when ACCUMULATE
//
// Epilogue, in this order: + bias; activation (0 none, 1 GELU by erf, 2 SiLU); * gate; + residual; + y.
// The sum over k is of x q, and is multiplied by the column's scale before the epilogue.
//
// As reference.wgsl with a quarter of the bytes of weights, for inference: any m, k, n.
// Grid: ceil(n / 16) x ceil(m / 4) workgroups of 16 x 4 invocations. No workgroup memory.
requires immediate_address_space;

alias In = f32;      // f16: storage of x
alias Out = f32;     // f16: storage of y

override HAS_BIAS: bool = false;
override ACTIVATION: u32 = 0;
override HAS_GATE: bool = false;
override HAS_RESIDUAL: bool = false;
override ACCUMULATE: bool = false;

struct Params { m: u32, k: u32, n: u32, gate_stride: u32, gate_offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<In>;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> gate: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<Out>;
var<immediate> params: Params;

// Four int8 numbers, the first in the lowest byte.
fn unpack(word: u32) -> vec4f { return vec4f(vec4i(vec4u(word) << vec4u(24, 16, 8, 0)) >> vec4u(24)); }

// Error function, within 1 ulp before rounding of exp: a polynomial near zero, 1 - exp(polynomial) beyond.
// Coefficients: N. Juffa, "Fast and accurate erff".
fn erf(v: f32) -> f32 {
  let a = abs(v);
  let s = v * v;
  if (a <= 0.927734375) {
    let p = ((((-5.96761703e-4 * s + 4.99119423e-3) * s - 2.67681349e-2) * s + 1.12819925e-1) * s - 3.76125336e-1) * s;
    return (p + 1.28379166e-1) * v + v;
  }
  let t = min(a, 4.0); // erf(4) is 1 in f32
  var p = (-1.72853470e-5 * t + 3.83197126e-4) * t * t + (-3.88396438e-3 * t + 2.42546219e-2);
  p = ((p * t - 1.06777877e-1) * t - 6.34846687e-1) * t - 1.28717512e-1;
  return sign(v) * (1.0 - exp(p * t - t));
}

fn activate(v: f32) -> f32 {
  if (ACTIVATION == 1) { return 0.5 * v * (1.0 + erf(v * 0.70710678)); }
  if (ACTIVATION == 2) { return v / (1.0 + exp(-v)); }
  return v;
}

@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.y;
  let column = id.x;
  if (row >= params.m || column >= params.n) { return; }

  let words = (params.k + 3) / 4;
  var sum = 0.0;
  for (var i = 0u; i < words; i++) {
    let weights = unpack(w[column * words + i]);
    for (var j = 0u; j < min(4, params.k - 4 * i); j++) { sum += f32(x[row * params.k + 4 * i + j]) * weights[j]; }
  }
  sum *= bitcast<f32>(w[params.n * words + column]);

  let at = row * params.n + column;
  if (HAS_BIAS) { sum += bias[column]; }
  sum = activate(sum);
  if (HAS_GATE) { sum *= gate[row * params.gate_stride + params.gate_offset + column]; }
  if (HAS_RESIDUAL) { sum += residual[at]; }
  if (ACCUMULATE) { sum += f32(y[at]); }
  y[at] = Out(sum);
}
