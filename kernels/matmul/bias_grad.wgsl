// bias gradient of a linear layer: db[n] = sum over the rows of dy[m, n].
//
//   dy   [m, n]  Elem   row-major
//   db   [n]     Sum    written, added to when ACCUMULATE
//
// Any m, n; where four columns are one vec4, n counts these. A workgroup sums COLUMNS columns; invocation (c, s) takes
// the rows s, s + SLICES, ... of column c, then the slices are added in their order. Workgroup memory: COLUMNS SLICES
// sums.
// GPUs: 16 x 16 as it stands. CPU drivers: COLUMNS = the subgroup size, SLICES = 1.
// Grid: ceil(n / COLUMNS).
requires immediate_address_space;

alias Elem = f32;  // vec4<f32>: four columns at a time
alias Sum = f32;   // vec4<f32> likewise
const COLUMNS: u32 = 16;
const SLICES: u32 = 16;

override ACCUMULATE: bool = false;

struct Params { m: u32, n: u32 }

@group(0) @binding(0) var<storage, read> dy: array<Elem>;
@group(0) @binding(1) var<storage, read_write> db: array<Sum>;
var<immediate> params: Params;

var<workgroup> partial: array<array<Sum, COLUMNS>, SLICES>;

@compute @workgroup_size(COLUMNS, SLICES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let column = group.x * COLUMNS + local.x;
  let clamped = min(column, params.n - 1);
  var sum = Sum();
  for (var row = local.y; row < params.m; row += SLICES) { sum += Sum(dy[row * params.n + clamped]); }
  if (SLICES > 1) {
    partial[local.y][local.x] = sum;
    workgroupBarrier();
    if (local.y > 0) { return; }
    for (var s = 1u; s < SLICES; s++) { sum += partial[s][local.x]; }
  }
  if (column >= params.n) { return; }
  if (ACCUMULATE) { sum += db[column]; }
  db[column] = sum;
}
