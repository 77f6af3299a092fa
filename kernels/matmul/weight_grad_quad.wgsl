// weight gradient of a linear layer (CPU drivers, four lanes): dw = dy^T . x, a sum over the rows.
//
//   dy   [m, n]  Elem   row-major, any n
//   x    [m, k]  Elem   k a multiple of 4
//   dw   [n, k]  f32    PyTorch's layout [out, in]; written, added to when ACCUMULATE
//
// weight_grad_cpu.wgsl in the manner of cpu_quad.wgsl: lane l loads the values of dy in row l of a group of four
// rows of dw, quad swaps bring it rows l ^ 1, l ^ 2, l ^ 3, and column s of an accumulator belongs to row (lane ^ s).
// A workgroup (one subgroup) makes 16 rows of dw x 16 columns. Sums run in the order of the rows, any m.
// Grid: ceil(k / 16) x ceil(n / 16).
requires immediate_address_space;
enable subgroups;

alias Elem = f32;         // f16: storage of dy
alias Elem4 = vec4<f32>;  // vec4<f16>: storage of x
const LANES: u32 = 4;     // the adapter's subgroup size
const ROWS: u32 = 16;

override ACCUMULATE: bool = false;

struct Params { m: u32, k: u32, n: u32 }

@group(0) @binding(0) var<storage, read> dy: array<Elem>;
@group(0) @binding(1) var<storage, read> x: array<Elem4>;
@group(0) @binding(2) var<storage, read_write> dw: array<vec4f>;
var<immediate> params: Params;

// Columns: the value in this lane, in the lane beside it, below it, across.
fn meet(v: vec4f) -> mat4x4f {
  return mat4x4f(v, quadSwapX(v), quadSwapY(v), quadSwapDiagonal(v));
}

// Outer products of four values of x with dy's of four rows: this lane's and its neighbours'.
fn meet_one(values: vec4f, v: f32) -> mat4x4f {
  return mat4x4f(values * v, values * quadSwapX(v), values * quadSwapY(v), values * quadSwapDiagonal(v));
}

// dy in rows i .. i + 3 of a column.
fn four_rows(at: u32) -> vec4f {
  return vec4f(f32(dy[at]), f32(dy[at + params.n]), f32(dy[at + 2 * params.n]), f32(dy[at + 3 * params.n]));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let quads = params.k / 4;
  let quad = group.x * LANES + lane;
  let x_column = min(quad, quads - 1); // past the end: read the last, not written
  let first_row = group.y * ROWS;
  let last = params.n - 1;
  let column0 = min(first_row + lane, last);
  let column1 = min(first_row + 4 + lane, last);
  let column2 = min(first_row + 8 + lane, last);
  let column3 = min(first_row + 12 + lane, last);

  var acc0 = mat4x4f();
  var acc1 = mat4x4f();
  var acc2 = mat4x4f();
  var acc3 = mat4x4f();
  var i = 0u;
  for (; i + 4 <= params.m; i += 4) {
    let at = i * quads + x_column;
    let origin = i * params.n;
    let x_block = mat4x4f(vec4f(x[at]), vec4f(x[at + quads]), vec4f(x[at + 2 * quads]), vec4f(x[at + 3 * quads]));
    acc0 += x_block * meet(four_rows(origin + column0));
    acc1 += x_block * meet(four_rows(origin + column1));
    acc2 += x_block * meet(four_rows(origin + column2));
    acc3 += x_block * meet(four_rows(origin + column3));
  }
  for (; i < params.m; i++) {
    let values = vec4f(x[i * quads + x_column]);
    let origin = i * params.n;
    acc0 += meet_one(values, f32(dy[origin + column0]));
    acc1 += meet_one(values, f32(dy[origin + column1]));
    acc2 += meet_one(values, f32(dy[origin + column2]));
    acc3 += meet_one(values, f32(dy[origin + column3]));
  }

  if (quad >= quads) { return; }
  let acc = array(acc0, acc1, acc2, acc3);
  for (var r = 0u; r < ROWS; r++) {
    let row = first_row + (r ^ lane);
    if (row < params.n) {
      let at = row * quads + quad;
      var sum = acc[r / 4][r % 4];
      if (ACCUMULATE) { sum += dw[at]; }
      dw[at] = sum;
    }
  }
}
