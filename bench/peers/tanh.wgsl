// tanh: y = tanh(x), element by element; a dispatch of its own for measuring what many small dispatches cost.
//
//   x, y [size]  vec4<f32>
//
// One invocation a vec4, 64 a workgroup. Grid: ceil(size / 64). Workgroup memory: none.
requires immediate_address_space;

struct Params { size: u32 }

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.size) { return; }
  y[id.x] = tanh(x[id.x]);
}
