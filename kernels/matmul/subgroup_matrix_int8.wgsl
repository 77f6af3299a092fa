// matmul (GPUs with subgroup matrices, int8 weights): y = epilogue(x . w^T) on tensor cores, w[j, i] = scale[j] q[j, i].
//
//   x        [m, k]            In4      row-major; rounded to f16 where it is f32
//   w        [n, k]            int8     q in PyTorch's layout [out, in], four along k to a word, the first in the low
//                                       byte; after all rows [n] scales, as f32 bits
//   bias     [n]               f32      read when HAS_BIAS
//   gate     [m, gate_stride]  f32      columns gate_offset .. gate_offset + n, read when HAS_GATE
//   residual [m, n]            f32      read when HAS_RESIDUAL; may not be the buffer of y
//   y        [m, n]            Out      written; added to when ACCUMULATE
//
// Epilogue, in this order: + bias; activation (0 none, 1 GELU by erf, 2 SiLU); * gate; + residual; + y.
// The sum over k is of x q, and is multiplied by the column's scale before the epilogue.
//
// subgroup_matrix.wgsl on packed weights, for the same adapters and shapes (any m; k and n multiples of 4): they travel
// packed from memory to registers, half the bytes of f16, and are unpacked once, into the tile, as f16, which holds
// -127 .. 127 exactly. Sums are in the same order, whatever the tile.
//
// A workgroup makes TILE_M x TILE_N outputs with SLICES x GROUP_M x GROUP_N subgroups, each holding SUB_M x SUB_N
// result matrices in registers. Results pass through workgroup memory one matrix a subgroup at a time, where slices
// meet and the epilogue is applied, so that neighbours write neighbours. Grid: ceil(n / TILE_N) x ceil(m / TILE_M).
// FLOPs per byte of memory traffic, x in f16: 2 TILE_M TILE_N / (2 TILE_M + TILE_N): 85 at 128 x 128.
// Workgroup memory: 4 (TILE_M + TILE_N) (TILE_K + 8) + 4 SUBGROUPS MATRIX_M MATRIX_N bytes: 28 KiB as it stands.
requires immediate_address_space;
requires subgroup_id;
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;

alias In4 = vec4<f32>;      // vec4<f16>: storage of x
alias Out = f32;            // f16: storage of y
alias Half = f16;           // what is multiplied
const MATRIX_M: u32 = 16;   // one of the adapter's subgroupMatrixConfigs
const MATRIX_N: u32 = 16;
const MATRIX_K: u32 = 16;
const LANES: u32 = 32;      // the adapter's subgroup size
const SUB_M: u32 = 2;       // matrices of a subgroup, down and across
const SUB_N: u32 = 2;
const GROUP_M: u32 = 2;     // subgroups of a slice, down and across
const GROUP_N: u32 = 2;
const STEPS: u32 = 1;       // matrices along k of a slice in one tile
const SLICES: u32 = 2;

const TILE_M: u32 = MATRIX_M * SUB_M * GROUP_M;
const TILE_N: u32 = MATRIX_N * SUB_N * GROUP_N;
const TILE_K: u32 = MATRIX_K * STEPS * SLICES;
const QUADS: u32 = TILE_K / 4;
const LINE: u32 = TILE_K + 8;
const PATCHES: u32 = GROUP_M * GROUP_N;
const SUBGROUPS: u32 = SLICES * PATCHES;
const INVOCATIONS: u32 = LANES * SUBGROUPS;
const MATRIX: u32 = MATRIX_M * MATRIX_N;
const X_TASKS: u32 = (TILE_M * QUADS + INVOCATIONS - 1) / INVOCATIONS;
const W_TASKS: u32 = (TILE_N * QUADS + INVOCATIONS - 1) / INVOCATIONS;

alias Left = subgroup_matrix_left<Half, MATRIX_K, MATRIX_M>;
alias Right = subgroup_matrix_right<Half, MATRIX_N, MATRIX_K>;
alias Result = subgroup_matrix_result<f32, MATRIX_N, MATRIX_M>;

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

// [parity of the step][row or column][k]
var<workgroup> x_tile: array<Half, 2 * TILE_M * LINE>;
var<workgroup> w_tile: array<Half, 2 * TILE_N * LINE>;
var<workgroup> results: array<f32, SUBGROUPS * MATRIX>;  // [slice][patch][row][column]

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
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32,
        @builtin(subgroup_id) subgroup: u32) {
  let first_row = group.y * TILE_M;
  let first_column = group.x * TILE_N;
  let slice = subgroup / PATCHES;
  let sub_row = subgroup % PATCHES / GROUP_N * SUB_M * MATRIX_M;
  let sub_column = subgroup % GROUP_N * SUB_N * MATRIX_N;

  var next_x: array<In4, X_TASKS>;
  var next_w: array<u32, W_TASKS>;
  var sum: array<array<Result, SUB_N>, SUB_M>;

  let steps = (params.k + TILE_K - 1) / TILE_K;
  for (var step = 0u; step <= steps; step++) {
    // Loads for this step are under way while the step before is multiplied.
    if (step < steps) {
      for (var t = 0u; t < X_TASKS; t++) {
        let i = index + INVOCATIONS * t;
        if (i < TILE_M * QUADS) { next_x[t] = load_x(first_row + i / QUADS, step * QUADS + i % QUADS); }
      }
      for (var t = 0u; t < W_TASKS; t++) {
        let i = index + INVOCATIONS * t;
        if (i < TILE_N * QUADS) { next_w[t] = load_w(first_column + i / QUADS, step * QUADS + i % QUADS); }
      }
    }
    if (step > 0) {
      let x_at = ((step - 1) % 2 * TILE_M + sub_row) * LINE + slice * MATRIX_K;
      let w_at = ((step - 1) % 2 * TILE_N + sub_column) * LINE + slice * MATRIX_K;
      for (var t = 0u; t < STEPS; t++) {
        let k = t * SLICES * MATRIX_K;
        var left: array<Left, SUB_M>;
        for (var i = 0u; i < SUB_M; i++) {
          left[i] = subgroupMatrixLoad<Left, row_major>(&x_tile, x_at + i * MATRIX_M * LINE + k, LINE);
        }
        for (var j = 0u; j < SUB_N; j++) {
          let right = subgroupMatrixLoad<Right, col_major>(&w_tile, w_at + j * MATRIX_N * LINE + k, LINE);
          for (var i = 0u; i < SUB_M; i++) { sum[i][j] = subgroupMatrixMultiplyAccumulate(left[i], right, sum[i][j]); }
        }
      }
    }
    if (step < steps) {
      for (var t = 0u; t < X_TASKS; t++) {
        let i = index + INVOCATIONS * t;
        let at = (step % 2 * TILE_M + i / QUADS) * LINE + i % QUADS * 4;
        if (i < TILE_M * QUADS) { for (var c = 0u; c < 4; c++) { x_tile[at + c] = Half(next_x[t][c]); } }
      }
      for (var t = 0u; t < W_TASKS; t++) {
        let i = index + INVOCATIONS * t;
        let at = (step % 2 * TILE_N + i / QUADS) * LINE + i % QUADS * 4;
        let weights = unpack(next_w[t]);
        if (i < TILE_N * QUADS) { for (var c = 0u; c < 4; c++) { w_tile[at + c] = Half(weights[c]); } }
      }
    }
    workgroupBarrier();
  }

  for (var i = 0u; i < SUB_M; i++) {
    for (var j = 0u; j < SUB_N; j++) {
      subgroupMatrixStore<row_major>(&results, subgroup * MATRIX, sum[i][j], MATRIX_N);
      workgroupBarrier();
      for (var output = index; output < PATCHES * MATRIX; output += INVOCATIONS) {
        var value = 0.0;
        for (var s = 0u; s < SLICES; s++) { value += results[s * PATCHES * MATRIX + output]; }
        let place = output / MATRIX;
        let row = (place / GROUP_N * SUB_M + i) * MATRIX_M + output % MATRIX / MATRIX_N;
        let column = (place % GROUP_N * SUB_N + j) * MATRIX_N + output % MATRIX_N;
        finish(value, first_row + row, first_column + column);
      }
      workgroupBarrier();
    }
  }
}
