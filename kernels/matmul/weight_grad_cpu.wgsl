// weight gradient of a linear layer (CPU drivers): dw = dy^T . x, a sum over the rows.
//
//   dy   [m, n]  Elem   row-major, any n
//   x    [m, k]  Elem   k a multiple of 4
//   dw   [n, k]  f32    PyTorch's layout [out, in]; written, added to when ACCUMULATE
//
// cpu.wgsl with both operands read as they lie. A workgroup (one subgroup) makes ROWS rows of dw x 4 * LANES
// columns. For each four rows of the sum a lane loads the 4 x 4 block of x in its columns and the four values of dy
// in its row of dw, which subgroupShuffle spreads. Sums run in the order of the rows, any m.
// Grid: ceil(k / (4 * LANES)) x ceil(n / ROWS).
requires immediate_address_space;
enable subgroups;

alias Elem = f32;         // f16: storage of dy
alias Elem4 = vec4<f32>;  // vec4<f16>: storage of x
const LANES: u32 = 8;     // the adapter's subgroup size
const ROWS: u32 = 16;     // multiple of LANES

override ACCUMULATE: bool = false;

struct Params { m: u32, k: u32, n: u32 }

@group(0) @binding(0) var<storage, read> dy: array<Elem>;
@group(0) @binding(1) var<storage, read> x: array<Elem4>;
@group(0) @binding(2) var<storage, read_write> dw: array<vec4f>;
var<immediate> params: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let quads = params.k / 4;
  let quad = group.x * LANES + lane;
  let x_column = min(quad, quads - 1); // past the end: read the last, not written
  let first_row = group.y * ROWS;
  var dy_column: array<u32, ROWS / LANES>;
  for (var g = 0u; g < ROWS / LANES; g++) {
    dy_column[g] = min(first_row + g * LANES + lane, params.n - 1);
  }

  var acc: array<vec4f, ROWS>;
  var i = 0u;
  for (; i + 4 <= params.m; i += 4) {
    let at = i * quads + x_column;
    let x_block = mat4x4f(vec4f(x[at]), vec4f(x[at + quads]), vec4f(x[at + 2 * quads]), vec4f(x[at + 3 * quads]));
    for (var g = 0u; g < ROWS / LANES; g++) {
      let origin = i * params.n + dy_column[g];
      let part = vec4f(f32(dy[origin]), f32(dy[origin + params.n]), f32(dy[origin + 2 * params.n]), f32(dy[origin + 3 * params.n]));
      for (var r = 0u; r < LANES; r++) {
        acc[g * LANES + r] += x_block * subgroupShuffle(part, r);
      }
    }
  }
  for (; i < params.m; i++) {
    let values = vec4f(x[i * quads + x_column]);
    for (var g = 0u; g < ROWS / LANES; g++) {
      let part = f32(dy[i * params.n + dy_column[g]]);
      for (var r = 0u; r < LANES; r++) {
        acc[g * LANES + r] += values * subgroupShuffle(part, r);
      }
    }
  }

  if (quad >= quads) { return; }
  let end = min(first_row + ROWS, params.n);
  for (var row = first_row; row < end; row++) {
    let at = row * quads + quad;
    var sum = acc[row - first_row];
    if (ACCUMULATE) { sum += dw[at]; }
    dw[at] = sum;
  }
}
