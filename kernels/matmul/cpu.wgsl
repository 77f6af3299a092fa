// matmul (CPU drivers): y = epilogue(x . w^T) with w packed so that a lane reads one 4 x 4 block a load.
//
//   x        [m, k]            In       row-major; k a multiple of 4
//   w        [ceil(n / (4 * LANES))][k / 4][LANES] mat4x4f, zero padded (see pack.wgsl):
//            in block (c, i, lane), column q, row j is weight[out = (c * LANES + lane) * 4 + j][in = 4 * i + q]
//   bias     [n]               f32      read when HAS_BIAS
//   gate     [m, gate_stride]  f32      columns gate_offset .. + n, read when HAS_GATE; both multiples of 4
//   residual [m, n]            f32      read when HAS_RESIDUAL; may not be the buffer of y
//   y        [m, n]            Out      n a multiple of 4; written, added to when ACCUMULATE
//
// Epilogue, in this order: + bias; activation (0 none, 1 GELU by erf, 2 SiLU); * gate; + residual; + y.
//
// CPU drivers run the lanes of a subgroup as one SIMD register, so the subgroup is the workgroup: no barriers,
// no workgroup memory. Loads cost most: each lane loads one row's four k of x and one block of w, and the rows
// are spread over the lanes by subgroupShuffle. A workgroup makes ROWS rows x 4 * LANES columns, a lane
// ROWS x 4, from two k at a time: of four, the values of 32 rows would no longer stay near. ROWS does not change the
// order of a sum, that of k.
// Grid: T ceil(n / (4 * LANES)) x ceil(ceil(m / ROWS) / T): T groups of rows, one after the other, share the columns of
// w that are in the cache.
requires immediate_address_space;
enable subgroups;

alias In4 = vec4<f32>;    // vec4<f16>: storage of x
alias Out4 = vec4<f32>;   // vec4<f16>: storage of y
const LANES: u32 = 8;     // the adapter's subgroup size
const ROWS: u32 = 16;     // multiple of LANES

override HAS_BIAS: bool = false;
override ACTIVATION: u32 = 0;
override HAS_GATE: bool = false;
override HAS_RESIDUAL: bool = false;
override ACCUMULATE: bool = false;

struct Params { m: u32, k: u32, n: u32, gate_stride: u32, gate_offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<In4>;
@group(0) @binding(1) var<storage, read> w: array<mat4x4f>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read> gate: array<vec4f>;
@group(0) @binding(4) var<storage, read> residual: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<Out4>;
var<immediate> params: Params;

// Error function, within 1 ulp before rounding of exp: a polynomial near zero, 1 - exp(polynomial) beyond.
// Coefficients: N. Juffa, "Fast and accurate erff".
fn erf(v: vec4f) -> vec4f {
  let s = v * v;
  var p = ((((-5.96761703e-4 * s + 4.99119423e-3) * s - 2.67681349e-2) * s + 1.12819925e-1) * s - 3.76125336e-1) * s;
  let near = (p + 1.28379166e-1) * v + v;
  let t = min(abs(v), vec4f(4)); // erf(4) is 1 in f32
  p = (-1.72853470e-5 * t + 3.83197126e-4) * t * t + (-3.88396438e-3 * t + 2.42546219e-2);
  p = ((p * t - 1.06777877e-1) * t - 6.34846687e-1) * t - 1.28717512e-1;
  return select(sign(v) * (1.0 - exp(p * t - t)), near, t <= vec4f(0.927734375));
}

fn activate(v: vec4f) -> vec4f {
  if (ACTIVATION == 1) { return 0.5 * v * (1.0 + erf(v * 0.70710678)); }
  if (ACTIVATION == 2) { return v / (1.0 + exp(-v)); }
  return v;
}

fn finish(sum: vec4f, row: u32, quad: u32) {
  let at = row * (params.n / 4) + quad;
  var value = sum;
  if (HAS_BIAS) { value += bias[quad]; }
  value = activate(value);
  if (HAS_GATE) { value *= gate[(row * params.gate_stride + params.gate_offset) / 4 + quad]; }
  if (HAS_RESIDUAL) { value += residual[at]; }
  if (ACCUMULATE) { value += vec4f(y[at]); }
  y[at] = Out4(value);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let quads = params.k / 4;
  let together = groups.x / ((params.n + 4 * LANES - 1) / (4 * LANES));
  let columns = group.x / together;
  let first_row = (group.y * together + group.x % together) * ROWS;
  if (first_row >= params.m) { return; }

  // Where this lane's rows of x start; rows past the end read the last one and are not written.
  var x_row: array<u32, ROWS / LANES>;
  for (var g = 0u; g < ROWS / LANES; g++) {
    x_row[g] = min(first_row + g * LANES + lane, params.m - 1) * quads;
  }

  var acc: array<vec4f, ROWS>;
  var at = columns * quads * LANES + lane;
  for (var i = 0u; i < quads; i++) {
    var part: array<vec4f, ROWS / LANES>;
    for (var g = 0u; g < ROWS / LANES; g++) { part[g] = vec4f(x[x_row[g] + i]); }
    for (var h = 0u; h < 4; h += 2) {
      let w0 = w[at][h];
      let w1 = w[at][h + 1];
      for (var g = 0u; g < ROWS / LANES; g++) {
        for (var r = 0u; r < LANES; r++) {
          let v = subgroupShuffle(vec2f(part[g][h], part[g][h + 1]), r);
          let row = g * LANES + r;
          acc[row] = fma(w1, vec4f(v.y), fma(w0, vec4f(v.x), acc[row]));
        }
      }
    }
    at += LANES;
  }

  let quad = columns * LANES + lane;
  if (quad * 4 >= params.n) { return; }
  // Bounds that are not constant keep the driver from unrolling this loop: a tenth of the compile time.
  let end = min(first_row + ROWS, params.m);
  for (var row = first_row; row < end; row++) { finish(acc[row - first_row], row, quad); }
}
