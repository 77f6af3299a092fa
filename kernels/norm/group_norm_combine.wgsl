// group norm, second of three: the statistics of a group from those of its stretches of pixels.
//
//   partial  [batch, stretches, groups]  vec2f  (mean, sum of squared differences from it) of group_norm_partial.wgsl
//   stats    [batch, groups]             vec2f  (mean, 1 / sqrt(var + eps)) over all pixels
//
// With n_i numbers in stretch i, n in all: mean = sum_i n_i mean_i / n and
// var = (sum_i squares_i + sum_i n_i (mean_i - mean)^2) / n (Chan, Golub, LeVeque 1983, for many parts at once).
// A workgroup a group of an image: invocation t takes the stretches t, t + 64, ...; the 64 sums are added by halving,
// always in the same order. Workgroup memory: 256 bytes. Any adapter. Grid: groups x batch.
requires immediate_address_space;

struct Params { pixels: u32, channels: u32, groups: u32, stretch: u32, stretches: u32, eps: f32 }

@group(0) @binding(0) var<storage, read> partial: array<vec2f>;
@group(0) @binding(1) var<storage, read_write> stats: array<vec2f>;
var<immediate> params: Params;

var<workgroup> sums: array<f32, 64>;

fn sum_of_all(index: u32, value: f32) -> f32 {
  sums[index] = value;
  workgroupBarrier();
  for (var half = 32u; half > 0; half /= 2) {
    if (index < half) { sums[index] += sums[index + half]; }
    workgroupBarrier();
  }
  let all = sums[0];
  workgroupBarrier();
  return all;
}

/** Numbers of a stretch that belong to the group. */
fn count(stretch: u32) -> f32 {
  let pixels = min(params.stretch, params.pixels - stretch * params.stretch);
  return f32(pixels * (params.channels / params.groups));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let start = group.y * params.stretches * params.groups + group.x;
  let total = f32(params.pixels * (params.channels / params.groups));

  var sum = 0.0;
  for (var i = index; i < params.stretches; i += 64) { sum += count(i) * partial[start + i * params.groups].x; }
  let mean = sum_of_all(index, sum) / total;

  var squares = 0.0;
  for (var i = index; i < params.stretches; i += 64) {
    let part = partial[start + i * params.groups];
    let d = part.x - mean;
    squares += part.y + count(i) * d * d;
  }
  let variance = sum_of_all(index, squares) / total;
  if (index == 0) { stats[group.y * params.groups + group.x] = vec2f(mean, inverseSqrt(variance + params.eps)); }
}
