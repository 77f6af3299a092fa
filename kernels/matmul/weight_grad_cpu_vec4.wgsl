// weight gradient of a linear layer (CPU drivers): dw = dy^T . x, a sum over the rows.
//
//   dy   [m, n]  f32  row-major, n a multiple of 4
//   x    [m, k]  f32  k a multiple of 4
//   dw   [n, k]  f32  PyTorch's layout [out, in]; written, added to when ACCUMULATE
//
// weight_grad_cpu.wgsl with dy loaded by four: a lane holds dy for four rows of dw, so that one load a row of the sum
// serves 4 * LANES rows of dw. A workgroup (one subgroup) makes 4 * LANES rows x 4 * LANES columns, from two rows of
// the sum at a time: more no longer fit the registers of a CPU and cost four times as much. The sum is over the rows
// first .. end: with many rows, dispatches of some each keep what several workgroups read in the cache.
// Grid: ceil(k / (4 * LANES)) x ceil(n / (4 * LANES)).
requires immediate_address_space;
enable subgroups;

const LANES: u32 = 8;     // the adapter's subgroup size

override ACCUMULATE: bool = false;

struct Params { first: u32, end: u32, k: u32, n: u32 }

@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> dw: array<vec4f>;
var<immediate> params: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let x_quads = params.k / 4;
  let dy_quads = params.n / 4;
  let column = group.x * LANES + lane;
  var x_at = params.first * x_quads + min(column, x_quads - 1); // past the end: read the last, not written
  var dy_at = params.first * dy_quads + min(group.y * LANES + lane, dy_quads - 1);

  var acc: array<vec4f, 4 * LANES>;
  var i = params.first;
  for (; i + 2 <= params.end; i += 2) {
    let x_rows = mat2x4f(x[x_at], x[x_at + x_quads]);
    let dy_columns = transpose(mat2x4f(dy[dy_at], dy[dy_at + dy_quads]));
    x_at += 2 * x_quads;
    dy_at += 2 * dy_quads;
    for (var r = 0u; r < LANES; r++) {
      for (var c = 0u; c < 4; c++) { acc[4 * r + c] += x_rows * subgroupShuffle(dy_columns[c], r); }
    }
  }
  if (i < params.end) {
    let x_row = x[x_at];
    let dy_row = dy[dy_at];
    for (var r = 0u; r < LANES; r++) {
      for (var c = 0u; c < 4; c++) { acc[4 * r + c] += x_row * subgroupShuffle(dy_row[c], r); }
    }
  }

  if (column >= x_quads) { return; }
  // Bounds that are not constant keep the driver from unrolling this loop.
  let first_row = group.y * 4 * LANES;
  let end = min(first_row + 4 * LANES, params.n);
  for (var row = first_row; row < end; row++) {
    let at = row * x_quads + column;
    var sum = acc[row - first_row];
    if (ACCUMULATE) { sum += dw[at]; }
    dw[at] = sum;
  }
}
