// matmul (GPUs, int8 weights): y = epilogue(x . w^T), w[j, i] = scale[j] q[j, i]; tiled_vec4.wgsl on packed weights.
//
//   x        [m, k]            In4      row-major
//   w        [n, k]            int8     q in PyTorch's layout [out, in], four along k to a word, the first in the low
//                                       byte; after all rows [n] scales, as f32 bits
//   bias     [n]               f32      read when HAS_BIAS
//   gate     [m, gate_stride]  f32      columns gate_offset .. gate_offset + n, read when HAS_GATE
//   residual [m, n]            f32      read when HAS_RESIDUAL; may not be the buffer of y
//   y        [m, n]            Out4     written; added to when ACCUMULATE
//
// Epilogue, in this order: + bias; activation (0 none, 1 GELU by erf, 2 SiLU); * gate; + residual; + y.
// The sum over k is of x q, and is multiplied by the column's scale before the epilogue.
//
// Any m; k, n and the gate's stride and offset multiples of 4. Weights travel packed from memory to registers, a half
// or a quarter of the bytes, and are unpacked once, into the tile: in the type of x, which holds -127 .. 127 exactly.
// All else is as in tiled_vec4.wgsl: two tiles in turn, and sums in slices of 128, which few_rows_int8.wgsl adds in the
// same order.
//
// A workgroup of 16 x 16 makes TILE_M x 64 outputs, TILE_M = 16 ROWS. Invocation (tx, ty): rows ty + 16 i, columns
// 4 tx .. 4 tx + 3. Grid: ceil(n / 64) x ceil(m / TILE_M).
// FLOPs per byte of memory traffic: at TILE_M 64 26 with x in f32, 43 in f16.
// Workgroup memory: 2 QUADS (X_LINE + W_LINE) vec4s: 9 KiB at ROWS 4 and 13 KiB at ROWS 8, with QUADS 2 in f32 and
// QUADS 4 in f16 alike.
requires immediate_address_space;

alias In4 = vec4<f32>;      // vec4<f16>: storage of x
alias Out4 = vec4<f32>;     // vec4<f16>: storage of y
const ROWS: u32 = 4;
const QUADS: u32 = 2;       // vec4s of k in a step: 2, 4 or 8
const SLICE: u32 = 128;     // k of a slice

const TILE_M: u32 = 16 * ROWS;
const TILE_N: u32 = 64;
const X_LINE: u32 = TILE_M + 8 / QUADS;
const W_LINE: u32 = TILE_N + TILE_N / 8 + 8 / QUADS;
const X_TASKS: u32 = (QUADS * TILE_M + 255) / 256;
const W_TASKS: u32 = (QUADS * TILE_N + 255) / 256;

override HAS_BIAS: bool = false;
override ACTIVATION: u32 = 0;
override HAS_GATE: bool = false;
override HAS_RESIDUAL: bool = false;
override ACCUMULATE: bool = false;

struct Params { m: u32, k: u32, n: u32, gate_stride: u32, gate_offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<In4>;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read> gate: array<vec4f>;
@group(0) @binding(4) var<storage, read> residual: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<Out4>;
var<immediate> params: Params;

// [parity of the step][quad of k][row or column]: 4 k of one row of x, or of one column of y. Column c of w_tile lies
// at c + c / 8, since readers of columns 4 tx + j walk by 4.
var<workgroup> x_tile: array<In4, 2 * QUADS * X_LINE>;
var<workgroup> w_tile: array<In4, 2 * QUADS * W_LINE>;

fn load_x(row: u32, quad: u32) -> In4 {
  if (row >= params.m || quad >= params.k / 4) { return In4(); }
  return x[row * (params.k / 4) + quad];
}

fn load_w(column: u32, quad: u32) -> u32 {
  if (column >= params.n || quad >= params.k / 4) { return 0; }
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

fn finish(sum: vec4f, row: u32, column: u32) {
  if (row >= params.m || column >= params.n) { return; }
  let at = (row * params.n + column) / 4;
  let scale = params.n * (params.k / 4) + column;
  var value = sum * bitcast<vec4f>(vec4u(w[scale], w[scale + 1], w[scale + 2], w[scale + 3]));
  if (HAS_BIAS) { value += bias[column / 4]; }
  if (ACTIVATION != 0) { value = vec4f(activate(value.x), activate(value.y), activate(value.z), activate(value.w)); }
  if (HAS_GATE) { value *= gate[(row * params.gate_stride + params.gate_offset + column) / 4]; }
  if (HAS_RESIDUAL) { value += residual[at]; }
  if (ACCUMULATE) { value += vec4f(y[at]); }
  y[at] = Out4(value);
}

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let first_row = group.y * TILE_M;
  let first_column = group.x * TILE_N;
  let quads = params.k / 4;

  var next_x: array<In4, X_TASKS>;
  var next_w: array<u32, W_TASKS>;
  var sum: array<vec4f, ROWS>;    // of the current slice
  var total: array<vec4f, ROWS>;  // of the slices before

  // Step s multiplies the quads s QUADS .. ; its numbers are loaded during step s - 1 (s = 0: before the first).
  let steps = (quads + QUADS - 1) / QUADS;
  for (var step = 0u; step <= steps; step++) {
    // Loads for this step are under way while the step before is multiplied.
    if (step < steps) {
      for (var t = 0u; t < X_TASKS; t++) {
        let i = index + 256 * t;
        if (i < QUADS * TILE_M) { next_x[t] = load_x(first_row + i / QUADS, step * QUADS + i % QUADS); }
      }
      for (var t = 0u; t < W_TASKS; t++) {
        let i = index + 256 * t;
        if (i < QUADS * TILE_N) { next_w[t] = load_w(first_column + i / QUADS, step * QUADS + i % QUADS); }
      }
    }
    if (step > 0) {
      let before = (step - 1) % 2 * QUADS;
      for (var quad = 0u; quad < QUADS; quad++) {
        let w_at = (before + quad) * W_LINE + local.x * 4 + local.x / 2;
        let columns = transpose(mat4x4f(vec4f(w_tile[w_at]), vec4f(w_tile[w_at + 1]),
                                        vec4f(w_tile[w_at + 2]), vec4f(w_tile[w_at + 3])));
        for (var r = 0u; r < ROWS; r++) {
          let row = vec4f(x_tile[(before + quad) * X_LINE + local.y + 16 * r]);
          sum[r] += row.x * columns[0];
          sum[r] += row.y * columns[1];
          sum[r] += row.z * columns[2];
          sum[r] += row.w * columns[3];
        }
      }
      if (step * QUADS % (SLICE / 4) == 0) {
        for (var r = 0u; r < ROWS; r++) {
          total[r] += sum[r];
          sum[r] = vec4f();
        }
      }
    }
    if (step < steps) {
      let now = step % 2 * QUADS;
      for (var t = 0u; t < X_TASKS; t++) {
        let i = index + 256 * t;
        if (i < QUADS * TILE_M) { x_tile[(now + i % QUADS) * X_LINE + i / QUADS] = next_x[t]; }
      }
      for (var t = 0u; t < W_TASKS; t++) {
        let i = index + 256 * t;
        let column = i / QUADS;
        if (i < QUADS * TILE_N) { w_tile[(now + i % QUADS) * W_LINE + column + column / 8] = In4(unpack(next_w[t])); }
      }
      workgroupBarrier();
    }
  }

  for (var r = 0u; r < ROWS; r++) {
    finish(total[r] + sum[r], first_row + local.y + 16 * r, first_column + 4 * local.x);
  }
}
