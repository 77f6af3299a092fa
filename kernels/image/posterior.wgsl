// posterior: a latent drawn from the diagonal Gaussian that an autoencoder's encoder describes, or its mean.
//
//   y = scale (mean + exp(logvar / 2) noise), logvar clamped to [-30, 20]; without NOISE y = scale mean
//
//   moments [rows, 2 channels]  f32   mean in the first channels, log variance in the others
//   noise   [rows, channels]    f32   standard normal; read when NOISE
//   y       [rows, channels]    f32
//
// Any adapter. One invocation a number of y. Grid: ceil(rows * channels / 64), folded over y beyond 32768.
// models/vae.py of the official code, DiagonalGaussianDistribution; Kingma, Welling 2014, section 3.
requires immediate_address_space;

override NOISE: bool = true;

struct Params { rows: u32, channels: u32, scale: f32 }

@group(0) @binding(0) var<storage, read> moments: array<f32>;
@group(0) @binding(1) var<storage, read> noise: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let at = (group.y * 32768 + group.x) * 64 + index;
  if (at >= params.rows * params.channels) { return; }
  let mean_at = at + at / params.channels * params.channels;
  var value = moments[mean_at];
  if (NOISE) { value += exp(0.5 * clamp(moments[mean_at + params.channels], -30.0, 20.0)) * noise[at]; }
  y[at] = params.scale * value;
}
