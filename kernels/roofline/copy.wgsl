// roofline, the slope: y = x, to measure how many bytes a second memory moves.
//
//   x, y  [4 * size]  f32
//
// An invocation moves one vec4. Any adapter. Grid: ceil(size / 64), folded over y beyond 32768.
// McCalpin 1995, "Memory bandwidth and machine balance in current high performance computers" (STREAM copy).
requires immediate_address_space;

struct Params { size: u32 }

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.y * 32768 * 64 + id.x;
  if (i >= params.size) { return; }
  y[i] = x[i];
}
