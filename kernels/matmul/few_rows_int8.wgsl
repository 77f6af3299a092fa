// matmul (GPUs, few rows, int8 weights): y = epilogue(x . w^T), w[j, i] = scale[j] q[j, i]; few_rows.wgsl, packed.
//
// Operands, epilogue and conditions as in tiled_vec4_int8.wgsl, but y is bound as single numbers.
//
// With few rows the bytes of weights are the bound, and here they are a half or a quarter. A sum is split over k as in
// few_rows.wgsl: the slices of tiled_vec4_int8.wgsl side by side, added in the same order, so that a row's value does
// not depend on which of the two has made it, nor on how many rows there are.
//
// A workgroup makes ROWS x COLUMNS outputs: PARALLEL slices at a time, COLUMNS invocations for each. An invocation
// multiplies one column of w by all ROWS rows; rows of x are read by all COLUMNS at the same address.
// Grid: ceil(n / COLUMNS) x ceil(m / ROWS). FLOPs per byte of weights: 2 ROWS.
// Workgroup memory: PARALLEL ROWS COLUMNS numbers: 4 KiB as it stands.
requires immediate_address_space;

alias In4 = vec4<f32>;      // vec4<f16>: storage of x
alias Out = f32;            // f16: storage of y
const ROWS: u32 = 8;
const COLUMNS: u32 = 16;
const PARALLEL: u32 = 8;
const SLICE: u32 = 128;     // k of a slice, as in tiled_vec4_int8.wgsl

const INVOCATIONS: u32 = COLUMNS * PARALLEL;
const OUTPUTS: u32 = ROWS * COLUMNS;
const SHARE: u32 = (OUTPUTS + INVOCATIONS - 1) / INVOCATIONS;

override HAS_BIAS: bool = false;
override ACTIVATION: u32 = 0;
override HAS_GATE: bool = false;
override HAS_RESIDUAL: bool = false;
override ACCUMULATE: bool = false;

struct Params { m: u32, k: u32, n: u32, gate_stride: u32, gate_offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<In4>;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> gate: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<Out>;
var<immediate> params: Params;

var<workgroup> partial: array<f32, PARALLEL * OUTPUTS>;  // [slice][row][column]

fn load_x(row: u32, quad: u32) -> In4 {
  if (row >= params.m) { return In4(); }
  return x[row * (params.k / 4) + quad];
}

fn load_w(column: u32, quad: u32) -> u32 {
  if (column >= params.n) { return 0; }
  return w[column * (params.k / 4) + quad];
}

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

fn finish(sum: f32, row: u32, column: u32) {
  if (row >= params.m || column >= params.n) { return; }
  let at = row * params.n + column;
  var value = sum * bitcast<f32>(w[params.n * (params.k / 4) + column]);
  if (HAS_BIAS) { value += bias[column]; }
  value = activate(value);
  if (HAS_GATE) { value *= gate[row * params.gate_stride + params.gate_offset + column]; }
  if (HAS_RESIDUAL) { value += residual[at]; }
  if (ACCUMULATE) { value += f32(y[at]); }
  y[at] = Out(value);
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let first_row = group.y * ROWS;
  let first_column = group.x * COLUMNS;
  let column = index % COLUMNS;
  let quads = params.k / 4;
  let slices = (params.k + SLICE - 1) / SLICE;

  var total: array<f32, SHARE>;
  for (var round = 0u; round < slices; round += PARALLEL) {
    var sum: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) { sum[r] = 0.0; }
    let start = (round + index / COLUMNS) * (SLICE / 4);
    for (var quad = start; quad < min(quads, start + SLICE / 4); quad++) {
      let weights = unpack(load_w(first_column + column, quad));
      for (var r = 0u; r < ROWS; r++) {
        let row = vec4f(load_x(first_row + r, quad));
        sum[r] += row.x * weights.x;
        sum[r] += row.y * weights.y;
        sum[r] += row.z * weights.z;
        sum[r] += row.w * weights.w;
      }
    }
    for (var r = 0u; r < ROWS; r++) { partial[(index / COLUMNS * ROWS + r) * COLUMNS + column] = sum[r]; }
    workgroupBarrier();
    for (var i = 0u; i < SHARE; i++) {
      let output = index + INVOCATIONS * i;
      if (output < OUTPUTS) {
        for (var s = 0u; s < min(PARALLEL, slices - round); s++) { total[i] += partial[s * OUTPUTS + output]; }
      }
    }
    workgroupBarrier();
  }

  for (var i = 0u; i < SHARE; i++) {
    let output = index + INVOCATIONS * i;
    if (output < OUTPUTS) { finish(total[i], first_row + output / COLUMNS, first_column + output % COLUMNS); }
  }
}
