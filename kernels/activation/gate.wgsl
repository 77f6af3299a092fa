// gate: y = residual + gate * x, element by element; the gate is a column range of a wider matrix (adaLN).
//
//   x        [rows, width]   f32
//   gate     [rows, stride]  f32   columns gate_offset .. gate_offset + width
//   residual [rows, width]   f32
//   y        [rows, width]   f32
//
// size, width, stride and gate_offset are counted in Vecs.
// One invocation a Vec. Grid: ceil(size / 64), folded over y beyond 32768. Peebles, Xie 2023, section 3.2.
requires immediate_address_space;

alias Vec = vec4<f32>;                // f32: sizes that are not multiples of 4

struct Params { size: u32, width: u32, stride: u32, gate_offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<Vec>;
@group(0) @binding(1) var<storage, read> gate: array<Vec>;
@group(0) @binding(2) var<storage, read> residual: array<Vec>;
@group(0) @binding(3) var<storage, read_write> y: array<Vec>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.y * 32768 * 64 + id.x;
  if (i >= params.size) { return; }
  let at = i / params.width * params.stride + params.gate_offset + i % params.width;
  y[i] = residual[i] + gate[at] * x[i];
}
