// group norm, reference version: y = (x - mean) / sqrt(var + eps) weight + bias, then SiLU (SILU), channels last; mean
// and variance over the pixels and channels of each group of each image.
//
//   x       [batch, pixels, channels]  In
//   weight  [channels]                 f32
//   bias    [channels]                 f32
//   y       [batch, pixels, channels]  Out
//
// Any sizes; channels a multiple of groups. One invocation a group of an image, two passes over it for the mean and
// the variance about it, then one that writes. Statistics in f32. Grid: ceil(batch * groups / 64).
// For reading and checking; group_norm_partial.wgsl, group_norm_combine.wgsl and group_norm.wgsl do the same in three
// dispatches. Wu, He 2018, equations 1 and 7.
requires immediate_address_space;

alias In = f32;   // f16: storage of x
alias Out = f32;  // f16: storage of y
override SILU: bool = false;

struct Params { batch: u32, pixels: u32, channels: u32, groups: u32, eps: f32 }

@group(0) @binding(0) var<storage, read> x: array<In>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<Out>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.batch * params.groups) { return; }
  let width = params.channels / params.groups;
  let first = id.x % params.groups * width;
  let start = id.x / params.groups * params.pixels * params.channels + first;
  let count = f32(params.pixels * width);

  // Sums of a pixel, then of all pixels, about the first number: small roundings, even of numbers far from zero.
  let shift = f32(x[start]);
  var total = 0.0;
  for (var p = 0u; p < params.pixels; p++) {
    var sum = 0.0;
    for (var c = 0u; c < width; c++) { sum += f32(x[start + p * params.channels + c]) - shift; }
    total += sum;
  }
  let mean = shift + total / count;
  var squares = 0.0;
  for (var p = 0u; p < params.pixels; p++) {
    var sum = 0.0;
    for (var c = 0u; c < width; c++) {
      let d = f32(x[start + p * params.channels + c]) - mean;
      sum += d * d;
    }
    squares += sum;
  }
  let scale = inverseSqrt(squares / count + params.eps);

  for (var p = 0u; p < params.pixels; p++) {
    for (var c = 0u; c < width; c++) {
      let at = start + p * params.channels + c;
      var v = (f32(x[at]) - mean) * scale * weight[first + c] + bias[first + c];
      if (SILU) { v = v / (1.0 + exp(-v)); }
      y[at] = Out(v);
    }
  }
}
