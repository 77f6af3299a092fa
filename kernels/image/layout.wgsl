// layout: images between planes and channels last, channels added or dropped, all numbers scaled.
//
//   y(b, p, c) = scale x(b, p, c), zero for the channels that x lacks
//
//   x   [batch, in_channels, pixels] when IN_PLANES, else [batch, pixels, in_channels]     In
//   y   [batch, out_channels, pixels] when OUT_PLANES, else [batch, pixels, out_channels]  Out
//
// Bound by memory; done at the borders of a network only. Any adapter. One invocation a number of y.
// Grid: ceil(size / 64), folded over y beyond 32768; size is that of y.
requires immediate_address_space;

alias In = f32;   // f16: storage of x
alias Out = f32;  // f16: storage of y
override IN_PLANES: bool = false;
override OUT_PLANES: bool = false;

struct Params { size: u32, pixels: u32, in_channels: u32, out_channels: u32, scale: f32 }

@group(0) @binding(0) var<storage, read> x: array<In>;
@group(0) @binding(1) var<storage, read_write> y: array<Out>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let at = (group.y * 32768 + group.x) * 64 + index;
  if (at >= params.size) { return; }
  let b = at / (params.pixels * params.out_channels);
  let rest = at % (params.pixels * params.out_channels);
  let pixel = select(rest / params.out_channels, rest % params.pixels, OUT_PLANES);
  let channel = select(rest % params.out_channels, rest / params.pixels, OUT_PLANES);
  var value = 0.0;
  if (channel < params.in_channels) {
    let x_at = select(pixel * params.in_channels + channel, channel * params.pixels + pixel, IN_PLANES);
    value = params.scale * f32(x[b * params.pixels * params.in_channels + x_at]);
  }
  y[at] = Out(value);
}
