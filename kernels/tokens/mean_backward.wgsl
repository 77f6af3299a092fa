// mean_tokens backward: d_x[b, token, :] = d_y[b, :] / length; with ADD it is added to d_x.
//
//   d_y  [batch, width]          f32
//   d_x  [batch, length, width]  f32   written; with ADD added to
//
// size is the number of Vecs of d_x, width is counted in Vecs. One invocation a Vec of d_x.
// Grid: ceil(size / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: a width that is not a multiple of 4
override ADD: bool = false;

struct Params { size: u32, length: u32, width: u32 }

@group(0) @binding(0) var<storage, read> d_y: array<Vec>;
@group(0) @binding(1) var<storage, read_write> d_x: array<Vec>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let at = id.y * 32768 * 64 + id.x;
  if (at >= params.size) { return; }
  let value = d_y[at / params.width / params.length * params.width + at % params.width] / f32(params.length);
  if (ADD) { d_x[at] += value; } else { d_x[at] = value; }
}
