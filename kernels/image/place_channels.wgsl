// place_channels: the channels of x as some of the channels of y, the others as they are: one part of a concatenation.
//
//   y(p, first + c) = x(p, c)
//
//   x  [pixels, channels]      f32; four channels a vector, or one
//   y  [pixels, out_channels]  f32
//
// channels, out_channels and first count vectors. Bound by memory. Any adapter.
// One invocation a vector of x. Grid: ceil(vectors / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;  // f32 where a size is no multiple of four

struct Params { pixels: u32, channels: u32, out_channels: u32, first: u32 }

@group(0) @binding(0) var<storage, read> x: array<Vec>;
@group(0) @binding(1) var<storage, read_write> y: array<Vec>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let at = (group.y * 32768 + group.x) * 64 + index;
  let pixel = at / params.channels;
  if (pixel >= params.pixels) { return; }
  y[pixel * params.out_channels + params.first + at % params.channels] = x[at];
}
