// layernorm backward (reference), row by row: gradients of x and of the modulation.
//
// With n = (x - mean) r, r = 1 / sqrt(var + eps), u = n weight + bias, y = u (1 + scale) + shift and g = d_y:
//   d_shift = g    d_scale = g u    d_n = g (1 + scale) weight    d_x = r (d_n - mean(d_n) - n mean(d_n n))
//
//   x, d_y       [rows, width]   f32
//   weight, bias [width]         f32   read when AFFINE
//   modulation   [rows, stride]  f32   read when MODULATE: scale at scale_offset
//   d_x          [rows, width]   f32   written, added to when ACCUMULATE (the residual stream)
//   d_modulation [rows, stride]  f32   written when MODULATE, at shift_offset and scale_offset; the rest stays
//   stats        [rows, 2]       f32   mean and r, for backward_weights.wgsl, when AFFINE
//
// Any width. One invocation a row: for reading, checking and odd widths. Grid: ceil(rows / 64).
// Siblings: backward.wgsl (GPUs), backward_subgroup.wgsl (CPU drivers).
requires immediate_address_space;

override AFFINE: bool = true;
override MODULATE: bool = false;
override ACCUMULATE: bool = false;

struct Params { rows: u32, width: u32, eps: f32, stride: u32, shift_offset: u32, scale_offset: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> modulation: array<f32>;
@group(0) @binding(4) var<storage, read> d_y: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_x: array<f32>;
@group(0) @binding(6) var<storage, read_write> d_modulation: array<f32>;
@group(0) @binding(7) var<storage, read_write> stats: array<vec2f>;
var<immediate> params: Params;

/** d_n of column i. */
fn gradient(row: u32, i: u32) -> f32 {
  var g = d_y[row * params.width + i];
  if (MODULATE) { g *= 1 + modulation[row * params.stride + params.scale_offset + i]; }
  if (AFFINE) { g *= weight[i]; }
  return g;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.x;
  if (row >= params.rows) { return; }
  let start = row * params.width;
  let width = f32(params.width);

  var total = 0.0;
  for (var i = 0u; i < params.width; i++) { total += x[start + i]; }
  let mean = total / width;
  var squares = 0.0;
  for (var i = 0u; i < params.width; i++) {
    let d = x[start + i] - mean;
    squares += d * d;
  }
  let r = inverseSqrt(squares / width + params.eps);

  var sum = 0.0;
  var product = 0.0;
  for (var i = 0u; i < params.width; i++) {
    let d_n = gradient(row, i);
    sum += d_n;
    product += d_n * (x[start + i] - mean) * r;
  }

  for (var i = 0u; i < params.width; i++) {
    let n = (x[start + i] - mean) * r;
    var value = r * (gradient(row, i) - sum / width - n * (product / width));
    if (ACCUMULATE) { value += d_x[start + i]; }
    d_x[start + i] = value;
    if (MODULATE) {
      var u = n;
      if (AFFINE) { u = n * weight[i] + bias[i]; }
      let at = row * params.stride + i;
      d_modulation[at + params.shift_offset] = d_y[start + i];
      d_modulation[at + params.scale_offset] = d_y[start + i] * u;
    }
  }
  if (AFFINE) { stats[row] = vec2f(mean, r); }
}
