// embedding backward: d_table[row, :] += sum of d_y[i, :] over all i with index[i] = row, in the order of i.
//
//   d_y     [*, width]              f32
//   uses    [>= offset + 2 * count] u32   the rows that were used, ascending; then, for each, its i. MASKED rows are
//                                         padding and come last
//   d_table [*, width]              f32   added to; rows that were not used are left alone
//
// width is counted in Vecs. One invocation a Vec of a use: that of a row's first use walks the row's other uses, the
// rest have nothing to do. So the work grows with the uses, not with the table, and no two invocations add to one sum.
// Grid: ceil(count * width / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: a width that is not a multiple of 4
const MASKED: u32 = 0xffffffffu;

struct Params { count: u32, width: u32, offset: u32 }

@group(0) @binding(0) var<storage, read> d_y: array<Vec>;
@group(0) @binding(1) var<storage, read> uses: array<u32>;
@group(0) @binding(2) var<storage, read_write> d_table: array<Vec>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let at = id.y * 32768 * 64 + id.x;
  if (at >= params.count * params.width) { return; }
  let use_number = at / params.width;
  let column = at % params.width;
  let rows = params.offset;
  let row = uses[rows + use_number];
  if (row == MASKED) { return; }
  if (use_number > 0) {
    if (uses[rows + use_number - 1] == row) { return; }
  }
  var sum = Vec(0);
  for (var u = use_number; u < params.count; u++) {
    if (uses[rows + u] != row) { break; }
    sum += d_y[uses[rows + params.count + u] * params.width + column];
  }
  d_table[row * params.width + column] += sum;
}
