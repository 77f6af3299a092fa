// mean_tokens: y[b, :] = mean over the tokens of x[b, token, :].
//
//   x  [batch, length, width]  f32
//   y  [batch, width]          f32   written
//
// Sums go token by token. width is counted in Vecs. Bound by memory; neighbours take neighbouring columns.
// One invocation a Vec of y. Grid: ceil(batch * width / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: a width that is not a multiple of 4

struct Params { size: u32, length: u32, width: u32 }

@group(0) @binding(0) var<storage, read> x: array<Vec>;
@group(0) @binding(1) var<storage, read_write> y: array<Vec>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let at = id.y * 32768 * 64 + id.x;
  if (at >= params.size) { return; }
  let first = at / params.width * params.length * params.width + at % params.width;
  var sum = Vec(0);
  for (var token = 0u; token < params.length; token++) { sum += x[first + token * params.width]; }
  y[at] = sum / f32(params.length);
}
