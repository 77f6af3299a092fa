// matmul (GPUs): y = epilogue(x . w^T) by vec4 loads, two tiles in turn, sums of 128 products.
//
//   x        [m, k]            In4      row-major
//   w        [n, k]            Weight4  PyTorch's layout [out, in]; [k, n] when W_IS_KN
//   bias     [n]               f32      read when HAS_BIAS
//   gate     [m, gate_stride]  f32      columns gate_offset .. gate_offset + n, read when HAS_GATE
//   residual [m, n]            f32      read when HAS_RESIDUAL; may not be the buffer of y
//   y        [m, n]            Out4     written; added to when ACCUMULATE
//
// Epilogue, in this order: + bias; activation (0 none, 1 GELU by erf, 2 SiLU); * gate; + residual; + y.
// With W_IS_KN it is also the gradient with regard to the input: dx[m, k] = dy[m, n] . w[n, k].
//
// Any m; k, n and the gate's stride and offset multiples of 4. For GPUs without subgroup matrices, and for f32 weights
// on all. What this adds to tiled.wgsl:
//   - Loads and stores of 4 numbers; tiles keep the type that they are stored in, so that f16 takes half the
//     workgroup memory and half its traffic. Products and sums are f32.
//   - Two tiles in turn: the next step's numbers travel from memory to registers while this step's are multiplied, and
//     one barrier a step is enough.
//   - An invocation makes ROWS x 4 outputs: for each 4 k, 4 (ROWS + 4) numbers come from workgroup memory for
//     32 ROWS operations.
//   - Padded strides: 8 invocations that write or read vec4s at once find 8 different groups of banks.
// A sum goes over k in slices of 128, and the slices' sums are added in order. few_rows.wgsl does the same with the
// slices side by side, so that a row's value does not depend on which of the two has made it.
//
// A workgroup of 16 x 16 makes TILE_M x 64 outputs, TILE_M = 16 ROWS. Invocation (tx, ty): rows ty + 16 i, columns
// 4 tx .. 4 tx + 3. Grid: ceil(n / 64) x ceil(m / TILE_M).
// FLOPs per byte of memory traffic, f32: TILE_M 64 / (2 (TILE_M + 64)): 16 at TILE_M 64; in f16 32.
// Workgroup memory: 2 QUADS (X_LINE + W_LINE) vec4s: 9 KiB at ROWS 4 and 13 KiB at ROWS 8, with QUADS 2 in f32 and
// QUADS 4 in f16 alike.
requires immediate_address_space;

alias In4 = vec4<f32>;      // vec4<f16>: storage of x
alias Out4 = vec4<f32>;     // vec4<f16>: storage of y
alias Weight4 = vec4<f32>;  // vec4<f16>: storage of w
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
override W_IS_KN: bool = false;

struct Params { m: u32, k: u32, n: u32, gate_stride: u32, gate_offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<In4>;
@group(0) @binding(1) var<storage, read> w: array<Weight4>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read> gate: array<vec4f>;
@group(0) @binding(4) var<storage, read> residual: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<Out4>;
var<immediate> params: Params;

// [parity of the step][quad of k][row or column]: 4 k of one row of x, or of one column of y. Column c of w_tile lies
// at c + c / 8, since readers of columns 4 tx + j walk by 4.
var<workgroup> x_tile: array<In4, 2 * QUADS * X_LINE>;
var<workgroup> w_tile: array<Weight4, 2 * QUADS * W_LINE>;

fn load_x(row: u32, quad: u32) -> In4 {
  if (row >= params.m || quad >= params.k / 4) { return In4(); }
  return x[row * (params.k / 4) + quad];
}

fn load_w(column: u32, quad: u32) -> Weight4 {
  if (column >= params.n || quad >= params.k / 4) { return Weight4(); }
  if (!W_IS_KN) { return w[column * (params.k / 4) + quad]; }
  let at = 4 * quad * (params.n / 4) + column / 4;
  let c = column % 4;
  return Weight4(w[at][c], w[at + params.n / 4][c], w[at + 2 * (params.n / 4)][c], w[at + 3 * (params.n / 4)][c]);
}

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
  var value = sum;
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
  var next_w: array<Weight4, W_TASKS>;
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
        let quad = select(i % QUADS, i / TILE_N, W_IS_KN);
        let column = select(i / QUADS, i % TILE_N, W_IS_KN);
        if (i < QUADS * TILE_N) { next_w[t] = load_w(first_column + column, step * QUADS + quad); }
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
        let quad = select(i % QUADS, i / TILE_N, W_IS_KN);
        let column = select(i / QUADS, i % TILE_N, W_IS_KN);
        if (i < QUADS * TILE_N) { w_tile[(now + quad) * W_LINE + column + column / 8] = next_w[t]; }
      }
      workgroupBarrier();
    }
  }

  for (var r = 0u; r < ROWS; r++) {
    finish(total[r] + sum[r], first_row + local.y + 16 * r, first_column + 4 * local.x);
  }
}
