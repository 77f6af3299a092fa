// layernorm: y = (x - mean(x)) / sqrt(var(x) + eps), times weight plus bias (AFFINE), then the adaptive
// modulation y (1 + scale) + shift (MODULATE), over each row.
//
//   x          [rows, width]         f32   row-major, width a multiple of 4
//   weight     [width]               f32   read when AFFINE
//   bias       [width]               f32   read when AFFINE
//   modulation [rows, stride]        Mod   read when MODULATE: shift at shift_offset, scale at scale_offset
//   y          [rows, width]         Elem
//
// One subgroup a workgroup, one workgroup a row; lane i takes the vec4s i, i + LANES, i + 2 LANES, ...
// Two passes over the row: the mean, then the variance about it (no cancellation).
// Statistics in f32. No workgroup memory, no barriers. Grid: rows, folded over y beyond 32768.
// For: CPU drivers, where a barrier costs more than a row. Adds to layernorm.wgsl: sums by subgroupAdd.
// Ba, Kiros, Hinton 2016, equations 3-4; modulation: Peebles, Xie 2023, section 3.2 (adaLN).
requires immediate_address_space;
enable subgroups;

alias Elem4 = vec4<f32>;              // vec4<f16>: storage of y
alias Mod4 = vec4<f32>;               // vec4<f16>: storage of modulation
const LANES: u32 = 8;                 // the adapter's subgroup size
override AFFINE: bool = true;
override MODULATE: bool = false;

struct Params { rows: u32, width: u32, eps: f32, stride: u32, shift_offset: u32, scale_offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> weight: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read> modulation: array<Mod4>;
@group(0) @binding(4) var<storage, read_write> y: array<Elem4>;
var<immediate> params: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * 32768 + group.x;
  if (row >= params.rows) { return; }
  let quads = params.width / 4;
  let start = row * quads;

  var total = vec4f(0);
  for (var i = lane; i < quads; i += LANES) { total += x[start + i]; }
  let mean = subgroupAdd(dot(total, vec4f(1))) / f32(params.width);

  var squares = vec4f(0);
  for (var i = lane; i < quads; i += LANES) {
    let d = x[start + i] - mean;
    squares += d * d;
  }
  let scale = inverseSqrt(subgroupAdd(dot(squares, vec4f(1))) / f32(params.width) + params.eps);

  let modulation_row = row * params.stride / 4;
  for (var i = lane; i < quads; i += LANES) {
    var normal = (x[start + i] - mean) * scale;
    if (AFFINE) { normal = normal * weight[i] + bias[i]; }
    if (MODULATE) {
      let at = modulation_row + i;
      normal = normal * (1 + vec4f(modulation[at + params.scale_offset / 4])) + vec4f(modulation[at + params.shift_offset / 4]);
    }
    y[start + i] = Elem4(normal);
  }
}
