// layernorm backward, row by row: gradients of x and of the modulation.
//
// Equations and operands as in backward_reference.wgsl, bound as vec4s: width, stride and offsets are multiples of 4.
//
// One subgroup a workgroup, one workgroup a row; lane i takes the vec4s i, i + LANES, i + 2 LANES, ...
// No workgroup memory, no barriers. Grid: rows, folded over y beyond 32768.
// For: CPU drivers, where a barrier costs more than a row. Adds to backward.wgsl: sums by subgroupAdd.
requires immediate_address_space;
enable subgroups;

const LANES: u32 = 8;                 // the adapter's subgroup size
override AFFINE: bool = true;
override MODULATE: bool = false;
override ACCUMULATE: bool = false;

struct Params { rows: u32, width: u32, eps: f32, stride: u32, shift_offset: u32, scale_offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> weight: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read> modulation: array<vec4f>;
@group(0) @binding(4) var<storage, read> d_y: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> d_x: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> d_modulation: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> stats: array<vec2f>;
var<immediate> params: Params;

/** d_n of the vec4 of columns i, from d_y there. */
fn gradient(d_y: vec4f, modulation_row: u32, i: u32) -> vec4f {
  var g = d_y;
  if (MODULATE) { g *= 1 + modulation[modulation_row + params.scale_offset / 4 + i]; }
  if (AFFINE) { g *= weight[i]; }
  return g;
}

fn sum_over_row(value: vec4f) -> f32 { return subgroupAdd(dot(value, vec4f(1))); }

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * 32768 + group.x;
  if (row >= params.rows) { return; }
  let quads = params.width / 4;
  let start = row * quads;
  let modulation_row = row * params.stride / 4;
  let width = f32(params.width);

  var total = vec4f(0);
  for (var i = lane; i < quads; i += LANES) { total += x[start + i]; }
  let mean = sum_over_row(total) / width;
  var squares = vec4f(0);
  for (var i = lane; i < quads; i += LANES) {
    let d = x[start + i] - mean;
    squares += d * d;
  }
  let r = inverseSqrt(sum_over_row(squares) / width + params.eps);

  var sums = vec4f(0);
  var products = vec4f(0);
  for (var i = lane; i < quads; i += LANES) {
    let d_n = gradient(d_y[start + i], modulation_row, i);
    sums += d_n;
    products += d_n * (x[start + i] - mean);
  }
  let sum = sum_over_row(sums) / width;
  let product = sum_over_row(products) / width * r;

  for (var i = lane; i < quads; i += LANES) {
    let n = (x[start + i] - mean) * r;
    let g = d_y[start + i];
    var value = r * (gradient(g, modulation_row, i) - sum - n * product);
    if (ACCUMULATE) { value += d_x[start + i]; }
    d_x[start + i] = value;
    if (MODULATE) {
      var u = n;
      if (AFFINE) { u = n * weight[i] + bias[i]; }
      d_modulation[modulation_row + params.shift_offset / 4 + i] = g;
      d_modulation[modulation_row + params.scale_offset / 4 + i] = g * u;
    }
  }
  if (AFFINE && lane == 0) { stats[row] = vec2f(mean, r); }
}
