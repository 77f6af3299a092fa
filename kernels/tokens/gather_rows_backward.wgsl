// gather_rows backward where a row of x was gathered once at most: d_x[j, :] = d_y[inverse[j], :], or 0 where x's row
// was not gathered; with ADD d_x[j, :] += d_y[inverse[j], :].
//
//   d_y     [*, width]             f32
//   inverse [>= offset + count]    u32   row of d_y for each row of x, MASKED where there is none
//   d_x     [count, width]         f32   written; with ADD added to
//
// width is counted in Vecs. One invocation a Vec of d_x. Grid: ceil(count * width / 64), folded over y beyond 32768.
// Rows that are gathered several times: embedding_backward.wgsl.
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: a width that is not a multiple of 4
const MASKED: u32 = 0xffffffffu;
override ADD: bool = false;

struct Params { count: u32, width: u32, offset: u32 }

@group(0) @binding(0) var<storage, read> d_y: array<Vec>;
@group(0) @binding(1) var<storage, read> inverse: array<u32>;
@group(0) @binding(2) var<storage, read_write> d_x: array<Vec>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let at = id.y * 32768 * 64 + id.x;
  if (at >= params.count * params.width) { return; }
  let row = inverse[params.offset + at / params.width];
  if (row == MASKED) {
    if (!ADD) { d_x[at] = Vec(0); }
    return;
  }
  let value = d_y[row * params.width + at % params.width];
  if (ADD) { d_x[at] += value; } else { d_x[at] = value; }
}
