// sum_repeats: y[i] = sum over r < repeats of x[r, i], in order: the gradient of what was used `repeats` times.
//
//   x  [repeats, size]  f32
//   y  [size]           f32   written
//
// size is counted in Vecs. One invocation a Vec of y. Grid: ceil(size / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: a size that is not a multiple of 4

struct Params { size: u32, repeats: u32 }

@group(0) @binding(0) var<storage, read> x: array<Vec>;
@group(0) @binding(1) var<storage, read_write> y: array<Vec>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.y * 32768 * 64 + id.x;
  if (i >= params.size) { return; }
  var sum = x[i];
  for (var r = 1u; r < params.repeats; r++) { sum += x[r * params.size + i]; }
  y[i] = sum;
}
