// depthwise conv2d: y = activation(x * w + bias) + residual, every channel by itself, channels last.
//
//   y[b, p, q, c] = sum_{i, j} x[b, stride p + i - pad_top, stride q + j - pad_left, c] w[i, j, c]
//
//   x        [batch, in_height, in_width, channels]    Elem   zero outside; four channels a vector, or one
//   w        [kernel_height, kernel_width, channels]   f32
//   bias     [channels]                                f32    read when HAS_BIAS
//   residual [batch, out_height, out_width, channels]  f32    read when HAS_RESIDUAL; may not be the buffer of y
//   y        [batch, out_height, out_width, channels]  Out
//
// Epilogue, in this order: + bias; activation (0 none, 2 SiLU, 3 ReLU); + residual. channels counts vectors.
// Neighbours take neighbouring channels of a pixel. Bound by memory: each x is read kernel_height * kernel_width
// times, from the cache for the most part. Any adapter.
// One invocation a vector of y. Grid: ceil(vectors / 64), folded over y beyond 32768.
requires immediate_address_space;

alias Vec = vec4<f32>;  // f32 where channels is no multiple of four
alias In = vec4<f32>;   // Vec's width; f16 in place of f32: storage of x
alias Out = vec4<f32>;  // Vec's width; f16 in place of f32: storage of y

override HAS_BIAS: bool = false;
override ACTIVATION: u32 = 0;
override HAS_RESIDUAL: bool = false;

struct Params {
  batch: u32, in_height: u32, in_width: u32, channels: u32,
  out_height: u32, out_width: u32,
  kernel_height: u32, kernel_width: u32, stride: u32, pad_top: u32, pad_left: u32,
}

@group(0) @binding(0) var<storage, read> x: array<In>;
@group(0) @binding(1) var<storage, read> w: array<Vec>;
@group(0) @binding(2) var<storage, read> bias: array<Vec>;
@group(0) @binding(3) var<storage, read> residual: array<Vec>;
@group(0) @binding(4) var<storage, read_write> y: array<Out>;
var<immediate> params: Params;

fn activate(v: Vec) -> Vec {
  if (ACTIVATION == 2) { return v / (1.0 + exp(-v)); }
  if (ACTIVATION == 3) { return max(v, Vec(0)); }
  return v;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let at = (group.y * 32768 + group.x) * 64 + index;
  let channel = at % params.channels;
  let pixel = at / params.channels;
  let row = pixel / params.out_width;
  let b = row / params.out_height;
  if (b >= params.batch) { return; }
  let corner = vec2u(pixel % params.out_width, row % params.out_height) * params.stride
    - vec2u(params.pad_left, params.pad_top);

  var sum = Vec(0);
  for (var i = 0u; i < params.kernel_height; i++) {
    for (var j = 0u; j < params.kernel_width; j++) {
      let p = corner + vec2u(j, i); // before the first pixel: wraps around, too large
      if (p.x < params.in_width && p.y < params.in_height) {
        let x_at = ((b * params.in_height + p.y) * params.in_width + p.x) * params.channels + channel;
        sum += Vec(x[x_at]) * w[(i * params.kernel_width + j) * params.channels + channel];
      }
    }
  }
  if (HAS_BIAS) { sum += bias[channel]; }
  sum = activate(sum);
  if (HAS_RESIDUAL) { sum += residual[at]; }
  y[at] = Out(sum);
}
