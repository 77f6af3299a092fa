// pool: the mean or the largest of a window of pixels, channels last.
//
//   y(b, p, q, c) = max or mean over i, j of x(b, stride p + i - pad, stride q + j - pad, c)
//
//   x  [batch, in_height, in_width, channels]    f32; four channels a vector, or one; what lies outside is left out,
//   y  [batch, out_height, out_width, channels]  f32  of the mean's count too
//
// Sums go row by row of the window, so that the mean of a whole image keeps its precision. channels counts vectors.
// Bound by memory; neighbours take neighbouring channels of a pixel. Any adapter.
// One invocation a vector of y. Grid: ceil(vectors / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;  // f32 where channels is no multiple of four

override MAXIMUM: bool = false;

struct Params {
  batch: u32, in_height: u32, in_width: u32, channels: u32,
  out_height: u32, out_width: u32,
  window_height: u32, window_width: u32, stride: u32, pad: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Vec>;
@group(0) @binding(1) var<storage, read_write> y: array<Vec>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let at = (group.y * 32768 + group.x) * 64 + index;
  let channel = at % params.channels;
  let pixel = at / params.channels;
  let row = pixel / params.out_width;
  let b = row / params.out_height;
  if (b >= params.batch) { return; }
  let first = vec2u(row % params.out_height, pixel % params.out_width) * params.stride;
  let low = max(first, vec2u(params.pad)) - params.pad;
  let window = vec2u(params.window_height, params.window_width);
  let high = min(first + window - params.pad, vec2u(params.in_height, params.in_width));

  let image = b * params.in_height;
  var largest = x[((image + low.x) * params.in_width + low.y) * params.channels + channel];
  var sum = Vec(0);
  for (var i = low.x; i < high.x; i++) {
    var line = Vec(0);
    for (var j = low.y; j < high.y; j++) {
      let value = x[((image + i) * params.in_width + j) * params.channels + channel];
      line += value;
      largest = max(largest, value);
    }
    sum += line;
  }
  let count = (high.x - low.x) * (high.y - low.y);
  if (MAXIMUM) { y[at] = largest; } else { y[at] = sum / f32(count); }
}
