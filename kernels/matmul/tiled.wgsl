// matmul (GPUs): y = epilogue(x . w^T), tiles in workgroup memory, a block of outputs in each invocation's registers.
//
//   x        [m, k]            In       row-major
//   w        [n, k]            Weight   PyTorch's layout [out, in]; [k, n] when W_IS_KN
//   bias     [n]               f32      read when HAS_BIAS
//   gate     [m, gate_stride]  f32      columns gate_offset .. gate_offset + n, read when HAS_GATE
//   residual [m, n]            f32      read when HAS_RESIDUAL; may not be the buffer of y
//   y        [m, n]            Out      written; added to when ACCUMULATE
//
// Epilogue, in this order: + bias; activation (0 none, 1 GELU by erf, 2 SiLU); * gate; + residual; + y.
// With W_IS_KN it is also the gradient with regard to the input: dx[m, k] = dy[m, n] . w[n, k].
//
// Any m, k, n. A workgroup (16 x 16) makes TILE_M x TILE_N outputs. In each step of TILE_K it copies that much of
// its rows of x and w into workgroup memory, four rows to a vec4, and every invocation multiplies
// 4 ROW_QUADS x 4 COLUMN_QUADS outer products out of it. What this adds to the reference: every number that is
// loaded serves 64 outputs, every number read from workgroup memory four or more.
// Grid: ceil(n / TILE_N) x ceil(m / TILE_M), TILE_M = 64 ROW_QUADS, TILE_N = 64 COLUMN_QUADS.
// Workgroup memory: 16 TILE_K (TILE_M / 4 + TILE_N / 4 + 2) bytes: 8704 as it stands.
requires immediate_address_space;

alias In = f32;      // f16: storage of x
alias Out = f32;     // f16: storage of y
alias Weight = f32;  // f16: storage of w
const ROW_QUADS: u32 = 1;
const COLUMN_QUADS: u32 = 1;
const TILE_K: u32 = 16;

const TILE_M: u32 = 64 * ROW_QUADS;
const TILE_N: u32 = 64 * COLUMN_QUADS;

override HAS_BIAS: bool = false;
override ACTIVATION: u32 = 0;
override HAS_GATE: bool = false;
override HAS_RESIDUAL: bool = false;
override ACCUMULATE: bool = false;
override W_IS_KN: bool = false;

struct Params { m: u32, k: u32, n: u32, gate_stride: u32, gate_offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<In>;
@group(0) @binding(1) var<storage, read> w: array<Weight>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> gate: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<Out>;
var<immediate> params: Params;

// [k][row / 4]; one vec4 of padding a line keeps the writers of a column in different banks.
var<workgroup> x_tile: array<array<vec4f, TILE_M / 4 + 1>, TILE_K>;
var<workgroup> w_tile: array<array<vec4f, TILE_N / 4 + 1>, TILE_K>;

fn load_x(row: u32, k: u32) -> f32 {
  if (row >= params.m || k >= params.k) { return 0.0; }
  return f32(x[row * params.k + k]);
}

fn load_w(column: u32, k: u32) -> f32 {
  if (column >= params.n || k >= params.k) { return 0.0; }
  if (W_IS_KN) { return f32(w[k * params.n + column]); }
  return f32(w[column * params.k + k]);
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

fn finish(sum: f32, row: u32, column: u32) {
  if (row >= params.m || column >= params.n) { return; }
  let at = row * params.n + column;
  var value = sum;
  if (HAS_BIAS) { value += bias[column]; }
  value = activate(value);
  if (HAS_GATE) { value *= gate[row * params.gate_stride + params.gate_offset + column]; }
  if (HAS_RESIDUAL) { value += residual[at]; }
  if (ACCUMULATE) { value += f32(y[at]); }
  y[at] = Out(value);
}

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u,
        @builtin(local_invocation_index) index: u32) {
  let first_row = group.y * TILE_M;
  let first_column = group.x * TILE_N;
  // Row quad i of an invocation is quad local.y + 16 i of the tile, column quad j is local.x + 16 j.
  var acc: array<array<mat4x4f, COLUMN_QUADS>, ROW_QUADS>;

  for (var start = 0u; start < params.k; start += TILE_K) {
    for (var i = index; i < TILE_K * TILE_M / 4; i += 256) {
      let k = i % TILE_K;
      let quad = i / TILE_K;
      let row = first_row + quad * 4;
      x_tile[k][quad] = vec4f(load_x(row, start + k), load_x(row + 1, start + k),
                              load_x(row + 2, start + k), load_x(row + 3, start + k));
    }
    for (var i = index; i < TILE_K * TILE_N / 4; i += 256) {
      let k = select(i % TILE_K, i / (TILE_N / 4), W_IS_KN);
      let quad = select(i / TILE_K, i % (TILE_N / 4), W_IS_KN);
      let column = first_column + quad * 4;
      w_tile[k][quad] = vec4f(load_w(column, start + k), load_w(column + 1, start + k),
                              load_w(column + 2, start + k), load_w(column + 3, start + k));
    }
    workgroupBarrier();

    for (var k = 0u; k < TILE_K; k++) {
      for (var i = 0u; i < ROW_QUADS; i++) {
        let rows = x_tile[k][local.y + 16 * i];
        for (var j = 0u; j < COLUMN_QUADS; j++) {
          let columns = w_tile[k][local.x + 16 * j];
          acc[i][j] += mat4x4f(rows.x * columns, rows.y * columns, rows.z * columns, rows.w * columns);
        }
      }
    }
    workgroupBarrier();
  }

  for (var i = 0u; i < ROW_QUADS; i++) {
    for (var j = 0u; j < COLUMN_QUADS; j++) {
      for (var r = 0u; r < 4; r++) {
        for (var c = 0u; c < 4; c++) {
          finish(acc[i][j][r][c], first_row + (local.y + 16 * i) * 4 + r, first_column + (local.x + 16 * j) * 4 + c);
        }
      }
    }
  }
}
