// gate backward: d_x = d_y * gate, d_gate = d_y * x; the gradient of the residual is d_y itself.
//
//   x, d_y, d_x   [rows, width]   f32
//   gate, d_gate  [rows, stride]  f32   columns gate_offset .. gate_offset + width; written
//
// size, width, stride and gate_offset are counted in Vecs.
// One invocation a Vec. Grid: ceil(size / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: sizes that are not multiples of 4

struct Params { size: u32, width: u32, stride: u32, gate_offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<Vec>;
@group(0) @binding(1) var<storage, read> gate: array<Vec>;
@group(0) @binding(2) var<storage, read> d_y: array<Vec>;
@group(0) @binding(3) var<storage, read_write> d_x: array<Vec>;
@group(0) @binding(4) var<storage, read_write> d_gate: array<Vec>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.y * 32768 * 64 + id.x;
  if (i >= params.size) { return; }
  let at = i / params.width * params.stride + params.gate_offset + i % params.width;
  d_x[i] = d_y[i] * gate[at];
  d_gate[at] = d_y[i] * x[i];
}
