// scale: x = factor * x over a range of a flat array, or x = 0 with ZERO, whatever was there.
//
//   x  [>= offset + size]  vec4f
//
// offset and size are counted in Vecs. One invocation a Vec. Grid: ceil(size / 64), folded over y beyond 32768.
requires immediate_address_space;

override ZERO: bool = false;

struct Params { offset: u32, size: u32, factor: f32 }

@group(0) @binding(0) var<storage, read_write> x: array<vec4f>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let at = id.y * 32768 * 64 + id.x;
  if (at >= params.size) { return; }
  let i = params.offset + at;
  if (ZERO) { x[i] = vec4f(0); } else { x[i] *= params.factor; }
}
