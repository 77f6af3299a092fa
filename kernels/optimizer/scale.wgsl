// scale: x = factor * x over a range of a flat array, or x = 0 with ZERO, whatever was there.
//
//   x  [>= offset + size]  vec4f
//
// offset and size are counted in Vecs. A workgroup takes 64 REPEAT Vecs, 64 at a time.
// Grid: ceil(size / (64 REPEAT)), folded over y beyond 32768.
requires immediate_address_space;

const REPEAT: u32 = 1;                // CPU drivers: 32, because a workgroup costs them more than its work
override ZERO: bool = false;

struct Params { offset: u32, size: u32, factor: f32 }

@group(0) @binding(0) var<storage, read_write> x: array<vec4f>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = (group.y * 32768 + group.x) * 64 * REPEAT + lane;
  let end = min(first + 64 * REPEAT, params.size);
  for (var at = first; at < end; at += 64) {
    let i = params.offset + at;
    if (ZERO) { x[i] = vec4f(0); } else { x[i] *= params.factor; }
  }
}
