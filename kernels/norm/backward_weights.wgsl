// layernorm backward, column by column: gradients of weight and bias.
//
//   d_weight_c += sum over the rows of g n      d_bias_c += sum over the rows of g
//   with n = (x - mean) r and g = d_y (1 + scale)
//
//   x, d_y            [rows, width]   f32
//   modulation        [rows, stride]  f32   read when MODULATE: scale at scale_offset
//   stats             [rows, 2]       f32   mean and r, from the row-by-row kernel
//   d_weight, d_bias  [width]         f32   added to
//
// width, stride and scale_offset are counted in Vecs. A workgroup sums COLUMNS Vecs; invocation (c, s) takes the rows
// s, s + SLICES, ... of column c, then the slices are added in their order.
// GPUs: 16 x 16 as it stands. CPU drivers: COLUMNS = the subgroup size, SLICES = 1.
// Workgroup memory: 32 COLUMNS SLICES bytes. Grid: ceil(width / COLUMNS).
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: a width that is not a multiple of 4
const COLUMNS: u32 = 16;
const SLICES: u32 = 16;
override MODULATE: bool = false;

struct Params { rows: u32, width: u32, stride: u32, scale_offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<Vec>;
@group(0) @binding(1) var<storage, read> modulation: array<Vec>;
@group(0) @binding(2) var<storage, read> d_y: array<Vec>;
@group(0) @binding(3) var<storage, read> stats: array<vec2f>;
@group(0) @binding(4) var<storage, read_write> d_weight: array<Vec>;
@group(0) @binding(5) var<storage, read_write> d_bias: array<Vec>;
var<immediate> params: Params;

struct Sums { weight: Vec, bias: Vec }
var<workgroup> partial: array<array<Sums, COLUMNS>, SLICES>;

@compute @workgroup_size(COLUMNS, SLICES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let column = group.x * COLUMNS + local.x;
  let clamped = min(column, params.width - 1);
  var sums = Sums();
  for (var row = local.y; row < params.rows; row += SLICES) {
    let at = row * params.width + clamped;
    let stat = stats[row];
    var g = d_y[at];
    if (MODULATE) { g *= 1 + modulation[row * params.stride + params.scale_offset + clamped]; }
    sums.weight += g * ((x[at] - stat.x) * stat.y);
    sums.bias += g;
  }
  if (SLICES > 1) {
    partial[local.y][local.x] = sums;
    workgroupBarrier();
    if (local.y > 0) { return; }
    for (var s = 1u; s < SLICES; s++) {
      sums.weight += partial[s][local.x].weight;
      sums.bias += partial[s][local.x].bias;
    }
  }
  if (column >= params.width) { return; }
  d_weight[column] += sums.weight;
  d_bias[column] += sums.bias;
}
