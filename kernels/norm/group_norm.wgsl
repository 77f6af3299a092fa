// group norm, last of three: y = (x - mean) / sqrt(var + eps) weight + bias, then SiLU (SILU), channels last.
//
//   x       [batch, pixels, channels]  In     channels a multiple of four
//   stats   [batch, groups]            vec2f  (mean, 1 / sqrt(var + eps)) of group_norm_combine.wgsl
//   weight  [channels]                 f32
//   bias    [channels]                 f32
//   y       [batch, pixels, channels]  Out
//
// `channels` counts vec4s, `width` the numbers of a group in a pixel, `size` all vec4s of x. Any adapter. One
// invocation a vec4. Grid: ceil(size / 64), folded over y beyond 32768. Wu, He 2018, equations 1 and 7.
requires immediate_address_space;

alias In4 = vec4<f32>;   // vec4<f16>: storage of x
alias Out4 = vec4<f32>;  // vec4<f16>: storage of y

override SILU: bool = false;

struct Params { size: u32, pixels: u32, channels: u32, groups: u32, width: u32 }

@group(0) @binding(0) var<storage, read> x: array<In4>;
@group(0) @binding(1) var<storage, read> stats: array<vec2f>;
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<Out4>;
var<immediate> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let at = (group.y * 32768 + group.x) * 64 + index;
  if (at >= params.size) { return; }
  let channel = at % params.channels;
  let first = at / params.channels / params.pixels * params.groups;
  // A vec4 may lie across groups.
  let groups = first + (channel * 4 + vec4u(0, 1, 2, 3)) / params.width;
  let mean_scale = transpose(mat4x2f(stats[groups.x], stats[groups.y], stats[groups.z], stats[groups.w]));
  var v = (vec4f(x[at]) - mean_scale[0]) * mean_scale[1] * weight[channel] + bias[channel];
  if (SILU) { v = v / (1.0 + exp(-v)); }
  y[at] = Out4(v);
}
